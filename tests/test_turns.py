"""Who comes waits for a turn: the busier the loop is with those who are in, the longer."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from app.api import turns
from app.api.acceptor import AcceptingLoop, Newcomer
from app.api.turns import MOST_SECONDS, Turns
from app.api.turnstile import ADDRESS_SECONDS, Turnstile
from tests.gateway import START, Client
from tests.process import run_process
from tests.upstream import ScriptedUpstream

IDLE = 0.002
STEP = 0.0005
PLACES = 10


class Handle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """A loop whose time a test makes. It is busy for this part of it."""

    def __init__(self, busy: float) -> None:
        self.now = self.worked = 0.0
        self._busy = busy
        self._due: list[tuple[float, Callable[[], None], Handle]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        return self.call_later(0.0, callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        handle = Handle()
        self._due.append((self.now + delay, callback, handle))
        return handle

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            self.worked += STEP * self._busy
            due = [each for each in self._due if each[0] <= self.now]
            self._due = [each for each in self._due if each not in due]
            for _, callback, handle in due:
                if not handle.cancelled:
                    callback()


def note(clock: Clock, taken: list[float], *, more: bool) -> bool:
    """A turn. Whether somebody still waits."""
    taken.append(clock.now)
    return more


def turns_in_a_second(monkeypatch: pytest.MonkeyPatch, busy: float) -> int:
    """Where somebody always waits."""
    taken: list[float] = []
    clock: Any = Clock(busy)
    monkeypatch.setattr(turns, "thread_time", lambda: clock.worked)
    waits = Turns(clock, IDLE, lambda: note(clock, taken, more=True))
    waits.ask()
    clock.run(1.0)
    return len(taken)


def test_the_busier_the_loop_the_fewer_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an idle one as many as there are times `IDLE`; half as many where it works half of the time; never none."""
    idle, half, full = (turns_in_a_second(monkeypatch, busy) for busy in (0.0, 0.5, 1.0))
    assert idle == pytest.approx(1 / IDLE, rel=0.25)
    assert half == pytest.approx(idle / 2, rel=0.25)
    assert full == pytest.approx(1 / MOST_SECONDS, rel=0.25)


def test_the_first_after_a_while_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    clock: Any = Clock(busy=0.9)
    monkeypatch.setattr(turns, "thread_time", lambda: clock.worked)
    waits = Turns(clock, IDLE, lambda: note(clock, taken, more=False))
    for _ in range(2):
        clock.run(1.0)
        asked = clock.now
        waits.ask()
        clock.run(STEP)
        assert taken.pop() == asked + STEP
    waits.ask()
    waits.charge()  # somebody has come without a turn
    clock.run(2 * STEP)
    assert not taken
    clock.run(MOST_SECONDS)
    assert len(taken) == 1


class Comer:
    is_gone = False

    def __init__(self, name: str, heard: list[str]) -> None:
        self.name = name
        self.heard = heard

    def come_in(self, data: bytes) -> None:
        self.heard.append(self.name)


async def test_every_address_has_a_turn_after_the_other() -> None:
    """Who comes alone does not wait behind a crowd; who is gone takes no turn."""
    heard: list[str] = []
    turnstile = Turnstile(asyncio.get_running_loop(), lambda _: True, PLACES)
    for number in range(6):
        comer = Comer(f"crowd {number}", heard)
        comer.is_gone = number == 2
        turnstile.knock("192.0.2.1", comer, b"")
    turnstile.knock("192.0.2.2", Comer("alone", heard), b"")
    while len(heard) < 6:
        await asyncio.sleep(0.001)
    assert heard == ["crowd 0", "alone", "crowd 1", "crowd 3", "crowd 4", "crowd 5"]


async def test_an_address_has_so_many_turns_in_a_second_and_a_proxy_any() -> None:
    """However few wait at a time."""
    heard: list[str] = []
    clock = asyncio.get_running_loop().time
    turnstile = Turnstile(asyncio.get_running_loop(), lambda address: address == "proxy", PLACES)
    begun = clock()
    for number in range(3):
        for address in ("crowd", "proxy"):
            turnstile.knock(address, Comer(f"{address} {number}", heard), b"")
    while len(heard) < 6:
        await asyncio.sleep(0.001)
    assert clock() - begun >= 2 * ADDRESS_SECONDS
    assert [each for each in heard if "crowd" in each] == ["crowd 0", "crowd 1", "crowd 2"]
    assert len(turnstile._due) == 1, "of a proxy nothing is remembered"


async def test_a_line_is_bounded_and_where_many_wait_everybody_has_room_for_one() -> None:
    """Else each would cost its memory; a proxy's line is as long as its clients make it."""
    turnstile = Turnstile(asyncio.get_running_loop(), lambda address: address == "proxy", PLACES)

    def come(address: str) -> bool:
        if has_room := turnstile.has_room(address):
            turnstile.knock(address, Comer(address, []), b"")
        return has_room

    assert [come("crowd") for _ in range(PLACES // 2 + 1)] == [True] * (PLACES // 2) + [False]
    assert all(come("another") for _ in range(PLACES // 2))
    assert [come("late"), come("late"), come("later")] == [True, False, True]
    assert all(come("proxy") for _ in range(3 * PLACES))
    while turnstile._lines:
        await asyncio.sleep(0.001)
    assert come("crowd"), "they have come in"


class Greeter(Newcomer):
    guests: ClassVar[set[str]] = set()
    made = 0

    def __init__(self) -> None:
        Greeter.made += 1

    def may_come(self, address: str) -> bool:
        return address in self.guests

    def connection_made(self, transport: Any) -> None:
        transport.write(b"in")
        transport.close()


def test_everybody_who_connects_at_once_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait in the kernel; after `close` nobody is taken any more."""

    async def come(listener: socket.socket, count: int) -> list[bytes]:
        async def one() -> bytes:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            try:
                return await reader.read()
            finally:
                writer.close()

        return await asyncio.gather(*[one() for _ in range(count)])

    async def serve(listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greeter, sock=listener, ssl=None, backlog=1)
        assert await come(listener, 10) == [b""] * 10, "who may not come is closed"
        assert Greeter.made == 1, "and costs no more"
        monkeypatch.setattr(Greeter, "guests", {"127.0.0.1"})
        assert await come(listener, 100) == [b"in"] * 100
        server.close()
        await server.wait_closed()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await come(listener, 1)

    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        listener.setblocking(False)
        with asyncio.Runner(loop_factory=lambda: AcceptingLoop(None)) as runner:
            runner.run(serve(listener))


async def test_the_gateways_own_process_accepts_so(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """More than have room in one turn, each with a session."""
    settings = {"upstream": f"grpc://{upstream.address}", "log_level": "WARNING"}
    async with run_process(tmp_path, **settings) as process:
        gateway = await process.gateway()

        async def speak() -> None:
            async with Client.connect(gateway) as client:
                await client.say(START, bytes(3200), {"type": "stop"})
                await client.hear("stopped")

        await asyncio.gather(*[speak() for _ in range(20)])
    assert not process.log
