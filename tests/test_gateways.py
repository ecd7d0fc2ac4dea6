"""Several gateways on one store: any of them goes on with any session, and only one of them at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from app import registry
from app.drain import drain
from tests.gateway import START, Client, Gateway, run_gateway
from tests.redis_server import RedisServer, redis_server
from tests.test_resume import STOP, refusal, resume
from tests.test_seams import check, name, names_samples, sound, until
from tests.upstream import Call, ScriptedUpstream


@asynccontextmanager
async def gateways(
    upstream: ScriptedUpstream, redis: RedisServer, count: int = 2, **settings: Any
) -> AsyncIterator[list[Gateway]]:
    """As many, on one store; their sessions wait a minute for their clients."""
    common = {"upstream": f"grpc://{upstream.address}", "store": redis.url, "resume_window_seconds": 60.0}
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(run_gateway(**(common | settings))) for _ in range(count)]


@pytest.fixture
async def two(upstream: ScriptedUpstream, redis: RedisServer) -> AsyncIterator[list[Gateway]]:
    upstream.script = names_samples()
    async with gateways(upstream, redis) as running:
        yield running


async def begin(gateway: Gateway, audio: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A session that has `audio` and lost its client. `started`, and what the client heard."""
    async with Client.connect(gateway) as client:
        await client.say(START, audio)
        while (await client.hear("ack"))["received"] < len(audio):
            pass
        await client.drop()
        return client.heard("started")[0], [m for m in client.messages if "event" in m]


async def go_on(
    gateway: Gateway, session: dict[str, Any], heard: list[dict[str, Any]], audio: bytes
) -> list[dict[str, Any]]:
    """Resumes, sends what is missing of `audio`, and stops. Everything heard, from the session's beginning."""
    async with Client.connect(gateway) as client:
        await client.say(resume(session, len(heard)))
        resumed = await client.hear("resumed")
        await client.say(audio[resumed["offset"] :], STOP)
        messages = await client.hear_all()
        assert client.close_code == 1000
        return heard + messages[1:]


async def test_another_gateway_goes_on_with_the_session(two: list[Gateway]) -> None:
    audio = sound(64_000)
    session, heard = await begin(two[0], audio[:33_000])
    messages = await go_on(two[1], session, heard, audio)
    check(messages, audio)
    assert messages[-1]["resumes"] == 1
    await two[0].until_no_session()  # it has noticed that it was fenced


async def test_audio_that_was_not_final_is_sent_again(two: list[Gateway], upstream: ScriptedUpstream) -> None:
    """The first gateway heard it, but no final of it was told."""

    async def hears_only(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        yield call.billed(1)

    upstream.script = hears_only
    audio = sound(64_000)
    session, heard = await begin(two[0], audio[:32_000])
    upstream.script = names_samples()
    check(await go_on(two[1], session, heard, audio), audio)


async def test_from_gateway_to_gateway_and_back(two: list[Gateway]) -> None:
    """The first one still has the session as it was, and must not go on with that."""
    audio = sound(64_000)
    session, heard = await begin(two[0], audio[:20_000])
    async with Client.connect(two[1]) as client:
        await client.say(resume(session, len(heard)))
        resumed = await client.hear("resumed")
        await client.say(audio[resumed["offset"] : 40_000])
        while (await client.hear("ack"))["received"] < 40_000:
            pass
        await client.drop()
        heard += [m for m in client.messages if "event" in m]
    session["resume_token"] = resumed["resume_token"]
    check(await go_on(two[0], session, heard, audio), audio)


async def test_the_old_token_is_dead_everywhere_with_the_first_frame(
    upstream: ScriptedUpstream, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the next tick."""
    upstream.script = names_samples()
    monkeypatch.setattr(registry, "TICK_SECONDS", 3600)
    async with gateways(upstream, redis) as (one, two):
        session, _ = await begin(one, sound(3200))
        async with Client.connect(one) as client:
            await client.say(resume(session))
            await client.hear("resumed")
            await client.say(sound(2))
            store = one.hub.registry.journal.store
            while (stored := await store.read(session["session_id"], 0)) and len(stored.record.tokens) > 1:
                pass
            assert await refusal(two, resume(session)) == ("session_unknown", 4404)


async def test_the_old_connection_at_another_gateway_is_closed_superseded(two: list[Gateway]) -> None:
    async with Client.connect(two[0]) as old:
        await old.say(START, sound(3200))
        session = await old.hear("started")
        await old.hear("final")
        async with Client.connect(two[1]) as new:
            await new.say(resume(session))
            await new.hear("resumed")
            assert (await old.hear_all())[-1]["code"] == "superseded"
            assert old.close_code == 4409
            await new.say(STOP)
            await new.hear("stopped")


async def test_what_is_heard_by_a_gateway_that_lost_the_session_is_told_to_nobody(
    two: list[Gateway], upstream: ScriptedUpstream
) -> None:
    go = asyncio.Event()
    usual = names_samples()

    async def late(call: Call) -> AsyncIterator[Any]:
        async for response in usual(call):
            await go.wait()
            yield response

    upstream.script = late
    audio = sound(64_000)
    async with Client.connect(two[0]) as old:
        await old.say(START)
        session = await old.hear("started")
        await old.say(audio[:32_000])
        await upstream.called(1)
        upstream.script = usual
        messages = await go_on(two[1], session, [], audio)
        go.set()
        assert "final" not in [m["type"] for m in await old.hear_all()]
    check(messages, audio)


@pytest.mark.parametrize("there", [0, 1], ids=["here", "at another gateway"])
async def test_who_missed_stopped_may_come_back_for_it(
    two: list[Gateway], upstream: ScriptedUpstream, there: int
) -> None:
    """Its connection broke after `stop`, before the end came."""
    go = asyncio.Event()
    usual = names_samples(every=1_000_000)  # at the half-close

    async def late(call: Call) -> AsyncIterator[Any]:
        async for response in usual(call):
            await go.wait()
            yield response

    upstream.script = late
    audio = sound(6400)
    async with Client.connect(two[0]) as client:
        await client.say(START, audio, STOP)
        session = await client.hear("started")
        call = await upstream.called(1)
        await until(lambda: call.half_closed)
        await client.drop()
    await until(lambda: not two[0].hub.registry.relays)
    go.set()
    await until(
        lambda: all(live.session.ended and live.session.is_written for live in two[0].hub.registry.lives.values())
    )
    async with Client.connect(two[there]) as client:
        await client.say(resume(session))
        messages = await client.hear_all()
    check(messages, audio)
    assert await refusal(two[1 - there], resume(session, resume_token=messages[0]["resume_token"])) == (
        "session_ended",
        4410,
    )


async def test_a_wrong_token_opens_no_session_anywhere(two: list[Gateway]) -> None:
    session, _ = await begin(two[0], sound(3200))
    for gateway in two:
        assert await refusal(gateway, resume(session, resume_token="x" * 43)) == ("session_unknown", 4404)
    assert two[0].hub.sessions == 1, "and disturbs none"


async def test_a_client_that_left_comes_back_nowhere(two: list[Gateway]) -> None:
    async with Client.connect(two[0]) as client:
        await client.say(START)
        session = await client.hear("started")
    await two[0].until_no_session()
    assert await refusal(two[1], resume(session)) == ("session_ended", 4410)


async def test_two_that_resume_at_once_at_two_gateways_end_with_one(two: list[Gateway]) -> None:
    audio = sound(64_000)
    session, heard = await begin(two[0], audio[:20_000])

    async def try_it(gateway: Gateway) -> dict[str, Any]:
        async with Client.connect(gateway) as client:
            await client.say(resume(session, len(heard)))
            await client.hear_all()
            return client.messages[0] | {"close": client.close_code}

    rivals = [asyncio.create_task(try_it(gateway)) for gateway in two]
    done, waiting = await asyncio.wait(rivals, return_when=asyncio.FIRST_COMPLETED)
    assert (await done.pop())["close"] == 4409
    for rival in waiting:
        rival.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


# The store is away ----------------------------------------------------------------------------------------


async def test_without_the_store_sessions_go_on_and_say_that_they_could_not_move(upstream: ScriptedUpstream) -> None:
    upstream.script = names_samples()
    audio = sound(64_000)
    with redis_server() as redis:
        async with gateways(upstream, redis) as (one, two), Client.connect(one) as client:
            await client.say(START, audio[:16_000])
            session = await client.hear("started")
            redis.kill()
            await client.say(audio[16_000:32_000])
            while (await client.hear("warning"))["code"] != "not_resumable":
                pass
            await client.drop()
            assert await refusal(two, resume(session)) == ("overloaded", 1013)
            heard = [m for m in client.messages if "event" in m]
            async with Client.connect(one) as again:
                await again.say(resume(session, len(heard)))
                resumed = await again.hear("resumed")
                redis.restart(empty=True)
                while (await again.hear("warning"))["code"] != "resumable":
                    pass
                await again.drop()
                heard += [m for m in again.messages if "event" in m]
            session["resume_token"] = resumed["resume_token"]
            check(await go_on(two, session, heard, audio), audio)


async def test_without_the_store_no_gateway_says_that_it_knows_better(upstream: ScriptedUpstream) -> None:
    """It has the session no more, but has not heard of that: the client may come back, it is known elsewhere."""
    upstream.script = names_samples()
    with redis_server() as redis:
        async with gateways(upstream, redis) as (one, two):
            session, heard = await begin(one, sound(32_000))
            async with Client.connect(two) as client:
                await client.say(resume(session, len(heard)))
                session["resume_token"] = (await client.hear("resumed"))["resume_token"]
                redis.kill()
                assert await refusal(one, resume(session, len(heard))) == ("overloaded", 1013)


async def test_a_fault_of_ours_in_writing_does_not_end_the_writer(
    two: list[Gateway], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told as a store that is away, and logged."""
    store = two[0].hub.registry.journal.store

    async def fails(_: Any) -> list[int]:
        monkeypatch.undo()
        raise ValueError("ours")

    audio = sound(6400)
    async with Client.connect(two[0]) as client:
        await client.say(START)
        await client.hear("started")
        monkeypatch.setattr(store, "save", fails)
        await client.say(audio)
        assert (await client.hear("warning"))["code"] == "not_resumable"
        assert (await client.hear("warning"))["code"] == "resumable"
        await client.say(STOP)
        check(await client.hear_all(), audio)
    assert "ours" in caplog.text


async def test_what_was_told_while_the_store_was_away_is_written_before_another_gateway_goes_on(
    upstream: ScriptedUpstream,
) -> None:
    """The store is back, and does not know yet what the client has heard."""
    upstream.script = names_samples()
    audio = sound(64_000)
    with redis_server(persistent=True) as redis:
        async with gateways(upstream, redis) as (one, two), Client.connect(one) as client:
            await client.say(START, audio[:3200])
            session = await client.hear("started")
            await client.hear("final")
            redis.kill()
            await client.hear("warning")
            await client.say(audio[3200:6400])
            await client.hear("final")
            redis.restart(empty=False)
            heard = [m for m in client.messages if "event" in m]
            check(await go_on(two, session, heard, audio), audio)


async def test_a_client_that_has_heard_what_nobody_will_write_is_told_in_time(upstream: ScriptedUpstream) -> None:
    upstream.script = names_samples()
    with redis_server() as redis:
        async with gateways(upstream, redis) as (one, two):
            session, heard = await begin(one, sound(3200))
            assert await refusal(two, resume(session, len(heard) + 1)) == ("session_unknown", 4404)
            check(await go_on(one, session, heard, sound(6400)), sound(6400))


async def test_without_the_store_new_sessions_are_opened_without_a_promise(upstream: ScriptedUpstream) -> None:
    with redis_server() as redis:
        async with gateways(upstream, redis, 1) as (gateway,):
            redis.kill()
            async with Client.connect(gateway) as client:
                await client.say(START)
                assert (await client.hear_one())["type"] == "started"
                assert (await client.hear("warning"))["code"] == "not_resumable"
            assert (await gateway.get("/readyz")).status_code == 200


async def test_without_the_store_new_sessions_are_refused_where_that_is_wanted(upstream: ScriptedUpstream) -> None:
    with redis_server() as redis:
        async with gateways(upstream, redis, 1, store_away="refuse") as (gateway,):
            redis.kill()
            assert await refusal(gateway, START) == ("overloaded", 1013)
            ready = await gateway.get("/readyz")
            assert (ready.status_code, ready.json()["reason"]) == (
                503,
                "store: the store is away, without which no session is to be opened",
            )
            redis.start()
            while (await gateway.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
            async with Client.connect(gateway) as client:
                await client.say(START)
                await client.hear("started")


# Drain ----------------------------------------------------------------------------------------------------


async def test_a_gateway_that_drains_sends_its_clients_to_another_one(two: list[Gateway]) -> None:
    audio = sound(64_000)
    async with Client.connect(two[0]) as client:
        await client.say(START, audio[:32_000])
        session = await client.hear("started")
        while (await client.hear("ack"))["received"] < 32_000:
            pass
        draining = asyncio.create_task(drain(two[0].hub.registry, 25))
        away = await client.hear("go_away")
        assert away["reason"] == "drain"
        assert 0 < away["time_left_ms"] <= 20_000
        ready = await two[0].get("/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "draining: the gateway is shutting down")
        heard = [m for m in client.messages if "event" in m]
        check(await go_on(two[1], session, heard, audio), audio)
        await draining  # long before its time is over: nobody is left


async def test_a_session_without_its_client_is_left_to_the_others_at_once(two: list[Gateway]) -> None:
    audio = sound(64_000)
    session, heard = await begin(two[0], audio[:32_000])
    await drain(two[0].hub.registry, 25)
    assert two[0].hub.sessions == 0
    check(await go_on(two[1], session, heard, audio), audio)


async def test_who_stays_is_flushed_and_can_go_on_elsewhere(two: list[Gateway], upstream: ScriptedUpstream) -> None:
    """A client that does not know `go_away`."""
    audio = sound(64_000)
    upstream.script = names_samples(every=1_000_000)  # finals come at the flush only
    async with Client.connect(two[0]) as client:
        await client.say(START, audio[:32_000])
        session = await client.hear("started")
        while (await client.hear("ack"))["received"] < 32_000:
            pass
        await drain(two[0].hub.registry, 5)
        messages = await client.hear_all()
        assert (messages[-1]["code"], client.close_code) == ("restarting", 1012)
        heard = [m for m in messages if "event" in m]
        assert len(heard) == 1
    check(await go_on(two[1], session, heard, audio), audio)


async def test_who_is_closed_during_a_drain_can_go_on_elsewhere(upstream: ScriptedUpstream, redis: RedisServer) -> None:
    """As at any other time: being idle is no session's end."""
    upstream.script = names_samples()
    audio = sound(64_000)
    async with gateways(upstream, redis, idle_timeout_seconds=0.5) as (one, two):
        async with Client.connect(one) as client:
            await client.say(START, audio[:3200])
            session = await client.hear("started")
            draining = asyncio.create_task(drain(one.hub.registry, 25))
            messages = await client.hear_all()
            assert (messages[-1]["code"], client.close_code) == ("idle_timeout", 4408)
        check(await go_on(two, session, [m for m in messages if "event" in m], audio), audio)
        await draining


async def test_who_is_not_there_is_not_cut_within_a_word_though_the_store_was_away(upstream: ScriptedUpstream) -> None:
    """It is back, and the gateway does not know yet: what it wrote now would be the first half of an utterance."""
    audio = sound(64_000)
    with redis_server(persistent=True) as redis:
        async with gateways(upstream, redis) as (one, two):
            registry = one.hub.registry

            async def says_it_when_the_store_is_back(call: Call) -> AsyncIterator[Any]:
                async for _ in call.hear():
                    pass
                await until(lambda: not registry.journal.away)
                yield call.final(name(call.audio), len(call.audio))

            upstream.script = says_it_when_the_store_is_back
            session, heard = await begin(one, audio[:32_000])
            redis.kill()
            async with Client.connect(one) as witness:
                await witness.say(START)
                await until(lambda: registry.journal.away)
            redis.restart(empty=False)
            assert registry.journal.away
            await drain(registry, 25)
            messages = await go_on(two, session, heard, audio)
    assert [m["text"] for m in messages if m["type"] == "final"] == [name(audio)]
