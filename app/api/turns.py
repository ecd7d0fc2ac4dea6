"""Who comes waits for a turn: who speaks has the loop between them.

A connection, a TLS handshake or a request takes the loop up to a few milliseconds. When many clients come back at once,
or somebody comes again and again, those that are speaking would wait until the last of it is done.
"""

import asyncio
from collections.abc import Callable
from time import thread_time

MOST_SECONDS = 0.005
"""From one turn to the next at most: a loop that is never idle lets somebody in, too."""
TICK_SECONDS = 0.001
"""uvloop's: less is none at all, and to look again at once is no idleness."""


class Turns:
    """The next one may come once the loop has been idle for `idle` seconds since the last one: so the busier it is with
    those who are in, the fewer come. `take` is called when it is time, and says whether somebody may still wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle: float, take: Callable[[], bool]) -> None:
        self._loop = loop
        self._idle = idle
        self._take = take
        self._handle: asyncio.Handle | None = None
        self._goes_on = False
        """Somebody has waited since the last turn."""
        self._last = loop.time() - MOST_SECONDS
        self._used = 0.0
        """This thread's CPU time at the last turn."""

    def ask(self) -> None:
        """Somebody waits."""
        if self._handle is None:
            self._handle = self._loop.call_soon(self._look)

    def charge(self) -> None:
        """Somebody has come without a turn: it counts as one."""
        self._last, self._used = self._loop.time(), thread_time()

    def close(self) -> None:
        """Nobody comes any more."""
        if self._handle is not None:
            self._handle.cancel()

    def _look(self) -> None:
        since, worked = self._loop.time() - self._last, thread_time() - self._used
        lacking = min(self._idle - (since - worked), MOST_SECONDS - since)
        if lacking <= 0:
            self.charge()
            if self._goes_on:  # a timer of a busy loop is late: the next one is not, too
                self._last -= min(max(0.0, since - MOST_SECONDS), MOST_SECONDS)
            self._goes_on = self._take()
            lacking = self._idle if self._goes_on else 0.0
        self._handle = self._loop.call_later(max(lacking, TICK_SECONDS), self._look) if lacking > 0 else None
