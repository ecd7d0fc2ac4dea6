"""A gateway that follows a script: real sockets, and every word of it decided by the test."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol


class Peer:
    """The gateway's end of one session."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.audio = bytearray()
        self.frames: list[int] = []
        """Sizes of the binary frames."""

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def hear(self) -> dict[str, Any] | bytes:
        """The next frame: what was said, or audio."""
        frame = await self.socket.recv()
        if isinstance(frame, str):
            said: dict[str, Any] = json.loads(frame)
            return said
        self.audio += frame
        self.frames.append(len(frame))
        return frame

    async def hear_audio(self, size: int) -> None:
        """Until `size` bytes of audio have come since the start. Anything else is a failure."""
        while len(self.audio) < size:
            frame = await self.hear()
            assert isinstance(frame, bytes), f"{frame} instead of audio"

    async def hear_until(self, kind: str) -> dict[str, Any]:
        """The next message of this kind; audio before it is collected."""
        while True:
            frame = await self.hear()
            if isinstance(frame, dict) and frame["type"] == kind:
                return frame

    async def begin(self, window: int = 1_000_000, max_frame: int = 65_536) -> dict[str, Any]:
        """Hear `start`, answer `started`."""
        start = await self.hear()
        assert isinstance(start, dict), "audio before start"
        assert start["type"] == "start"
        config = {name: value for name, value in start.items() if name not in {"type", "client"}}
        await self.started(config, window, max_frame)
        return start

    async def started(
        self, config: dict[str, Any] | None = None, window: int = 1_000_000, max_frame: int = 65_536
    ) -> None:
        limits = {
            "max_frame_bytes": max_frame,
            "window_bytes": window,
            "idle_timeout_ms": 60_000,
            "max_session_ms": 3_600_000,
        }
        known = {"session_id": "s1", "resume_token": "r1", "resume_window_ms": 0, "config": config or {}}
        await self.say("started", **known, limits=limits)

    async def accept(self, session_id: str = "s1", resume_token: str = "r1") -> dict[str, Any]:
        """As `begin`; the session can be resumed."""
        start = await self.hear()
        assert isinstance(start, dict)
        assert start["type"] == "start", start
        limits = {"max_frame_bytes": 65_536, "window_bytes": 1_000_000, "idle_timeout_ms": 60_000}
        config = {name: value for name, value in start.items() if name not in {"type", "client"}}
        ids = {"session_id": session_id, "resume_token": resume_token, "resume_window_ms": 60_000}
        await self.say("started", **ids, config=config, limits=limits | {"max_session_ms": 3_600_000})
        return start

    async def resume(self) -> dict[str, Any]:
        """Hear `resume`."""
        resume = await self.hear()
        assert isinstance(resume, dict)
        assert resume["type"] == "resume", resume
        return resume

    async def resumed(self, offset: int, resume_token: str = "r2", replayed: int = 0) -> None:
        await self.say("resumed", offset=offset, resume_token=resume_token, replayed=replayed)

    async def cut(self) -> None:
        """The connection breaks; what was said before has arrived."""
        await (await self.socket.ping())
        self.socket.transport.abort()

    async def fail(self, close_code: int, code: str, message: str = "m", **more: Any) -> None:
        """`error`, then the close."""
        await self.say("error", code=code, message=message, **({"retryable": False} | more))
        await self.socket.close(close_code)

    async def ack(self, final: int, window: int = 1_000_000) -> None:
        await self.say("ack", received=len(self.audio), final=final, window=window)

    async def interim(self, text: str, channel: int = 0) -> None:
        await self.say(
            "interim", text=text, start_ms=0, end_ms=500, stability=0.5, language_code="en-US", channel=channel
        )

    async def final(self, event: int, text: str, start_ms: int = 0, end_ms: int = 1000, **more: Any) -> None:
        await self.say(
            "final",
            event=event,
            text=text,
            start_ms=start_ms,
            end_ms=end_ms,
            confidence=0.9,
            language_code="en-US",
            channel=0,
            **more,
        )

    async def stopped(self, event: int, **other: int) -> None:
        counts = {"audio_ms": 1, "billed_ms": 1, "finals": 1, "gap_ms": 0, "upstream_streams": 1, "resumes": 0}
        await self.say("stopped", event=event, **(counts | other))


Script = Callable[[Peer], Awaitable[None]]


def in_turn(*scripts: Script) -> Script:
    """One script for each connection."""
    left = list(scripts)

    async def script(peer: Peer) -> None:
        assert left, "one connection too many"
        await left.pop(0)(peer)

    return script


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    """Yields the URL. What fails in the script fails the test: a client that comes back is then refused for good."""
    failures: list[BaseException] = []

    async def session(socket: ServerConnection) -> None:
        try:
            await script(Peer(socket))
        except Exception as exc:
            failures.append(exc)

    def refuse(socket: ServerConnection, _: Request) -> Response | None:
        return socket.respond(HTTPStatus.FORBIDDEN, "the script has failed") if failures else None

    options: dict[str, Any] = {"subprotocols": [Subprotocol("stt.v1")], "compression": None}
    try:
        async with serve(session, "127.0.0.1", 0, process_request=refuse, **options) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws/transcribe"
    finally:
        if failures:
            raise failures[0]


@asynccontextmanager
async def refusing(status: int, body: str, **headers: str) -> AsyncIterator[str]:
    """A server that refuses the upgrade."""

    async def refuse(_: ServerConnection, request: Request) -> Response:
        phrase = HTTPStatus(status).phrase
        fields = Headers({name.replace("_", "-"): value for name, value in headers.items()})
        fields["Content-Length"] = str(len(body))
        return Response(status, phrase, fields, body.encode())

    async def never(socket: ServerConnection) -> None:
        raise AssertionError("this upgrade should have been refused")

    async with serve(never, "127.0.0.1", 0, process_request=refuse) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws/transcribe"
