"""Requests come in one by one. Of those that wait every address has a turn after the other, and so many in a second: a
crowd from one keeps nobody else out, nor takes the time of who speaks, nor the memory. A trusted proxy stands for many,
and has no such bounds.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from app.api.turns import Turns

IDLE_SECONDS = 0.003
ADDRESS_SECONDS = 0.02
"""From one turn of an address to its next."""
MANY = 1000
"""Addresses that are remembered, before those are forgotten that may have their next turn."""


class Comer(Protocol):
    """A connection with a request."""

    @property
    def is_gone(self) -> bool: ...

    def come_in(self, data: bytes) -> None:
        """`data` is what it has said so far."""


class Turnstile:
    """One for a server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_proxy: Callable[[str], bool], places: int) -> None:
        """`places`: so many may wait before an address has room for one alone."""
        self._clock = loop.time
        self._places = places
        self._waiting = 0
        self._is_proxy = is_proxy
        self._turns = Turns(loop, IDLE_SECONDS, self._let_in)
        self._lines: OrderedDict[str, deque[tuple[Comer, bytes]]] = OrderedDict()
        """By address; the one whose turn is longest ago comes first."""
        self._due: dict[str, float] = {}
        """When an address may have its next turn."""

    def has_room(self, address: str) -> bool:
        """For one more from there. Who waits here costs 20 kB, and nothing in the kernel, or at home."""
        line = len(self._lines.get(address, ()))
        return line < (max(1, self._places // 2) if self._waiting < self._places else 1) or self._is_proxy(address)

    def knock(self, address: str, comer: Comer, data: bytes) -> None:
        """It is let in on the next turn of the loop, or on a later one."""
        self._waiting += 1
        self._lines.setdefault(address, deque()).append((comer, data))
        self._turns.ask()

    def charge(self) -> None:
        """Somebody who is in has made one more request."""
        self._turns.charge()

    def _let_in(self) -> bool:
        now = self._clock()
        while (address := next((each for each in self._lines if self._due.get(each, now) <= now), None)) is not None:
            comer, data = self._next(address)
            if not comer.is_gone:
                self._remember(address, now)
                comer.come_in(data)
                break
        return bool(self._lines)

    def _next(self, address: str) -> tuple[Comer, bytes]:
        line = self._lines[address]
        waiting = line.popleft()
        self._waiting -= 1
        if line:
            self._lines.move_to_end(address)
        else:
            del self._lines[address]
        return waiting

    def _remember(self, address: str, now: float) -> None:
        if self._is_proxy(address):
            return
        if len(self._due) >= MANY:
            self._due = {each: due for each, due in self._due.items() if due > now}
        self._due[address] = now + ADDRESS_SECONDS
