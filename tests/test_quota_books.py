"""Where it is counted how much each has had: in memory and in Redis the same, and what happens while Redis is away."""

import asyncio
import logging
import secrets
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.quota.books import Books, Lease, MemoryBooks
from app.quota.books_redis import RedisBooks
from app.quota.books_safe import SafeBooks
from app.quota.quota import _name
from tests.redis_server import RedisServer, redis_server
from tests.stores import PATIENT, On, stores

SHORT = Lease(held=0.3, known=0.3)
LONG = Lease(held=600, known=600)


@pytest.fixture
async def on() -> AsyncIterator[On]:
    async with stores() as opened:
        yield opened


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


async def two(kind: str, redis: RedisServer, on: On, lease: Lease) -> tuple[Books, Books]:
    """Those of two gateways; in memory there is one."""
    if kind == "memory":
        books = MemoryBooks(asyncio.get_running_loop().time, lease)
        return books, books
    prefix = f"test-{secrets.token_hex(6)}"
    one, other = [RedisBooks(on(redis.url, prefix=prefix), lease) for _ in range(2)]
    return one, other


async def test_what_is_added_is_seen_by_all_and_can_be_given_back(kind: str, redis: RedisServer, on: On) -> None:
    one, other = await two(kind, redis, on, LONG)
    assert await one.add("k", 5000, 60) == 5000
    assert await other.add("k", 2000, 60) == 7000
    assert await one.add("k", -6000, 60) == 1000
    assert await other.add("k", 0, 60) == 1000
    assert await other.add("another", 0, 60) == 0
    await one.close()


async def test_starts_are_counted_together_and_tell_when_to_come_back(kind: str, redis: RedisServer, on: On) -> None:
    one, other = await two(kind, redis, on, LONG)
    assert await one.start("p", 2) is None
    assert await one.start("p", 2, count=False) is None
    assert await other.start("p", 2) is None
    for books in (one, other):
        wait = await books.start("p", 2)
        assert wait is not None and 1 <= wait <= 60
        assert await books.start("p", 2, count=False) is not None
    assert await other.start("q", 2) is None, "another principal's"
    await one.close()


async def test_a_session_has_one_place_on_whatever_gateway(kind: str, redis: RedisServer, on: On) -> None:
    one, other = await two(kind, redis, on, LONG)
    assert await one.known("p") == 0
    assert await one.take("p", "a", 2)
    assert await other.take("p", "b", 2)
    assert not await one.take("p", "c", 2)
    assert await other.take("p", "a", None), "it goes on there"
    assert await other.take("p", "a", 2), "it has its place"
    assert not await one.take("p", "c", 2), "and one only"
    assert await one.take("q", "c", 2), "another principal's"
    assert await one.known("p") == 2
    await other.give_back("p", "a")
    assert await one.known("p") == 1
    assert await one.take("p", "c", 2)
    await one.close()


async def test_a_place_that_is_not_renewed_is_free_and_the_session_known_for_a_while(
    kind: str, redis: RedisServer, on: On
) -> None:
    one, other = await two(kind, redis, on, Lease(held=0.3, known=600))
    assert await one.take("p", "a", 1)
    assert not await other.take("p", "b", 1)
    while not await other.take("p", "b", 1):
        await asyncio.sleep(0.01)
    assert await other.known("p") == 2, "a may still be gone on with"
    await one.renew({"p": ["a"], "q": ["c"]})
    assert await other.known("q") == 1
    assert not await other.take("p", "d", 2), "a is back"
    await one.close()


async def test_a_session_that_nobody_can_go_on_with_is_forgotten(kind: str, redis: RedisServer, on: On) -> None:
    one, _ = await two(kind, redis, on, SHORT)
    await one.take("p", "a", 1)
    while await one.known("p"):
        await asyncio.sleep(0.01)
    await one.close()


async def test_kill_9_of_a_gateway_frees_its_places_in_time(redis: RedisServer, on: On) -> None:
    """Not before: while it lives it renews them."""
    prefix, seconds = f"test-{secrets.token_hex(6)}", 0.5
    books = RedisBooks(on(redis.url, prefix=prefix), Lease(held=seconds, known=seconds))
    child = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "tests.lease_holder", redis.url, prefix, str(seconds)],
        cwd=Path(__file__).parent.parent,
        stdout=PIPE,
    )
    raw = Redis.from_url(redis.url)
    try:
        assert child.stdout is not None
        assert (await child.stdout.readline()).strip() == b"held"
        key = f"{prefix}:quota:places:{_name('p')}"
        first = await raw.zscore(key, "killed") or 0
        while (await raw.zscore(key, "killed") or 0) <= first + 2000 * seconds:  # renewed for longer than it is held
            assert not await books.take(_name("p"), "mine", 1)
            await asyncio.sleep(0.02)
        child.kill()
        while not await books.take(_name("p"), "mine", 1):
            await asyncio.sleep(0.02)
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()
        await raw.aclose()


async def test_nothing_is_left_in_redis_once_it_is_over(redis: RedisServer, on: On) -> None:
    """Every key has a time to live."""
    one, _ = await two("redis", redis, on, LONG)
    assert isinstance(one, RedisBooks)
    await one.add("k", 5, 60)
    await one.add("j", 0, 60)
    await one.start("p", 2)
    await one.take("p", "a", 2)
    raw = Redis.from_url(redis.url, decode_responses=True)
    keys = [key async for key in raw.scan_iter(f"*{one._store.prefix}:quota*")]
    assert len(keys) == 4
    for key in keys:
        assert await raw.pttl(key) > 0, key
    await raw.aclose()


# Redis is away ----------------------------------------------------------------------------------


async def test_while_redis_is_away_a_process_counts_alone_and_adds_it_later(
    on: On, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of what was spent meanwhile is forgotten. It is logged once, each way."""
    caplog.set_level(logging.WARNING, "app")
    now = [0.0]
    with redis_server() as redis:
        shared = RedisBooks(on(redis.url, answer_seconds=0.2), LONG)
        own = MemoryBooks(lambda: now[0], LONG)
        books = SafeBooks(shared, own, lambda: now[0])
        assert await books.take("p", "a", 2)
        assert await books.add("k", 1000, 60) == 1000
        redis.pause()
        assert await books.add("k", 300, 60) == 300
        assert await books.add("k", 200, 60) == 500
        assert await books.start("p", 1) is None
        assert await books.start("p", 1) is not None
        assert await books.take("p", "b", 2), "its own session before is known to it"
        assert not await books.take("p", "c", 2)
        now[0] += 1
        redis.unpause()
        on_time = on(redis.url, answer_seconds=PATIENT)
        while await books.known("q") or books.away:  # who asks first finds out
            now[0] += 1
        raw = RedisBooks(on_time, LONG)
        late = 300  # the first one that was given up may have arrived
        assert await raw.add("k", 0, 60) in (1500, 1500 + late)
        assert await books.add("k", -100, 60) in (1400, 1400 + late)
        assert await own.add("k", 0, 60) == 0
        await books.close()
    said = [line.message for line in caplog.records]
    assert [line.partition(":")[0] for line in said] == [
        "limits are counted by this process alone",
        "limits are counted by all gateways again",
    ]
