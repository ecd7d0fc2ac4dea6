"""The floor: a bare relay without features. uvicorn's raw ASGI and grpc.aio, bytes in and out, no protobuf objects.

What it cannot do is all that a gateway is for: nothing is kept, nothing is acknowledged, nothing goes on when a stream
ends. Chunks of 100 ms, as ours.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.cloud.speech_v2.types import cloud_speech as v2

from bench.speed.candidate import METHOD, Channels, config_request, serve

CHUNK_BYTES = 3200
_HEAD = b"\x2a\x80\x19"
"""Of a StreamingRecognizeRequest: field 5, `audio`, 3,200 bytes."""


class Floor:
    """An ASGI application."""

    def __init__(self, upstream: str) -> None:
        self._channels = Channels(upstream, self.channel)
        self._config = v2.StreamingRecognizeRequest.serialize(config_request())

    def channel(self, target: str, options: Any) -> Any:
        return grpc.aio.insecure_channel(target, options)

    def call(self, channel: Any, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """One stream: its responses."""
        responses: AsyncIterator[bytes] = channel.stream_stream(METHOD)(requests)  # bytes, without serializers
        return responses

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":  # it is ready
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body"})
        elif scope["type"] == "websocket":
            await self._serve(receive, send)

    async def _serve(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()  # `start`
        await send({"type": "websocket.send", "text": '{"type":"started"}'})
        with self._channels.one() as channel:
            await self._relay(channel, receive, send)

    async def _relay(self, channel: Any, receive: Any, send: Any) -> None:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(64)

        async def requests() -> AsyncIterator[bytes]:
            yield self._config
            while (chunk := await queue.get()) is not None:
                yield _HEAD + chunk

        async def captions() -> None:
            async for response in self.call(channel, requests()):
                await send({"type": "websocket.send", "bytes": response})

        back = asyncio.create_task(captions())
        gathered = bytearray()
        while (message := await receive())["type"] == "websocket.receive":
            gathered += message.get("bytes") or b""
            while len(gathered) >= CHUNK_BYTES:
                await queue.put(bytes(gathered[:CHUNK_BYTES]))
                del gathered[:CHUNK_BYTES]
        back.cancel()


if __name__ == "__main__":
    serve(Floor)
