"""The floor once more, over a gRPC channel in pure asyncio (grpclib, which has h2 under it) instead of grpc.aio and its
C core. An experiment: docs/performance.md has its verdict.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpclib.client import Channel
from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase

from bench.speed.candidate import METHOD, serve
from bench.speed.floor import Floor


class Bytes(CodecBase):
    """What is said is serialized already."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002 - the library's signature
        encoded: bytes = message
        return encoded

    def decode(self, data: bytes, message_type: Any) -> bytes:  # noqa: ARG002 - the library's signature
        return data


class PureFloor(Floor):
    def channel(self, target: str, options: Any) -> Channel:  # noqa: ARG002 - gRPC's own
        host, _, port = target.rpartition(":")
        return Channel(host, int(port), codec=Bytes())

    async def call(self, channel: Channel, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async with channel.request(METHOD, Cardinality.STREAM_STREAM, bytes, bytes) as stream:
            await stream.send_request()
            up = asyncio.create_task(_send(stream, requests))
            async for response in stream:
                yield response
            up.cancel()


async def _send(stream: Any, requests: AsyncIterator[bytes]) -> None:
    async for request in requests:
        await stream.send_message(request)


if __name__ == "__main__":
    serve(PureFloor)
