"""HTTP by hand, for what no library would send."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.gateway import Gateway

HOST = b"Host: gateway\r\n"
UPGRADE = (
    HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def get(target: bytes = b"/healthz", headers: bytes = HOST) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + headers + b"\r\n"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """It has the shape of the protocol's `error`."""
        told = json.loads(self.body)
        assert set(told) == {"error"}
        assert told["error"]["code"] == f"http_{self.status}"
        error: dict[str, Any] = told["error"]
        return error


class Peer:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def connect(cls, gateway: Gateway) -> AsyncIterator["Peer"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def answer(self) -> Answer:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(status.split()[1]), headers, body)

    async def last_answer(self) -> Answer:
        """After it the gateway closes, in good order."""
        answer = await self.answer()
        assert await self.reader.read() == b""
        return answer

    async def trickle(self, says: bytes) -> None:
        """Byte after byte, and again, until nobody takes them."""
        with suppress(ConnectionError):
            while not self.reader.at_eof():
                for byte in says:
                    self.writer.write(bytes([byte]))
                    await asyncio.sleep(0.01)


async def ask(gateway: Gateway, says: bytes) -> Answer:
    async with Peer.connect(gateway) as peer:
        peer.writer.write(says)
        return await peer.answer()
