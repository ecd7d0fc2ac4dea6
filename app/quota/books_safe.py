"""Books that are shared, and the process's own while those are away: what it counts alone is added to them later."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from app.quota.books import Books, MemoryBooks
from app.store import StoreAwayError

log = logging.getLogger(__name__)
T = TypeVar("T")

TRY_AGAIN_SECONDS = 0.5
"""One asks whether they are back; the others do not wait for that."""


class SafeBooks:
    """Never raises StoreAwayError. `clock`: seconds, monotonic."""

    def __init__(self, shared: Books, own: MemoryBooks, clock: Callable[[], float]) -> None:
        self.away = False
        self._shared = shared
        self._own = own
        self._clock = clock
        self._asked_at = float("-inf")
        self._owed: dict[str, tuple[int, int]] = {}
        """By key, what was added meanwhile, and how long it is kept."""

    async def add(self, key: str, amount: int, keep_seconds: int) -> int:
        alone, is_now = await self._ask_either(lambda books: books.add(key, amount, keep_seconds))
        if alone:
            self._owe(key, amount, keep_seconds)
        return is_now

    async def start(self, who: str, per_minute: int, *, count: bool = True) -> float | None:
        return await self._ask(lambda books: books.start(who, per_minute, count=count))

    async def take(self, who: str, session_id: str, limit: int | None) -> bool:
        taken = await self._ask(lambda books: books.take(who, session_id, limit))
        if taken:
            await self._own.take(who, session_id, None)
        return taken

    async def renew(self, places: Mapping[str, Iterable[str]]) -> None:
        await self._own.renew(places)
        await self._ask(lambda books: books.renew(places))

    async def give_back(self, who: str, session_id: str) -> None:
        await self._own.give_back(who, session_id)
        await self._ask(lambda books: books.give_back(who, session_id))

    async def known(self, who: str) -> int:
        return await self._ask(lambda books: books.known(who))

    async def close(self) -> None:
        await self._own.close()
        await self._shared.close()

    async def _ask(self, question: Callable[[Books], Awaitable[T]]) -> T:
        _, answer = await self._ask_either(question)
        return answer

    async def _ask_either(self, question: Callable[[Books], Awaitable[T]]) -> tuple[bool, T]:
        """Whether it was the process's own books that have answered, and what."""
        now = self._clock()
        if not self.away or now >= self._asked_at + TRY_AGAIN_SECONDS:
            self._asked_at = now
            try:
                answer = await question(self._shared)
            except StoreAwayError as error:
                self._go_away(error)
            else:
                await self._come_back()
                return False, answer
        return True, await question(self._own)

    def _go_away(self, error: StoreAwayError) -> None:
        if not self.away:
            log.warning("limits are counted by this process alone: %s", error)
        self.away = True

    async def _come_back(self) -> None:
        while self._owed:
            key, (amount, keep_seconds) = self._owed.popitem()
            try:
                await self._shared.add(key, amount, keep_seconds)
            except StoreAwayError as error:
                self._owe(key, amount, keep_seconds)
                return self._go_away(error)
            await self._own.add(key, -amount, keep_seconds)
        if self.away:
            log.warning("limits are counted by all gateways again")
        self.away = False
        return None

    def _owe(self, key: str, amount: int, keep_seconds: int) -> None:
        owed, _ = self._owed.get(key, (0, 0))
        self._owed[key] = (owed + amount, keep_seconds)
