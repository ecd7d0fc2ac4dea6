"""`python -m bench.speed.load PORT SESSIONS FRAME_MS ENCODING [KEY]`: so many clients that speak at real time.

It says when all of them speak. On `begin` it forgets what it has measured, on `report` it tells: how long each caption
was on its way, how late frames left (its own fault), and what went wrong. On `stop` it leaves.

WebSockets as much as a client needs of them (RFC 6455), by hand, masked with zeros: that leaves the machine to those
who are measured.
"""

import asyncio
import base64
import json
import sys
from dataclasses import dataclass, field
from typing import Any

import uvloop

from bench.helpers import Tool, serve_tool
from bench.speed.frames import HEAD, now, stamps_of
from tests.gateway import START
from tests.upstream import BYTES_PER_SECOND

AT_A_TIME = 20
"""Sessions that begin at once."""
OPEN_SECONDS = 30.0
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PATH = "/ws/transcribe"


def wire(kind: int, payload: bytes) -> bytes:
    """One frame of a client."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | kind, 0x80 | size))
    elif size < 65_536:
        head = bytes((0x80 | kind, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | kind, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


@dataclass
class Measured:
    """Since it was asked to begin. Nanoseconds."""

    delays: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)


class Client(asyncio.Protocol):
    """One session."""

    def __init__(self, number: int, load: "Load") -> None:
        self._number = number
        self._load = load
        self._frame = 0
        self._due = 0.0
        self._pending = bytearray()
        self._upgraded = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Any = None
        self.started = asyncio.get_running_loop().create_future()
        """It was answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._load.upgrade)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.started.done():
            self.started.set_exception(ConnectionError(f"session {self._number} was closed at once: {self._pending!r}"))
        elif not self._load.leaving:
            self._load.wrong.append(f"session {self._number} was closed: {exc}")

    def data_received(self, data: bytes) -> None:
        pending = self._pending
        pending += data
        if not self._upgraded:
            head, found, rest = bytes(pending).partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self._transport.abort()
                return
            self._upgraded = True
            pending[:] = rest
            self._transport.write(wire(TEXT, json.dumps(START).encode()))
        while message := self._message():
            self._take(*message)

    def _message(self) -> tuple[int, bytes] | None:
        """The next frame of the server's, if it is there."""
        pending, at = self._pending, 2
        if len(pending) < 2:
            return None
        size = pending[1]
        if size >= 126:
            at += 2 if size == 126 else 8
            size = int.from_bytes(pending[2:at], "big")
        if len(pending) < at + size:
            return None
        kind, payload = pending[0] & 15, bytes(pending[at : at + size])
        del pending[: at + size]
        return kind, payload

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == PING:
            self._transport.write(wire(PONG, payload))
        elif kind in {TEXT, BINARY}:
            if not self.started.done():
                self.started.set_result(payload)
            at = now()
            self._load.measured.delays += [at - stamp for stamp in stamps_of(payload)]
            if b'"error"' in payload:
                self._load.wrong.append(payload.decode())

    def speak(self) -> None:
        """From now on: its first frame within the time of one, so that not all come at once."""
        loop, seconds = asyncio.get_running_loop(), self._load.frame_seconds
        self._due = loop.time() + seconds * (self._number % self._load.sessions) / self._load.sessions
        self._timer = loop.call_at(self._due, self._say)

    def _say(self) -> None:
        load, loop = self._load, asyncio.get_running_loop()
        load.measured.late.append(round((loop.time() - self._due) * 1e9))
        audio = HEAD.pack(now(), self._number, self._frame) + load.silence
        self._transport.write(load.wrap(audio))
        self._frame += 1
        self._due += load.frame_seconds
        self._timer = loop.call_at(self._due, self._say)

    def leave(self) -> None:
        self._transport.write(wire(TEXT, b'{"type": "stop"}'))
        self._transport.abort()


class Load(Tool):
    def __init__(self, port: int, sessions: int, frame_ms: int, encoding: str, key: str = "") -> None:
        self.sessions = sessions
        self.frame_seconds = frame_ms / 1000
        self.silence = bytes(BYTES_PER_SECOND * frame_ms // 1000 - HEAD.size)
        self.wrap = _as_json if encoding == "base64" else _as_binary
        self.measured = Measured()
        self.wrong: list[str] = []
        self.leaving = False
        credential = f"Authorization: Bearer {key}\r\n" if key else ""
        self.upgrade = (
            f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n{credential}\r\n"
        ).encode()
        self._port = port
        self._clients: list[Client] = []

    async def start(self) -> str:
        for first in range(0, self.sessions, AT_A_TIME):
            numbers = range(first, min(first + AT_A_TIME, self.sessions))
            self._clients += await asyncio.gather(*[self._begin(number) for number in numbers])
        return "speaking"

    async def obey(self, command: str) -> Any:
        if command == "begin":
            self.measured = Measured()
            return None
        if command == "stop":
            self.leaving = True
            for client in self._clients:
                client.leave()
            return None
        seen = self.measured
        return {"delays": seen.delays, "late": seen.late, "wrong": self.wrong}

    async def _begin(self, number: int) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Client(number, self), "127.0.0.1", self._port)
        async with asyncio.timeout(OPEN_SECONDS):
            await client.started
        client.speak()
        return client


def _as_binary(audio: bytes) -> bytes:
    return wire(BINARY, audio)


def _as_json(audio: bytes) -> bytes:
    return wire(TEXT, b'{"type":"audio","content":"%b"}' % base64.b64encode(audio))


def main() -> None:
    port, sessions, frame_ms, encoding, *key = sys.argv[1:]
    uvloop.run(serve_tool(Load(int(port), int(sessions), int(frame_ms), encoding, *key)))


if __name__ == "__main__":
    main()
