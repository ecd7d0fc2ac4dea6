"""Requests come in one by one. Of those that wait every address has a turn after the other: a crowd from one keeps
nobody else out.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Protocol

from app.api.turns import Turns

IDLE_SECONDS = 0.002


class Comer(Protocol):
    """A connection with a request."""

    @property
    def is_gone(self) -> bool: ...

    def come_in(self, data: bytes) -> None:
        """`data` is what it has said so far."""


class Turnstile:
    """One for a server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turns = Turns(loop, IDLE_SECONDS, self._let_in)
        self._lines: OrderedDict[str, deque[tuple[Comer, bytes]]] = OrderedDict()
        """By address; the one whose turn is next comes first."""

    def knock(self, address: str, comer: Comer, data: bytes) -> None:
        """It is let in on the next turn of the loop, or on a later one."""
        self._lines.setdefault(address, deque()).append((comer, data))
        self._turns.ask()

    def charge(self) -> None:
        """Somebody who is in has made one more request."""
        self._turns.charge()

    def _let_in(self) -> bool:
        while self._lines:
            comer, data = self._next()
            if not comer.is_gone:
                comer.come_in(data)
                break
        return bool(self._lines)

    def _next(self) -> tuple[Comer, bytes]:
        address, line = next(iter(self._lines.items()))
        waiting = line.popleft()
        if line:
            self._lines.move_to_end(address)
        else:
            del self._lines[address]
        return waiting
