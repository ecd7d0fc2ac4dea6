"""Legs that were opened within the last minute: the upstream allows so many.

Counted by a sliding window: of the minute before as much as would still be in it, had they come evenly.
"""

import asyncio

from limits.aio.storage import MemoryStorage

KEPT = 10
"""One in so many of the upstream's streams, and of its starts, is for sessions that run already."""
MINUTE = 60
LOOK_AGAIN_SECONDS = 0.1
"""Who waits for a start looks so often whether there is one."""


class Starts:
    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._storage = MemoryStorage()
        self._refused = 0
        """The limit at which somebody was told to wait last,"""
        self._refused_at = float("-inf")
        """and when: who waits asks again and again."""
        self._clock = asyncio.get_running_loop().time

    @property
    def exhausted(self) -> int | None:
        """The limit at which somebody waits."""
        return self._refused if self._clock() < self._refused_at + 2 * LOOK_AGAIN_SECONDS else None

    async def may_begin(self, *, running: bool) -> bool:
        """Then it is counted. Waits for nobody."""
        if self._per_minute is None:
            return True
        limit = self._per_minute if running else for_new_sessions(self._per_minute)
        may = await self._storage.acquire_sliding_window_entry("starts", limit, MINUTE)
        if not may:
            self._refused, self._refused_at = limit, self._clock()
        return may

    async def close(self) -> None:
        if self._storage.timer is not None:
            await self._storage.timer


def for_new_sessions(limit: int) -> int:
    """What is not kept of it for sessions that run."""
    return max(1, limit - limit // KEPT)
