"""The upstream fails: when the next leg is opened, and what the client hears meanwhile."""

import asyncio
import random
from collections.abc import Callable

from app.core.breaker import Backoff, Breaker, BreakerState
from app.core.recognition import Event, Losing, Lost, Retrying
from app.speech.errors import Code, Ending, Verdict

BACKOFF_BASE, BACKOFF_CAP = 0.25, 10.0
"""Seconds."""
AT_ONCE_TRIES = 2
"""Legs that may follow a failed one at once, in a row; then even those wait."""


class Retry:
    """Of one session. `again` is called when it is time; `breaker` is shared by all sessions."""

    def __init__(self, breaker: Breaker, listen: Callable[[Event], None], again: Callable[[], None]) -> None:
        self._breaker = breaker
        self._listen = listen
        self._again = again
        self._backoff = Backoff(BACKOFF_BASE, BACKOFF_CAP)
        self._task: asyncio.Task[None] | None = None
        self._told = False
        self._lost: tuple[int, int] | None = None
        self._clock = asyncio.get_running_loop().time

    @property
    def waiting(self) -> bool:
        """The next leg is not opened yet: audio is kept meanwhile."""
        return self._task is not None

    @property
    def failing(self) -> bool:
        """The last leg failed, and nothing was heard since."""
        return self._backoff.failures > 0

    def after(self, ending: Ending) -> None:
        """A leg ended so: the next one comes at once, or after a backoff."""
        at_once = ending.verdict is Verdict.AT_ONCE and self._backoff.failures < AT_ONCE_TRIES
        delay = self._backoff.next(random.random)
        if ending.verdict is Verdict.LATER and ending.code is not Code.RESOURCE_EXHAUSTED:
            self._breaker.failed(self._clock())
        self._task = asyncio.create_task(self._wait(0.0 if at_once else delay, ending.as_error().message))

    def must_wait(self) -> bool:
        """Before a leg that follows no failure of its own: whether the upstream fails for everybody. Then `again` is
        called when it is time."""
        now = self._clock()
        reason = self._breaker.says(now)
        if self._breaker.delay(now) <= 0:
            return False
        self._task = asyncio.create_task(self._wait(0.0, f"Speech-to-Text fails: {reason}"))
        return True

    def works(self) -> None:
        """A leg has said something."""
        if self._backoff.failures or self._breaker.state is not BreakerState.CLOSED:
            self._backoff.reset()
            self._breaker.succeeded()
        self._told = False
        self.say_lost()

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

    async def close(self) -> None:
        self._listen = _ignore
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _wait(self, delay: float, reason: str) -> None:
        spread = 1 + random.random() / 2  # noqa: S311 - so that the herd does not come at once
        while (delay := max(delay, self._breaker.delay(self._clock()) * spread)) > 0:
            self.tell(reason, delay)
            await asyncio.sleep(delay)
            delay = 0.0
        self._task = None
        self._again()


def _ignore(_event: Event) -> None:
    pass
