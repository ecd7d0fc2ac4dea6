"""The upstream fails: when the next leg is opened, and what the client hears meanwhile."""

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from app.core.breaker import Backoff, Breaker
from app.core.recognition import Event, Losing, Lost, Retrying
from app.speech.errors import Code, Ending, Verdict

BACKOFF_BASE, BACKOFF_CAP = 0.25, 10.0
"""Seconds."""
STUCK_TRIES = 10
"""Legs that fail in a row before it is no use to wait for more of the same."""
AT_ONCE_TRIES = 2
"""Legs that may follow a failed one at once, in a row; then even those wait."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Timers(Protocol):
    """What of an event loop is used."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


class Retry:
    """Of one session. `again` is called when it is time, once for all reasons to wait; `breaker` is shared by all
    sessions. After `close` nothing is told, and `again` is never called."""

    def __init__(
        self,
        breaker: Breaker,
        listen: Callable[[Event], None],
        again: Callable[[], None],
        *,
        timers: Timers | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._breaker = breaker
        self._listen = listen
        self._again = again
        self._timers = timers or asyncio.get_running_loop()
        self._dice = dice
        self._backoff = Backoff(BACKOFF_BASE, BACKOFF_CAP)
        self._timer: Timer | None = None
        self._due = float("-inf")
        """When this session's own backoff is over."""
        self.stuck_since = float("inf")
        """When it became so."""
        self._reason = ""
        self._told = False
        self._lost: tuple[int, int] | None = None
        self._closed = False

    @property
    def waiting(self) -> bool:
        """The next leg is not opened yet: audio is kept meanwhile."""
        return self._timer is not None

    @property
    def failing(self) -> bool:
        """The last leg failed, and nothing new was heard since."""
        return self.failures > 0

    @property
    def stuck(self) -> bool:
        """Leg after leg has failed over the same audio."""
        return self.failures >= STUCK_TRIES

    @property
    def failures(self) -> int:
        """In a row."""
        return self._backoff.failures

    def after(self, ending: Ending, *, worked: bool) -> None:
        """A leg ended so: the next one comes at once, or after a backoff. What waits already waits for both.

        `worked`: until then the leg was well, as far as it showed. Such an end says nothing of the upstream: a
        connection was lost, perhaps, with every leg on it."""
        now = self._timers.time()
        at_once = ending.verdict is Verdict.AT_ONCE and self._backoff.failures < AT_ONCE_TRIES
        delay = self._backoff.next(self._dice)
        if self.stuck:
            self.stuck_since = min(self.stuck_since, now)
        if not worked and ending.code is not Code.RESOURCE_EXHAUSTED:  # a quota is not everybody's
            self._breaker.failed(now)
        self._due = max(self._due, now if at_once else now + delay)
        self._wait(ending.as_error().message)

    def must_wait(self) -> bool:
        """Before a leg that follows no failure of its own: whether others are waited for, or the upstream fails for
        everybody. Then `again` is called when it is time."""
        if self.waiting or self._closed:
            return True
        now = self._timers.time()
        reason = self._breaker.says(now)
        if self._breaker.delay(now) <= 0:
            return False
        self._wait(f"Speech-to-Text fails: {reason}")
        return True

    def answers(self) -> None:
        """A leg has said something: the upstream is there."""
        self._breaker.succeeded()
        self.say_lost()

    def works(self) -> None:
        """A leg got further than those before it."""
        self._backoff.reset()
        self.stuck_since = float("inf")
        self._told = False

    def bears(self, since: float) -> None:
        """A leg that was opened then takes audio: in silence nothing else shows that the upstream is back."""
        self._breaker.bears(since)

    def tell(self, reason: str, in_seconds: float) -> None:
        """What the client hears once, until it works again."""
        if not self._told:
            self._told = True
            self._listen(Retrying(f"{reason}; audio is kept meanwhile", round(in_seconds * 1000)))

    def lose(self, lost: tuple[int, int] | None) -> None:
        """Bytes that nobody will hear: told as one gap, once it is known how much it was."""
        if lost:
            self._lost = (self._lost[0] if self._lost else lost[0], lost[1])
            self._listen(Losing(*self._lost))

    def say_lost(self) -> None:
        if self._lost:
            self._listen(Lost(*self._lost))
            self._lost = None

    def close(self) -> None:
        self._closed = True
        self._listen = _ignore
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, reason: str) -> None:
        self._reason = reason
        if self._timer is None and not self._closed:
            self._timer = self._timers.call_later(0.0, self._go_on)

    def _go_on(self) -> None:
        """It may be time: else it waits on."""
        now = self._timers.time()
        delay = self._due - now
        spread = 1 + self._dice() / 2  # so that the herd does not come at once
        delay = max(delay, self._breaker.left(now) * spread) if delay > 0 else self._breaker.delay(now) * spread
        if delay > 0:
            self.tell(self._reason, delay)
            self._timer = self._timers.call_later(delay, self._go_on)
        else:
            self._timer = None
            self._again()


def _ignore(_event: Event) -> None:
    pass
