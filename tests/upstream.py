"""A scripted Speech-to-Text for tests: a real gRPC server of v1 and v2 that says what it heard, byte by byte.

`hears_bytes` is its usual script: a final for every so many bytes whose text is the range of bytes that it covers, so
that what was finalised can be compared with what was said.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from google.cloud.speech_v1.types import cloud_speech as v1
from google.cloud.speech_v2.types import cloud_speech as v2

BYTES_PER_SECOND = 32_000
"""16 kHz LINEAR16, which every test of this upstream speaks."""


@dataclass
class Call:
    """One streaming_recognize as the server sees it."""

    api: str
    config: Any
    """The first request, raw protobuf."""
    context: Any
    requests: AsyncIterator[Any]
    audio: bytearray = field(default_factory=bytearray)
    chunks: list[int] = field(default_factory=list)
    half_closed: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def hear(self) -> AsyncIterator[bytes]:
        """Every chunk of audio until the half-close."""
        async for request in self.requests:
            chunk = request.audio if self.api == "v2" else request.audio_content
            assert chunk, "an empty chunk is a protocol error at Google"
            self.audio += chunk
            self.chunks.append(len(chunk))
            yield chunk
        self.half_closed = True

    def final(self, text: str, end: int, *, channel: int = 0, **more: Any) -> Any:
        """A final result that ends after `end` bytes of this call's audio."""
        return self._response([{"alternatives": [{"transcript": text, **more}], "is_final": True}], end, channel)

    def interim(self, *texts: str, end: int, stability: float = 0.1) -> Any:
        return self._response([{"alternatives": [{"transcript": t}], "stability": stability} for t in texts], end, 0)

    def activity(self, kind: int, at: int) -> Any:
        """`kind`: 2 speech begins, 3 speech ends, 4 (v1) the timeout."""
        seconds = duration(at)
        if self.api == "v2":
            return v2.StreamingRecognizeResponse.pb()(speech_event_type=kind, speech_event_offset=seconds)
        return v1.StreamingRecognizeResponse.pb()(speech_event_type=kind, speech_event_time=seconds)

    def billed(self, seconds: int) -> Any:
        if self.api == "v2":
            return v2.StreamingRecognizeResponse.pb()(metadata={"total_billed_duration": {"seconds": seconds}})
        return v1.StreamingRecognizeResponse.pb()(total_billed_time={"seconds": seconds})

    def _response(self, results: list[dict[str, Any]], end: int, channel: int) -> Any:
        name = "result_end_offset" if self.api == "v2" else "result_end_time"
        for result in results:
            result |= {name: duration(end), "language_code": "en-us", "channel_tag": channel}
        types = v2 if self.api == "v2" else v1
        return types.StreamingRecognizeResponse.pb()(results=results)


Script = Callable[[Call], AsyncIterator[Any]]


def hears_bytes(every: int = BYTES_PER_SECOND) -> Script:
    """A final for every `every` bytes and one for the rest at the half-close, then the bill."""

    async def script(call: Call) -> AsyncIterator[Any]:
        done = 0
        async for _ in call.hear():
            while len(call.audio) - done >= every:
                yield call.final(f"{done}-{done + every}", done + every)
                done += every
        if len(call.audio) > done:
            yield call.final(f"{done}-{len(call.audio)}", len(call.audio))
        yield call.billed(-(-len(call.audio) // BYTES_PER_SECOND))

    return script


def refuses(code: grpc.StatusCode, text: str) -> Script:
    """Ends the call with a status as soon as its config is there."""

    async def script(call: Call) -> AsyncIterator[Any]:
        await call.context.abort(code, text)
        yield  # pragma: no cover - makes this a generator

    return script


class ScriptedUpstream:
    """`async with ScriptedUpstream() as upstream: ... upstream.address`. `script` may be changed at any time."""

    def __init__(
        self,
        script: Script | None = None,
        max_streams: int = 100,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.script = script or hears_bytes()
        self.calls: list[Call] = []
        self.address = ""
        self._port = port
        self._credentials = credentials
        options = [("grpc.max_concurrent_streams", max_streams), ("grpc.http2.bdp_probe", 0)]
        """Its flow-control windows stay as they are: what may be on its way does not depend on the machine's speed."""
        self._server = grpc.aio.server(options=options)
        self._called = asyncio.Condition()

    async def __aenter__(self) -> Self:
        for api, types in (("v1", v1), ("v2", v2)):
            method = grpc.stream_stream_rpc_method_handler(
                self._handler(api),
                types.StreamingRecognizeRequest.pb().FromString,
                types.StreamingRecognizeResponse.pb().SerializeToString,
            )
            service = f"google.cloud.speech.{api}.Speech"
            handler = grpc.method_handlers_generic_handler(service, {"StreamingRecognize": method})
            self._server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self._open(f'127.0.0.1:{self._port}')}"
        await self._server.start()
        return self

    def _open(self, address: str) -> int:
        if self._credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, self._credentials)

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    @property
    def open_calls(self) -> int:
        return sum(not call.ended.is_set() for call in self.calls)

    async def called(self, times: int) -> Call:
        """Waits for the call with this number, counted from 1."""
        async with self._called:
            await self._called.wait_for(lambda: len(self.calls) >= times)
        return self.calls[times - 1]

    def _handler(self, api: str) -> Callable[[AsyncIterator[Any], Any], AsyncIterator[Any]]:
        async def handle(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            config = await anext(requests)
            call = Call(api, config, context, requests)
            async with self._called:
                self.calls.append(call)
                self._called.notify_all()
            try:
                async for response in self.script(call):
                    yield response
            finally:
                call.ended.set()

        return handle


def duration(count: int) -> dict[str, int]:
    """Bytes as a protobuf Duration."""
    nanos = count * 1_000_000_000 // BYTES_PER_SECOND
    return {"seconds": nanos // 1_000_000_000, "nanos": nanos % 1_000_000_000}
