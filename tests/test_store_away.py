"""The store on Redis when Redis fails, is frozen, or forgets. The rules of the port: test_store.py."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.store import Store, StoreAwayError, Stored
from app.store_redis import ANSWER_SECONDS, SAVE, RedisStore
from tests.redis_server import RedisServer, redis_server
from tests.stores import On, change, events, in_redis, record, stores


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Of one test, which may do with it what it likes."""
    with redis_server() as running:
        yield running


@pytest.fixture
async def on() -> AsyncIterator[On]:
    async with stores() as opening:
        yield opening


@pytest.fixture
def store(server: RedisServer, on: On) -> RedisStore:
    """It does not wait for long."""
    return on(server.url, answer_seconds=ANSWER_SECONDS)


async def away(store: Store) -> list[str]:
    """What is said, however it is asked."""
    asked: list[Any] = [store.save([change("x")]), store.claim("x", "t"), store.read("x", 0)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, StoreAwayError) and answer.__cause__ for answer in answers), answers
    return [str(answer) for answer in answers]


async def back(store: Store, *changes: Any) -> list[int]:
    """As often as it takes."""
    while True:
        try:
            return await store.save(changes)
        except StoreAwayError:
            pass


# Redis fails ------------------------------------------------------------------------------------


async def test_a_redis_that_is_not_there_is_away(server: RedisServer, store: RedisStore) -> None:
    await back(store, change(last=1))
    server.kill()
    assert str(server.port) in (await away(store))[0]


async def test_a_frozen_redis_is_away_and_comes_back(server: RedisServer, store: RedisStore, on: On) -> None:
    await back(store, change(last=1))
    server.pause()
    await away(store)
    never_asked = on(server.url, answer_seconds=ANSWER_SECONDS)
    await away(never_asked)
    server.unpause()
    for each in (store, never_asked):
        assert await back(each, change(first=2, last=2)) == [2]


async def test_a_redis_that_has_lost_its_memory_is_written_anew(server: RedisServer, store: RedisStore) -> None:
    await back(store, change(last=3))
    server.restart(empty=True)
    assert await back(store, change(first=4, last=4)) == [0]
    assert await store.read("s", 0) is None
    assert await store.save([change(last=4)]) == [4]
    assert (await store.claim("s", "t")).events == events(1, 4)


async def test_a_redis_that_keeps_its_memory_goes_on_where_it_was(on: On) -> None:
    with redis_server(persistent=True) as server:
        store = on(server.url)
        await back(store, change(last=3))
        server.restart(empty=False)
        assert await back(store, change(first=4, last=4)) == [4]
        assert (await store.claim("s", "t")).events == events(1, 4)


async def test_a_redis_that_takes_no_writes_is_away(server: RedisServer) -> None:
    async with in_redis(server.url) as kept:
        await kept.store.save([change(last=1)])
        await kept.raw.config_set("maxmemory", 1)
        for refused in (change(first=2, last=2), change("new", last=1)):
            with pytest.raises(StoreAwayError, match="maxmemory"):
                await kept.store.save([refused])
        with pytest.raises(StoreAwayError, match=r"^Redis does not answer: [^{}]*maxmemory[^{}]*$"):
            await kept.store.claim("s", "t")
        await kept.raw.config_set("maxmemory", 0)
        await kept.raw.replicaof("127.0.0.1", 1)
        with pytest.raises(StoreAwayError, match="read only replica"):
            await kept.store.save([change(first=2, last=2)])
        await kept.raw.replicaof("NO", "ONE")
        assert await kept.store.save([change(first=2, last=2)]) == [2]


async def test_a_write_that_was_given_up_changes_nothing_when_it_comes_late(server: RedisServer, on: On) -> None:
    """Redis was frozen: what it had not read yet is done when it goes on, whatever has been written meanwhile."""
    store = on(server.url)
    await store.save([change(last=1)])
    early, late = (store._saving(each) for each in (change(first=2, last=2), change(first=2, last=3, settled=9)))
    assert await store.ask([late], SAVE) == [3]
    assert await store.ask([early], SAVE) == [3]
    assert await store.read("s", 0) == Stored(record(last=3, settled=9), events(1, 3))
    assert (await store.claim("s", "t")).record.epoch == 2
    assert await store.save([change(epoch=2, first=4, last=4)]) == [4]


async def test_a_save_that_is_given_up_leaves_no_answer_behind(server: RedisServer, on: On) -> None:
    store = on(server.url)
    await store.save([change(last=7)])
    server.pause()
    asked = [asyncio.create_task(store.save([change(first=8, last=7)])) for _ in range(3)]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*asked, return_exceptions=True)
    )
    server.unpause()
    for number in range(1, 5):
        assert await store.save([change("other", last=number)]) == [number]
        assert await store.read("none", 0) is None


async def test_restarts_under_load_are_no_other_error_than_away(server: RedisServer, store: RedisStore) -> None:
    ended = asyncio.Event()

    async def work(name: str) -> int:
        rounds = 0
        while not ended.is_set():
            try:
                last = (await store.save([change(name, last=3)]))[0]
                assert last == 3
                assert (await store.read(name, 1) or Stored(record(), events(2, 3))).events == events(2, 3)
                rounds += 1
            except StoreAwayError:
                await asyncio.sleep(0)
        return rounds

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work(f"s{number}")) for number in range(12)]
        for number in range(6):
            server.restart(empty=number % 2 == 0)
            await back(store, change())
        ended.set()
    assert all(worker.result() for worker in workers)


async def test_of_many_that_ask_a_frozen_redis_nobody_waits_for_all_others(server: RedisServer, on: On) -> None:
    store = on(server.url, answer_seconds=0.1)
    server.pause()
    answers = await asyncio.gather(*(store.claim(f"{number}", "t") for number in range(250)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreAwayError}
    assert any("was not asked" in str(answer) for answer in answers)
    server.unpause()
    await back(store, change())


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="TCP_USER_TIMEOUT is Linux'")
async def test_what_a_frozen_redis_does_not_take_is_not_kept_for_it(server: RedisServer, store: RedisStore) -> None:
    """Each try is a connection with megabytes that cannot be sent: they would add up."""
    await back(store, change())
    await asyncio.gather(*(store.save([change()]) for _ in range(3)))
    connected = open_files()
    server.pause()
    long = [store.save([change("long", last=100_000)]) for _ in range(3)]
    assert all(isinstance(each, StoreAwayError) for each in await asyncio.gather(*long, return_exceptions=True))
    while open_files() > connected - 3:
        await asyncio.sleep(0.01)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
