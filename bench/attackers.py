"""`python -m bench.attackers NAME PORT KEY`: somebody who does one thing as fast as they can, until they are killed.

One process, which runs where the machine has nothing else to do: it is to take the gateway's time, not the machine's.
`KEY` is the credential of those that have one. What a limit does to them is of no interest here: refused, they come
again.
"""

import asyncio
import json
import os
import resource
import secrets
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import uvloop

from tests.fuzz.frames import wire
from tests.gateway import START
from tests.raw import HOST, UPGRADE

ADDRESS = "127.0.0.2"
"""Its own, as an attacker has in the world."""
AT_ONCE = 4
"""Connections on which they do it."""
MANY = 64 * 1024
"""Bytes that are written at once, of what is small."""
SPARE_FILES = 200
HALF_OPEN = 2000
"""As many as the gateway (500) and the kernel's queue (2,048) hold. What comes beyond is dropped by the kernel and sent
again, thousands in one moment: work of the attacker's, which would stop this machine for 20 ms."""
TRICKLES = 400


def text(message: object) -> bytes:
    return wire(0x81, json.dumps(message).encode())


BEGIN = text(START)


@dataclass
class Attacker:
    port: int
    key: str
    half_open: int = HALF_OPEN
    """Connections at most."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(ADDRESS, 0))

    async def upgrade(self, more: bytes | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """`more`: the headers of the credential. Raises ConnectionError where it is refused."""
        reader, writer = await self.connect()
        credential = f"Authorization: Bearer {self.key}\r\n".encode() if more is None else more
        try:
            writer.write(b"GET /ws/transcribe HTTP/1.1\r\n" + UPGRADE + credential + b"\r\n")
            if b" 101 " not in await reader.readline():
                raise ConnectionRefusedError
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    async def flood(self, frames: bytes, *, begins: bool = True, reads: bool = True) -> None:
        """The same again and again, on a WebSocket."""
        reader, writer = await self.upgrade()
        swallowing = asyncio.create_task(_swallow(reader)) if reads else None
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            writer.write(BEGIN if begins else b"")
            while not writer.is_closing():
                writer.write(frames)
                await writer.drain()
        finally:
            if swallowing:
                swallowing.cancel()
            writer.transport.abort()

    async def come_and_say(self, says: bytes, more: bytes | None = None) -> None:
        """A new WebSocket each time, until it is answered."""
        reader, writer = await self.upgrade(more)
        try:
            writer.write(says)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await reader.readuntil(b'"type":')
        finally:
            writer.transport.abort()

    async def ask(self, request: bytes) -> None:
        """HTTP, again and again on one connection."""
        reader, writer = await self.connect()
        try:
            while True:
                writer.write(request)
                await _answer(reader)
        finally:
            writer.transport.abort()


async def _swallow(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(MANY):
            pass


async def _answer(reader: asyncio.StreamReader) -> None:
    """Raises ConnectionError or IncompleteReadError where the connection has ended."""
    head = await reader.readuntil(b"\r\n\r\n")
    _, found, size = head.lower().partition(b"content-length:")
    if found:
        await reader.readexactly(int(size.split()[0]))


def over_and_over(frame: bytes) -> bytes:
    return frame * max(1, MANY // len(frame))


def get(path: str, more: bytes = b"") -> bytes:
    return f"GET {path} HTTP/1.1\r\n".encode() + HOST + more + b"\r\n"


def post(path: str, body: bytes, key: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n" + HOST + b"\r\n" + body


def wrong_bearer() -> bytes:
    return f"Authorization: Bearer {secrets.token_urlsafe(32)}\r\n".encode()


def guess() -> bytes:
    token = secrets.token_urlsafe(32)
    return text({"type": "resume", "session_id": token[:16], "resume_token": token, "last_event": 0})


async def hold_half_open(attacker: Attacker, says: bytes) -> None:
    """As many as there are file descriptors for; who is closed comes again."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(attacker.half_open, most - SPARE_FILES) // AT_ONCE
    await asyncio.gather(*[forever(lambda: _wait(attacker, says)) for _ in range(count)])


async def _wait(attacker: Attacker, says: bytes) -> None:
    reader, writer = await attacker.connect()
    writer.write(says)
    try:
        await reader.read()
    finally:
        writer.transport.abort()


async def trickle(attacker: Attacker, says: bytes) -> None:
    await asyncio.gather(*[forever(lambda: _trickle(attacker, says)) for _ in range(TRICKLES // AT_ONCE)])


async def _trickle(attacker: Attacker, says: bytes) -> None:
    _, writer = await attacker.connect()
    try:
        for byte in says:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
    finally:
        writer.transport.abort()


Way = Callable[[Attacker], Awaitable[None]]
SLOW_HEAD = b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 1000
SLOW_BODY = b"POST /tokens HTTP/1.1\r\nContent-Length: 5000\r\n" + HOST + b"\r\n" + b"x" * 5000
GIANT = wire(0x81, b'{"type": "start", "phrases": [' + b'{"value": "a"},' * 8000 + b"]}")
DEEP = wire(0x81, b'{"type": "start", "audio": ' + b"[" * 60_000 + b"]" * 60_000 + b"}")
WAYS: dict[str, Way] = {
    "nobody": lambda _: asyncio.sleep(60),
    "audio of one byte": lambda it: it.flood(over_and_over(wire(0x82, b"\1"))),
    "pings": lambda it: it.flood(over_and_over(wire(0x89, b""))),
    "pings, never reads": lambda it: it.flood(over_and_over(wire(0x89, bytes(125))), reads=False),
    "keepalives": lambda it: it.flood(over_and_over(text({"type": "keepalive"}))),
    "finalizes": lambda it: it.flood(over_and_over(wire(0x82, bytes(640)) + text({"type": "finalize"}))),
    "gaps": lambda it: it.flood(over_and_over(text({"type": "gap", "bytes": 2, "reason": "muted"}))),
    "empty pieces": lambda it: it.flood(wire(0x02, b"a") + over_and_over(wire(0x00, b""))),
    "all audio at once": lambda it: it.flood(wire(0x82, bytes(64_000))),
    "audio, never reads": lambda it: it.flood(wire(0x82, bytes(3200)), reads=False),
    "frames of 1 MB": lambda it: it.come_and_say(BEGIN + wire(0x82, bytes(1_000_000))),
    "compressed frames": lambda it: it.come_and_say(BEGIN + wire(0xC2, bytes(1000))),
    "giant JSON": lambda it: it.come_and_say(GIANT),
    "deep JSON": lambda it: it.come_and_say(DEEP),
    "sessions that are left at once": lambda it: it.come_and_say(
        BEGIN + wire(0x82, bytes(640)) + wire(0x88, b"\x03\xe8")
    ),
    "guessed resume tokens": lambda it: it.come_and_say(guess()),
    "no credential": lambda it: it.come_and_say(BEGIN, b""),
    "wrong credentials": lambda it: it.come_and_say(BEGIN, wrong_bearer()),
    "half-open connections": lambda it: hold_half_open(it, b""),
    "half-open upgrades": lambda it: hold_half_open(it, b"GET /ws/transcribe HTTP/1.1\r\n"),
    "heads byte by byte": lambda it: trickle(it, SLOW_HEAD),
    "bodies byte by byte": lambda it: trickle(it, SLOW_BODY),
    "endless heads": lambda it: _wait(it, b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 100_000),
    "tokens of garbage": lambda it: it.ask(post("/tokens", b'{"a":' * 10_000, it.key)),
    "one-time tokens": lambda it: it.ask(post("/tokens", b"{}", it.key)),
    "transcripts of nobody": lambda it: it.ask(
        get(f"/sessions/{secrets.token_urlsafe(12)}/transcript", f"Authorization: Bearer {it.key}\r\n".encode())
    ),
    "the page": lambda it: it.ask(get("/web/client.js")),
}
"""The name of what they do; each is done `AT_ONCE` times."""


async def forever(do: Callable[[], Awaitable[None]]) -> None:
    """Where it is refused, or ends, again."""
    while True:
        with suppress(asyncio.IncompleteReadError, OSError, RuntimeError):  # the last is uvloop's: it is closed
            await do()
        await asyncio.sleep(0)


async def attack(name: str, attacker: Attacker) -> None:
    """Until cancelled."""
    await asyncio.gather(*[forever(lambda: WAYS[name](attacker)) for _ in range(AT_ONCE)])


def main() -> None:
    name, port, key = sys.argv[1:]
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("attacking", flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(attack(name, Attacker(int(port), key)))


if __name__ == "__main__":
    main()
