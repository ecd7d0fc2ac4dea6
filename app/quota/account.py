"""What one session is reserved and spends: of its own budget, and of the counters that it shares with others.

Reserved is ahead of need, in a task beside the audio: audio waits only where nothing is left of what was reserved. What
was not spent is given back at the end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.core.errors import SessionError
from app.core.purse import Pot, Purse
from app.quota.books import Books

LATE_SECONDS = 86_400
"""So long after its end a window's counter is kept: for what is given back then."""


@dataclass(slots=True, eq=False)
class Counter:
    """A pot that is shared. Windows begin at whole multiples of their length since 1970: a day is one of UTC."""

    pot: Pot
    name: str
    """Of what is counted, and for whom."""
    seconds: int
    reserved: str = ""
    """The key under which it was reserved last."""
    is_dry: bool = False
    """There was less than was asked for."""

    def key(self, now: float) -> str:
        return f"{self.name}:{int(now // self.seconds)}"

    def renewed_in(self, now: float) -> float:
        """Seconds."""
        return self.seconds - now % self.seconds


class Account:
    """Of one session on one gateway. `wall_clock`: seconds since 1970; `billed_before`: milliseconds that other
    gateways were billed for it; `leave`: gives its place back where the session is over."""

    def __init__(
        self,
        purse: Purse,
        counters: Sequence[Counter],
        books: Books,
        *,
        wall_clock: Callable[[], float],
        billed_before: int,
        leave: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._purse = purse
        self._counters = counters
        self._books = books
        self._wall_clock = wall_clock
        self._billed_before = billed_before
        self._leave = leave
        self._reserving: asyncio.Task[None] | None = None

    @property
    def is_limited(self) -> bool:
        """Anything of it: else all is allowed."""
        return bool(self._purse.pots)

    async def allow(self, size: int) -> int:
        """How many of the next bytes may be heard; they count as heard. Where it is limited; cancelling is safe."""
        if self._purse.room < size:
            await self._reserve_now(size)
        count = min(size, self._purse.room)
        self._purse.hear(count)
        if any(self._purse.lacks(counter.pot) and not counter.is_dry for counter in self._counters):
            self._begin(0)
        return count

    async def reserve(self) -> None:
        """Something, before there is audio. Raises SessionError where nothing is left."""
        await self._reserve_now(0)
        if self._purse.pots and self._purse.room <= 0:
            raise self.exhausted()

    def bill(self, billed_ms: int) -> None:
        """By the upstream, in all, on all gateways."""
        self._purse.bill(billed_ms - self._billed_before)

    @property
    def warning(self) -> str | None:
        """What the client should know, in words."""
        pot = self._purse.scarce()
        return None if pot is None else f"{pot.name}: {self._purse.left(pot) / 1000:.0f} s are left"

    def exhausted(self) -> SessionError:
        """Why no more is heard."""
        pot = self._purse.empty()
        return used_up(
            pot, next((counter for counter in self._counters if counter.pot is pot), None), self._wall_clock()
        )

    async def close(self, *, over: bool) -> None:
        """Gives back what was not spent, and takes what is owed."""
        await self._settled()
        for counter in self._counters:
            rest = counter.pot.held - self._purse.spent(counter.pot)
            if rest:
                await self._add(counter, counter.reserved or counter.key(self._wall_clock()), -rest)
        await self._leave(over)

    async def _reserve_now(self, size: int) -> None:
        """Audio of so many bytes has come: after what is under way, once more where that was not enough."""
        await self._settled()
        if not size or self._purse.room < size:
            self._begin(size)
            await self._settled()

    async def _settled(self) -> None:
        if self._reserving is not None:
            await asyncio.wait([self._reserving])  # goes on if this is cancelled: what it reserves is known
            self._reserving.result()

    def _begin(self, size: int) -> None:
        if self._counters and (self._reserving is None or self._reserving.done()):
            self._reserving = asyncio.create_task(self._reserve(size))

    async def _reserve(self, size: int) -> None:
        for counter in self._counters:
            if lacking := self._purse.lacks(counter.pot, size):
                await self._reserve_in(counter, lacking)

    async def _reserve_in(self, counter: Counter, amount: int) -> None:
        """As much of it as there is."""
        pot, key = counter.pot, counter.key(self._wall_clock())
        used = await self._add(counter, key, amount)
        over = min(amount, max(0, used - pot.limit))
        if over:
            used = await self._add(counter, key, -over)
        counter.is_dry = over > 0
        counter.reserved = key
        pot.held += amount - over
        pot.used = used

    async def _add(self, counter: Counter, key: str, amount: int) -> int:
        return await self._books.add(key, amount, counter.seconds + LATE_SECONDS)


def used_up(pot: Pot, counter: Counter | None, now: float) -> SessionError:
    """`counter`: the one that it is renewed with."""
    wait = None if counter is None else round(1000 * counter.renewed_in(now)) + 1
    return SessionError("budget_exhausted", f"{pot.name}: all of it is used up", retry_after_ms=wait)
