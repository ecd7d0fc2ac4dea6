"""The books of several gateways: Redis, the one of the store. Its keys begin with `captions:quota:`.

What is counted in windows the library `limits` counts. A place is a member of a sorted set, with the time until which
it is held, which is Redis' own; whoever goes on with a session has the same member: one place, on whatever gateway.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from typing import TypeVar

from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from app.quota.books import Lease, may_start
from app.store import StoreAwayError
from app.store_redis import Command, RedisStore, Script

T = TypeVar("T")

TAKE = Script("""
local limit, held_ms, known_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - known_ms)
if limit >= 0 and tonumber(redis.call('ZSCORE', KEYS[1], ARGV[4]) or 0) <= now then
    if redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf') >= limit then return 0 end
end
for i = 4, #ARGV do redis.call('ZADD', KEYS[1], now + held_ms, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], held_ms + known_ms)
return 1
""")
"""Whether the sessions have their places now. The limit, -1 for none, is for the first of them."""

KNOWN = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now - ARGV[1]), '+inf')
""")


class RedisBooks:
    """Raises StoreAwayError where Redis does not answer in time."""

    away = False

    def __init__(self, store: RedisStore, lease: Lease) -> None:
        self._store = store
        self._held_ms, self._known_ms = round(lease.held * 1000), round(lease.known * 1000)
        self._storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=f"{store.prefix}:quota",
            connection_pool=store.pool,  # type: ignore[arg-type]  # of redis-py, to which it is handed on
        )
        self._starts = SlidingWindowCounterRateLimiter(self._storage)

    async def add(self, key: str, amount: int, keep_seconds: int) -> int:
        return await self._in_time(self._storage.incr(key, keep_seconds, amount))

    async def start(self, who: str, per_minute: int, *, count: bool = True) -> float | None:
        return await self._in_time(may_start(self._starts, who, per_minute, count=count))

    async def take(self, who: str, session_id: str, limit: int | None) -> bool:
        taking = self._taking(who, [session_id], -1 if limit is None else limit)
        return await self._store.ask([taking], TAKE) == [1]

    async def renew(self, places: Mapping[str, Iterable[str]]) -> None:
        await self._store.ask([self._taking(who, sessions, -1) for who, sessions in places.items()], TAKE)

    async def give_back(self, who: str, session_id: str) -> None:
        await self._store.ask([("ZREM", self._key(who), session_id)])

    async def known(self, who: str) -> int:
        count: int
        [count] = await self._store.ask([("EVALSHA", KNOWN.sha, 1, self._key(who), self._known_ms)], KNOWN)
        return count

    async def close(self) -> None:
        """The connections are the store's."""

    def _taking(self, who: str, sessions: Iterable[str], limit: int) -> Command:
        return ("EVALSHA", TAKE.sha, 1, self._key(who), limit, self._held_ms, self._known_ms, *sessions)

    def _key(self, who: str) -> str:
        return f"{self._store.prefix}:quota:places:{who}"

    async def _in_time(self, asking: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._store.answer_seconds):
                return await asking
        except (RedisError, OSError, UnicodeError) as error:
            raise StoreAwayError(f"Redis does not answer: {error or 'in time'}") from error
