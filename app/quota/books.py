"""Where it is counted how much each has had: a port, and the books of a process that stands alone.

`books_redis.py` are those of several gateways; `books_safe.py` goes on without them while they are away.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

TELL_SECONDS = 1.0
"""At least: who comes a moment too early is refused once more."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Of a place for a session. Seconds."""

    held: float = 15.0
    """Without being renewed: then it is free. Its gateway is gone."""
    known: float = 120.0
    """After that: so long the session may still be gone on with."""


class Books(Protocol):
    away: bool
    """What several gateways share does not answer: this process counts alone."""

    async def add(self, key: str, amount: int, keep_seconds: int) -> int:
        """To what is counted under a key, which is forgotten after so long. Returns how much it is then."""

    async def start(self, who: str, per_minute: int, *, count: bool = True) -> float | None:
        """One more, `count`: from now on. None where it may be; else seconds until it is worth trying again."""

    async def take(self, who: str, session_id: str, limit: int | None) -> bool:
        """A place for a session, or its own once more; whether there was one. None: it gets one anyway."""

    async def renew(self, places: Mapping[str, Iterable[str]]) -> None:
        """Sessions by who has them: their gateway lives."""

    async def give_back(self, who: str, session_id: str) -> None:
        """The session is over."""

    async def known(self, who: str) -> int:
        """Sessions that are, or that may be gone on with."""

    async def close(self) -> None:
        """Releases everything."""


class MemoryBooks:
    """Of one process. `clock`: seconds, monotonic."""

    away = False

    def __init__(self, clock: Callable[[], float], lease: Lease) -> None:
        self._clock = clock
        self._lease = lease
        self._storage = MemoryStorage()
        self._starts = SlidingWindowCounterRateLimiter(self._storage)
        self._places: dict[str, dict[str, float]] = {}
        """Who -> session -> until when it holds its place."""

    async def add(self, key: str, amount: int, keep_seconds: int) -> int:
        return await self._storage.incr(key, keep_seconds, amount)

    async def start(self, who: str, per_minute: int, *, count: bool = True) -> float | None:
        return await may_start(self._starts, who, per_minute, count=count)

    async def take(self, who: str, session_id: str, limit: int | None) -> bool:
        places, now = self._of(who), self._clock()
        taken = sum(until > now for session, until in places.items() if session != session_id)
        if limit is not None and taken >= limit and places.get(session_id, now) <= now:
            return False
        self._places.setdefault(who, places)[session_id] = now + self._lease.held
        return True

    async def renew(self, places: Mapping[str, Iterable[str]]) -> None:
        for who, sessions in places.items():
            for session_id in sessions:
                await self.take(who, session_id, None)

    async def give_back(self, who: str, session_id: str) -> None:
        self._of(who).pop(session_id, None)
        self._of(who)

    async def known(self, who: str) -> int:
        return len(self._of(who))

    async def close(self) -> None:
        if self._storage.timer is not None:
            await self._storage.timer

    def _of(self, who: str) -> dict[str, float]:
        """Forgets the sessions that nobody can go on with."""
        forgotten = self._clock() - self._lease.known
        places = {session: until for session, until in self._places.pop(who, {}).items() if until > forgotten}
        if places:
            self._places[who] = places
        return places


async def may_start(starts: SlidingWindowCounterRateLimiter, who: str, per_minute: int, *, count: bool) -> float | None:
    """As `Books.start`. A minute counts what was in it, and of the minute before as much as would be in it still, had
    that come evenly."""
    item = RateLimitItemPerMinute(per_minute)
    if await (starts.hit(item, who) if count else starts.test(item, who)):
        return None
    stats = await starts.get_window_stats(item, who)
    return max(TELL_SECONDS, stats.reset_time - time.time())
