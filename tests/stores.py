"""Both stores, as tests use them: with a time that passes when it is told to."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

from redis.asyncio import Redis

from app.core.protocol import Audio, SessionConfig
from app.core.record import Change, Record
from app.store import MemoryStore, Store
from app.store_redis import RedisStore

CONFIG = SessionConfig(Audio("LINEAR16", 16_000), ["en-US"])

PATIENT = 10.0
"""Seconds: where a test is not about a Redis that does not answer."""


def record(session_id: str = "s", *, epoch: int = 1, last: int = 0, **fields: Any) -> Record:
    given = {"principal": "", "config": CONFIG, "tokens": ("t",), "settled": 0, "opened_at": 1.5, **fields}
    return Record(session_id=session_id, epoch=epoch, last_event=last, **given)


def change(
    session_id: str = "s",
    *,
    epoch: int = 1,
    first: int = 1,
    last: int = 0,
    resume: float = 100,
    keep: float = 1000,
    **fields: Any,
) -> Change:
    """With the events from `first` to `last`."""
    return Change(
        record=record(session_id, epoch=epoch, last=last, **fields),
        events=events(first, last, epoch),
        resume_seconds=resume,
        keep_seconds=keep,
    )


def events(first: int, last: int, epoch: int = 1) -> tuple[str, ...]:
    """The same number is another text in another epoch."""
    return tuple(f'{{"event":{number},"of":{epoch}}}' for number in range(first, last + 1))


On = Callable[..., RedisStore]
"""A URL -> a store, which a fixture closes."""


class Kept(Protocol):
    """A store and its time."""

    store: Store

    async def passes(self, seconds: float) -> None:
        """For what is kept, so long has passed now."""


class InMemory:
    def __init__(self) -> None:
        self.now = 1000.0
        self.store: Store = MemoryStore(lambda: self.now)

    async def passes(self, seconds: float) -> None:
        self.now += seconds


class InRedis:
    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = f"test-{secrets.token_hex(6)}"
        self.store: Store = RedisStore(url, prefix=self.prefix, answer_seconds=PATIENT)
        self.raw = Redis.from_url(url, decode_responses=True)

    async def passes(self, seconds: float) -> None:
        """Redis has no clock to set: every key has less time to live, every deadline comes nearer."""
        passed = round(seconds * 1000)
        for key in [key async for key in self.raw.scan_iter(f"{self.prefix}:*")]:
            await self.raw.pexpire(key, await self.raw.pttl(key) - passed)
            if await self.raw.type(key) == "hash":
                await self.raw.hincrby(key, "resume_until", -passed)

    async def close(self) -> None:
        await self.store.close()
        await self.raw.aclose()


@asynccontextmanager
async def stores() -> AsyncIterator[On]:
    """What opens them; they are closed at the end, whatever happens (uvloop cannot end with open connections)."""
    async with AsyncExitStack() as stack:

        def on(url: str, *, answer_seconds: float = PATIENT, prefix: str = "captions") -> RedisStore:
            store = RedisStore(url, prefix=prefix, answer_seconds=answer_seconds)
            stack.push_async_callback(store.close)
            return store

        yield on


@asynccontextmanager
async def in_redis(url: str) -> AsyncIterator[InRedis]:
    kept = InRedis(url)
    try:
        yield kept
    finally:
        await kept.close()
