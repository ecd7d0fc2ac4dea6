"""What the store on Redis keeps there, how it asks, and where. The rules of the port: test_store.py."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from app.core.errors import SessionError
from app.store import FENCED, Store, StoreAwayError, Stored
from app.store_redis import Command, RedisStore, _batches
from tests.redis_server import RedisServer, free_port, redis_server
from tests.stores import InRedis, On, change, events, in_redis, record, stores


@pytest.fixture
async def kept(redis: RedisServer) -> AsyncIterator[InRedis]:
    async with in_redis(redis.url) as running:
        yield running


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Of one test, which may do with it what it likes."""
    with redis_server() as running:
        yield running


@pytest.fixture
async def on() -> AsyncIterator[On]:
    async with stores() as opening:
        yield opening


async def verdict_on(store: Store, session_id: str) -> str:
    try:
        await store.claim(session_id, "t")
    except SessionError as error:
        return error.code
    return "claimed"


# Scripts and round trips ------------------------------------------------------------------------


async def test_scripts_that_redis_has_forgotten_are_told_again(server: RedisServer) -> None:
    async with in_redis(server.url) as kept:
        for number in range(1, 4):
            await kept.raw.script_flush()
            assert await kept.store.save([change(f"{name}", first=1, last=number) for name in range(9)]) == [number] * 9
            await kept.raw.script_flush()
            assert await kept.store.read("0", 0) == Stored(record("0", last=number), events(1, number))
            await kept.raw.script_flush()
            assert (await kept.store.claim(f"{number}", "t")).record.epoch == 2
            await kept.store.save([change(f"{number}", epoch=3)])
            await kept.raw.delete(*[key async for key in kept.raw.scan_iter(f"{kept.prefix}:*")])


async def test_two_hundred_changes_are_one_round_trip(redis: RedisServer, kept: InRedis, on: On) -> None:
    """The answers are held back until all has been asked."""
    await kept.store.save([change(f"{number}", last=2) for number in range(200)])
    held_back = HeldBack(redis.port, until=200)
    async with await asyncio.start_server(held_back.serve, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        store = on(f"redis://127.0.0.1:{port}", prefix=kept.prefix)
        assert await store.save([change(f"{number}", first=3, last=3) for number in range(200)]) == [3] * 200
        await store.close()
        await held_back.closed.wait()


class HeldBack:
    """A proxy that lets no answer to a script through before so many scripts were asked for."""

    def __init__(self, target: int, until: int) -> None:
        self.asked = 0
        self.closed = asyncio.Event()
        self._target = target
        self._until = until
        self._enough = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(self._ask(reader, back))
            pumps.create_task(self._answer(there, writer))
        self.closed.set()

    async def _ask(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while line := await source.readline():
            async with self._enough:
                self.asked += line == b"EVALSHA\r\n"
                self._enough.notify()
            sink.write(line)
        sink.close()

    async def _answer(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            async with self._enough:
                await self._enough.wait_for(lambda: self.asked in (0, self._until))
            sink.write(data)
        sink.close()


def test_no_round_trip_is_large_unless_one_change_alone_is() -> None:
    """So each has its time, and the event loop is others' meanwhile."""
    commands: list[Command] = [
        ("EVALSHA", number, "x" * size) for number, size in enumerate([9, 9, 200_000, 90_000, 9])
    ]
    assert list(_batches([*commands, ("EVALSHA", 5, "x" * 900_000), commands[0]])) == [
        commands[:3],
        commands[3:],
        [("EVALSHA", 5, "x" * 900_000)],
        commands[:1],
    ]


async def test_whole_transcripts_of_many_are_written_when_redis_has_lost_its_memory(kept: InRedis) -> None:
    changes = [change(f"{number}", last=2000) for number in range(40)]
    assert await kept.store.save(changes) == [2000] * 40
    assert [change.record.last_event for change in changes] == await kept.store.save(changes)


async def test_all_clients_of_another_gateway_may_come_at_once(kept: InRedis) -> None:
    await kept.store.save([change(f"{number}", last=3) for number in range(300)])
    claims = await asyncio.gather(*(kept.store.claim(f"{number}", "t") for number in range(300)))
    assert [claim.record.session_id for claim in claims] == [f"{number}" for number in range(300)]


# Two gateways -----------------------------------------------------------------------------------


async def test_who_takes_over_writes_however_often_the_other_has_written(kept: InRedis, on: On) -> None:
    for number in range(1, 6):
        await kept.store.save([change(first=number, last=number)])
    other = on(kept.url, prefix=kept.prefix)
    await other.claim("s", "t")
    assert await other.save([change(epoch=2, first=6, last=6)]) == [6]
    assert await kept.store.save([change(first=6, last=6)]) == [FENCED]
    assert (await kept.store.claim("s", "t")).events == events(1, 5) + events(6, 6, epoch=2)
    assert await kept.store.save([change(epoch=3, first=7, last=7)]) == [7]


async def test_of_two_that_claim_one_session_each_has_an_epoch_and_the_last_one_has_it(kept: InRedis, on: On) -> None:
    both = [kept.store, on(kept.url, prefix=kept.prefix)] * 10
    await kept.store.save([change(last=2)])
    claims = await asyncio.gather(*(store.claim("s", "t") for store in both))
    epochs = [claim.record.epoch for claim in claims]
    assert sorted(epochs) == list(range(2, 22))
    written = await asyncio.gather(
        *(store.save([change(epoch=epoch, first=3, last=3)]) for store, epoch in zip(both, epochs, strict=True))
    )
    assert [answer for [answer] in written] == [3 if epoch == 21 else FENCED for epoch in epochs]


# What Redis holds -------------------------------------------------------------------------------


async def test_by_the_clock_of_redis_a_session_expires_and_is_forgotten(kept: InRedis) -> None:
    await kept.store.save([change("short", last=1, keep=0.05), change("left", resume=0.05, last=1)])
    assert 0 < await kept.raw.pttl(f"{kept.prefix}:{{left}}") <= 1_000_000
    assert 0 < await kept.raw.pttl(f"{kept.prefix}:{{left}}:events") <= 1_000_000
    while await kept.store.read("short", 0):
        pass
    while (verdict := await verdict_on(kept.store, "left")) == "claimed":
        pass
    assert verdict == "resume_window_expired"
    assert not await kept.raw.exists(f"{kept.prefix}:{{short}}", f"{kept.prefix}:{{short}}:events")


async def test_a_record_of_a_newer_version_can_be_read(kept: InRedis) -> None:
    await kept.store.save([change(last=1)])
    known = msgspec.to_builtins(record(last=1))
    newer = {**known, "mood": "good", "tally": {**known["tally"], "words": 7}}
    newer["config"] = {**known["config"], "translate": {"to": "de"}}
    newer["config"]["audio"] = {**known["config"]["audio"], "bits": 24}
    newer["config"]["phrases"] = [{"value": "Gera", "boost": 1.5, "sound": "x"}]
    await kept.raw.hset(f"{kept.prefix}:{{s}}", "record", msgspec.json.encode(newer).decode())
    found = await kept.store.read("s", 0)
    assert found and found.record.config.phrases and found.record.config.phrases[0].value == "Gera"
    assert (await kept.store.claim("s", "t")).record == msgspec.structs.replace(found.record, epoch=2)


async def test_a_record_of_an_older_version_can_be_read(kept: InRedis) -> None:
    await kept.store.save([change(last=1)])
    older = msgspec.to_builtins(record(last=1))
    del older["tally"], older["over"], older["config"]["max_alternatives"]
    await kept.raw.hset(f"{kept.prefix}:{{s}}", "record", msgspec.json.encode(older).decode())
    assert await kept.store.read("s", 0) == Stored(record(last=1), events(1, 1))
    assert await kept.store.claim("s", "t") == Stored(record(last=1, epoch=2), events(1, 1))


async def test_a_record_that_cannot_be_read_is_for_another_gateway(kept: InRedis) -> None:
    await kept.store.save([change(last=1)])
    strange = {**msgspec.to_builtins(record(last=1)), "settled": "all"}
    await kept.raw.hset(f"{kept.prefix}:{{s}}", "record", msgspec.json.encode(strange).decode())
    with pytest.raises(StoreAwayError, match="settled"):
        await kept.store.read("s", 0)
    with pytest.raises(StoreAwayError, match="settled"):
        await kept.store.claim("s", "t")


async def test_a_record_whose_events_redis_has_evicted_is_not_there(kept: InRedis) -> None:
    await kept.store.save([change(last=3)])
    await kept.raw.delete(f"{kept.prefix}:{{s}}:events")
    assert await kept.store.read("s", 0) is None
    with pytest.raises(SessionError, match="is not known here"):
        await kept.store.claim("s", "t")
    assert await kept.store.save([change(first=4, last=4)]) == [0]
    assert await kept.store.save([change(last=4)]) == [4]
    assert await kept.store.read("s", 0) == Stored(record(last=4), events(1, 4))


async def test_what_is_no_record_is_replaced_and_disturbs_no_other(kept: InRedis) -> None:
    await kept.store.save([change("fenced", epoch=9), change("events")])
    for key in ("{s}", "{late}", "{events}:events"):
        await kept.raw.set(f"{kept.prefix}:{key}", "junk")
    changes = [
        change("a", last=1),
        change(last=2),
        change("late", first=2, last=2),
        change("fenced"),
        change("events", last=3),
    ]
    assert await kept.store.save([*changes, change("b", last=1)]) == [1, 2, 0, FENCED, 3, 1]
    assert await kept.store.read("s", 0) == Stored(record(last=2), events(1, 2))
    assert await kept.store.read("events", 0) == Stored(record("events", last=3), events(1, 3))


async def test_both_keys_of_a_session_are_on_one_node_of_a_cluster(kept: InRedis) -> None:
    await kept.store.save([change("S1", last=1)])
    assert {key async for key in kept.raw.scan_iter(f"{kept.prefix}:*")} == {
        f"{kept.prefix}:{{S1}}",
        f"{kept.prefix}:{{S1}}:events",
    }


# The URL ----------------------------------------------------------------------------------------


async def test_the_url_says_database_user_and_password(server: RedisServer, on: On) -> None:
    async with Redis.from_url(server.url, decode_responses=True) as raw:
        await raw.config_set("requirepass", "s3cr/t@?")
        for url in (
            f"redis://:s3cr%2Ft%40%3F@127.0.0.1:{server.port}/3",
            f"redis://default:s3cr%2Ft%40%3F@127.0.0.1:{server.port}?db=3",
        ):
            assert await on(url).save([change(last=1)]) == [1]
        assert (await raw.info("keyspace"))["db3"]["keys"] == 2
    for url in (f"redis://:hunter2@127.0.0.1:{server.port}/3", f"redis://127.0.0.1:{server.port}/3"):
        with pytest.raises(StoreAwayError, match=r"(?i)auth|password") as caught:
            await on(url).read("s", 0)
        assert "hunter2" not in str(caught.value)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A key and its own certificate, in one file."""
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    made, named = tmp_path / "made.pem", ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    kind = ("req", "-x509", "-newkey", "rsa:2048", "-nodes")
    key = tmp_path / "key.pem"
    subprocess.run([openssl, *kind, *named, "-keyout", key, "-out", made], check=True, capture_output=True)
    made.write_text(key.read_text() + made.read_text())
    return made


async def test_with_rediss_it_is_tls_and_the_certificate_is_checked(pem: Path, on: On) -> None:
    port = free_port()
    files = ["--tls-cert-file", f"{pem}", "--tls-key-file", f"{pem}", "--tls-auth-clients", "no"]
    with redis_server("--tls-port", f"{port}", *files):
        assert await on(f"rediss://127.0.0.1:{port}?ssl_ca_certs={pem}").save([change(last=1)]) == [1]
        with pytest.raises(StoreAwayError, match="CERTIFICATE_VERIFY_FAILED"):
            await on(f"rediss://127.0.0.1:{port}").read("s", 0)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "memory://",
        "http://:hunter2@localhost",
        "unix://:hunter2@/tmp/redis.sock",
        "redis://",
        "redis://:hunter2",
        "redis://:hunter2/x@localhost",
        "redis://:hunter2@localhost:port",
        "redis://:hunter2@localhost:0",
        "redis://:hunter2@localhost:70000",
        "redis://:hunter2@localhost/one",
        "redis://:hunter2@localhost/0/1",
        "redis://:hunter2@localhost?db=one",
        "redis://:hunter2@localhost?no_such_option=1",
        "redis://:hunter2[@localhost",
        "redis://:[hunter2]@localhost",
        "redis://:1?hunter2@localhost",
        "redis://:1#hunter2@localhost",
        "rediss://:hunter2@localhost?ssl_cert_reqs=some",
    ],
)
def test_a_wrong_url_is_refused_and_shows_no_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"^the URL of Redis is wrong: .+; it is redis://HOST:PORT/") as caught:
        RedisStore(url)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://u:p@[::1]:7000/15?ssl_cert_reqs=none", "redis://h:1/"])
def test_a_url_is_taken_as_redis_py_takes_it(url: str) -> None:
    RedisStore(url)


# The page ---------------------------------------------------------------------------------------


async def test_the_page_measures_what_a_session_takes(server: RedisServer) -> None:
    page = Path(__file__).parents[1].joinpath("docs/store.md").read_text()
    program = page.partition("<<'END'\n")[2].partition("\nEND\n")[0].replace("redis://localhost", server.url)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    written, _ = await process.communicate()
    assert written == b"[1000, 1000]\n"
    async with Redis.from_url(server.url) as raw:
        for key in ("captions:{hour}", "captions:{hour}:events", "captions:{words}", "captions:{words}:events"):
            assert await raw.memory_usage(key, samples=0)
