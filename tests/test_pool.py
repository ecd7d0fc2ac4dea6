"""Channels to the upstream: so many legs each, opened before they are needed; and the line of those who wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from app.speech import pool as pool_module
from app.speech import starts
from app.speech.pool import CHANNEL_OPTIONS, NoPlace, Pool, PoolLimits
from app.speech.v2 import SpeechV2
from tests.gateway import START, Client, run_gateway
from tests.upstream import Call, ScriptedUpstream, hears_bytes

PATIENT: dict[str, Any] = {"leg_idle_seconds": 600, "answer_seconds": 600}
"""On a slow machine, too, a stream keeps its place although no audio comes, or no answer."""


@asynccontextmanager
async def a_pool(upstream: ScriptedUpstream, **limits: Any) -> AsyncIterator[Pool]:
    dialect = SpeechV2(project="p", location="global")
    pool = Pool(
        lambda: grpc.aio.insecure_channel(upstream.address, options=CHANNEL_OPTIONS),
        dialect.client,
        PoolLimits(**limits),
    )
    yield pool
    await pool.close()


async def test_a_channel_is_opened_before_the_others_are_full(upstream: ScriptedUpstream) -> None:
    async with a_pool(upstream, streams_per_channel=10, max_channels=3) as pool:
        for _ in range(9):
            await pool.acquire(running=False)
        assert pool.channels == 1
        await pool.acquire(running=False)
        assert pool.channels == 2
        for _ in range(20):
            await pool.acquire(running=False)
        assert (pool.channels, pool.legs, pool.full) == (3, 30, True)


async def test_nobody_comes_to_a_channel_that_may_be_dead(upstream: ScriptedUpstream) -> None:
    """Until something is heard through it; or there is no other."""
    async with a_pool(upstream, streams_per_channel=10, max_channels=2) as pool:
        dead, witness = [await pool.acquire(running=False) for _ in range(2)]
        dead.suspect()
        dead.release()
        dead.suspect()  # it is nobody's any more
        other = await pool.acquire(running=True)
        assert pool.channels == 2
        assert other.client is not witness.client
        other.suspect()
        assert (await pool.acquire(running=True)).client is witness.client, "the fullest one, as ever"
        witness.answers()
        assert (await pool.acquire(running=True)).client is witness.client
        assert pool.channels == 2


async def test_a_stream_that_was_given_up_is_followed_on_another_connection(upstream: ScriptedUpstream) -> None:
    """A connection that is dead without a word would take the next one, too."""
    peers = []

    async def first_is_dead(call: Call) -> AsyncIterator[Any]:
        peers.append(call.context.peer())
        if len(peers) == 1:
            await call.ended.wait()
        async for _ in call.hear():
            pass
        yield call.final("all", len(call.audio))

    upstream.script = first_is_dead
    async with run_gateway(upstream=f"grpc://{upstream.address}", answer_seconds=0.3) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, bytes(3200), {"type": "stop"})
            assert (await client.hear("final"))["text"] == "all"
    assert len(set(peers)) == 2


async def test_a_channel_that_stays_empty_is_closed_but_never_the_last(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "EMPTY_SECONDS", 0.01)
    async with a_pool(upstream, streams_per_channel=1, max_channels=3) as pool:
        leases = [await pool.acquire(running=False) for _ in range(3)]
        for lease in leases:
            lease.release()
            lease.release()  # once is enough, twice does no harm
        assert pool.legs == 0
        while pool.channels > 1:
            await asyncio.sleep(0.005)
        (await pool.acquire(running=False)).release()


async def test_a_channel_that_was_opened_ahead_and_never_needed_is_closed(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "EMPTY_SECONDS", 0.01)
    async with a_pool(upstream, streams_per_channel=1, max_channels=3) as pool:
        await pool.acquire(running=False)
        assert pool.channels == 2
        while pool.channels > 1:
            await asyncio.sleep(0.005)
        assert pool.legs == 1


async def test_who_finds_no_place_waits_and_running_sessions_come_first(upstream: ScriptedUpstream) -> None:
    async with a_pool(upstream, streams_per_channel=1, max_channels=1) as pool:
        lease = await pool.acquire(running=False)
        came: list[str] = []

        async def come(name: str, *, running: bool) -> None:
            mine = await pool.acquire(running=running)
            came.append(name)
            mine.release()

        waiting = [
            asyncio.create_task(come("new 1", running=False)),
            asyncio.create_task(come("new 2", running=False)),
            asyncio.create_task(come("running", running=True)),
        ]
        await asyncio.sleep(0)
        lease.release()
        await asyncio.gather(*waiting)
        assert came == ["running", "new 1", "new 2"]


async def test_a_tenth_of_the_upstreams_streams_is_for_sessions_that_run(upstream: ScriptedUpstream) -> None:
    """A new session waits; the next leg of one that runs does not, also while new ones wait."""
    async with a_pool(upstream, streams=20, wait=60) as pool:
        leases = [await pool.acquire(running=False) for _ in range(18)]
        assert pool.full
        assert pool.why_full == "all 18 of 20 (the rest is for sessions that run) streams to the upstream are taken"
        new = asyncio.create_task(pool.acquire(running=False))
        await asyncio.sleep(0)
        running = [await pool.acquire(running=True) for _ in range(2)]
        assert pool.why_full == "all 20 streams to the upstream are taken"
        last = asyncio.create_task(pool.acquire(running=True))
        await asyncio.sleep(0)
        running[0].release()
        await last
        running[1].release()
        await asyncio.sleep(0)
        assert not new.done(), "what was freed is kept"
        for lease in leases[:2]:
            lease.release()
        await new


async def test_a_tenth_of_the_upstreams_starts_is_for_sessions_that_run(upstream: ScriptedUpstream) -> None:
    async with a_pool(upstream, starts_per_minute=20, wait=0.3) as pool:
        for _ in range(18):
            (await pool.acquire(running=False)).release()
        said = "18 streams to the upstream were opened within a minute, and no other may be in 0.3 s"
        with pytest.raises(NoPlace, match=said):
            await pool.acquire(running=False)
        assert pool.full
        assert pool.legs == 0, "who gives up leaves no place behind"
        for _ in range(2):
            (await pool.acquire(running=True)).release()
        with pytest.raises(NoPlace, match="20 streams to the upstream were opened within a minute"):
            await pool.acquire(running=True)
        while pool.full:  # nobody waits any more
            await asyncio.sleep(0.01)


async def test_who_waits_for_a_start_gets_the_next_one(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "MINUTE", 1)
    async with a_pool(upstream, starts_per_minute=2, wait=60) as pool:
        for _ in range(5):
            (await pool.acquire(running=True)).release()


async def test_a_new_session_waits_in_sight_for_a_start_and_is_then_refused_by_name(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "MINUTE", 86_400)  # of a limit of one, none is left of it in the next one
    limits = {"upstream_starts_per_minute": 1, "admission_seconds": 1}
    async with (
        run_gateway(upstream=f"grpc://{upstream.address}", **limits, **PATIENT) as gateway,
        Client.connect(gateway) as first,
        Client.connect(gateway) as second,
    ):
        await first.say(START, bytes(3200))
        await upstream.called(1)
        await second.say(START, bytes(3200))
        warning = await second.hear("warning")
        assert warning["code"] == "upstream_retrying"
        assert "1 streams to the upstream were opened within a minute" in warning["message"]
        reason = (await gateway.get("/readyz")).json()["reason"]
        assert reason == "full: 1 streams to the upstream were opened within a minute"
        error = await second.hear("error")
        assert (error["code"], error["retryable"]) == ("overloaded", True)
        assert error["message"].startswith("1 streams to the upstream were opened within a minute")
        await first.say({"type": "stop"})
        assert (await first.hear("stopped"))["audio_ms"] == 100


async def test_who_waits_too_long_is_told_the_limit(upstream: ScriptedUpstream) -> None:
    async with a_pool(upstream, streams_per_channel=2, max_channels=1, wait=0.01) as pool:
        for _ in range(2):
            await pool.acquire(running=False)
        with pytest.raises(NoPlace, match=r"all 2 streams to the upstream are taken, and none ended in 0\.01 s"):
            await pool.acquire(running=True)


async def test_who_leaves_the_line_leaks_no_place(upstream: ScriptedUpstream) -> None:
    """Whether before it was called or in the very moment."""
    async with a_pool(upstream, streams_per_channel=1, max_channels=1) as pool:
        for called in (False, True):
            lease = await pool.acquire(running=False)
            leaver = asyncio.create_task(pool.acquire(running=False))
            await asyncio.sleep(0)
            if called:
                lease.release()
            leaver.cancel()
            await asyncio.gather(leaver, return_exceptions=True)
            lease.release()
            (await pool.acquire(running=False)).release()
        assert pool.legs == 0


async def test_a_place_that_is_freed_as_somebody_leaves_goes_to_the_next_in_line(upstream: ScriptedUpstream) -> None:
    """Many sessions end at once: who was first in line is gone, but has not run yet to say so."""
    async with a_pool(upstream, streams_per_channel=1, max_channels=1) as pool:
        lease = await pool.acquire(running=False)
        leaver = asyncio.create_task(pool.acquire(running=False))
        stayer = asyncio.create_task(pool.acquire(running=False))
        await asyncio.sleep(0)
        leaver.cancel()
        lease.release()
        (await stayer).release()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert pool.legs == 0
        (await pool.acquire(running=False)).release()


async def test_a_session_waits_for_its_stream_in_sight_and_is_then_refused_by_name(
    upstream: ScriptedUpstream,
) -> None:
    async with (
        run_gateway(
            upstream=f"grpc://{upstream.address}", streams_per_channel=1, max_channels=1, admission_seconds=2, **PATIENT
        ) as gateway,
        Client.connect(gateway) as first,
        Client.connect(gateway) as second,
    ):
        await first.say(START, bytes(3200))
        await upstream.called(1)
        reason = (await gateway.get("/readyz")).json()["reason"]
        assert reason == "full: all 1 streams to the upstream are taken"
        await second.say(START, bytes(3200))
        warning = await second.hear("warning")
        assert (warning["code"], warning["in_ms"]) == ("upstream_retrying", 2000)
        assert "all 1 streams to the upstream are taken" in warning["message"]
        error = await second.hear("error")
        assert error["code"] == "overloaded"
        assert error["message"] == "all 1 streams to the upstream are taken, and none ended in 2 s"
        assert error["retryable"]
        await second.hear_all()
        assert second.close_code == 1013
        await first.say({"type": "stop"})
        assert (await first.hear("stopped"))["audio_ms"] == 100


async def test_a_session_that_has_had_its_place_waits_for_the_next_one(upstream: ScriptedUpstream) -> None:
    """Nobody had spoken in it, so the upstream had said nothing: it is none the newer for that."""

    async def says_nothing(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        yield call.billed(1)

    upstream.script = says_nothing
    limits = {"streams_per_channel": 1, "max_channels": 1, "admission_seconds": 0.5, "leg_idle_seconds": 0.2}
    async with (
        run_gateway(upstream=f"grpc://{upstream.address}", **limits, answer_seconds=60) as gateway,
        Client.connect(gateway) as first,
        Client.connect(gateway) as second,
    ):
        await first.say(START, bytes(3200))
        await (await upstream.called(1)).ended.wait()  # parked
        await second.say(START, bytes(3200), {"type": "finalize"})
        await second.hear("finalized")
        upstream.script = hears_bytes(3200)
        holding = asyncio.create_task(keep_speaking(second))
        await upstream.called(3)
        await first.say(bytes(range(1, 101)) * 32)
        warning = await first.hear("warning")
        assert warning["message"].startswith("all 1 streams to the upstream are taken"), "it is not Google that refuses"
        live: Any = next(iter(gateway.hub.registry.lives.values()))
        while not live._recognizer._legs._retry.failing:  # its wait was in vain, and it waits on
            await asyncio.sleep(0.01)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        await second.say({"type": "stop"})
        await first.say({"type": "stop"})
        assert (await first.hear("stopped"))["finals"] == 2, "all of it, from the beginning"


async def keep_speaking(client: Client) -> None:
    while True:
        await client.say(bytes(range(1, 101)) * 32)
        await client.hear("ack")


async def test_a_session_that_waits_gets_the_next_place_and_loses_nothing(upstream: ScriptedUpstream) -> None:
    async with (
        run_gateway(upstream=f"grpc://{upstream.address}", streams_per_channel=1, max_channels=1, **PATIENT) as gateway,
        Client.connect(gateway) as first,
        Client.connect(gateway) as second,
    ):
        await first.say(START, bytes(3200))
        await upstream.called(1)
        await second.say(START, bytes(range(200)) * 16)
        await second.hear("warning")
        await first.say({"type": "stop"})
        await second.say(bytes(range(200)) * 16, {"type": "stop"})
        messages = await second.hear_all()
    assert messages[-1]["type"] == "stopped"
    assert bytes(upstream.calls[1].audio) == bytes(range(200)) * 32


async def test_300_sessions_on_connections_of_100_streams_none_behind_another() -> None:
    """Everybody has a final while everybody is there; no connection has more streams than it may."""
    everybody = 300
    per_connection: dict[str, int] = {}

    async def counted(call: Call) -> AsyncIterator[Any]:
        peer = call.context.peer()
        per_connection[peer] = per_connection.get(peer, 0) + 1
        async for response in hears_bytes(3200)(call):
            yield response

    async with ScriptedUpstream(counted, max_streams=100) as upstream:
        address = f"grpc://{upstream.address}"
        async with run_gateway(upstream=address, max_sessions=400, upstream_streams=400, **PATIENT) as gateway:
            async with AsyncExitStack() as stack:
                clients = []
                for _ in range(everybody):
                    clients.append(await stack.enter_async_context(Client.connect(gateway)))
                    await clients[-1].say(START)  # at once: the time for it is bounded
                await asyncio.gather(*[client.say(bytes(3200)) for client in clients])
                await asyncio.gather(*[client.hear("final") for client in clients])
                assert upstream.open_calls == everybody
                assert max(per_connection.values()) <= 100
                await asyncio.gather(*[client.say(bytes(3200), {"type": "stop"}) for client in clients])
                stopped = await asyncio.gather(*[client.hear("stopped") for client in clients])
    assert all(message["finals"] == 2 and message["upstream_streams"] == 1 for message in stopped)
