"""A session outlives its connection: the client comes back with its token, and nothing is missing or there twice."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from app.settings import Settings
from tests.flaky import flaky
from tests.gateway import START, Client, Gateway, run_gateway
from tests.test_back_pressure import connected as narrowly_connected
from tests.test_back_pressure import talks
from tests.test_seams import check, name, names_samples, numbers, sound, until
from tests.upstream import BYTES_PER_SECOND, Call, Script, ScriptedUpstream

STOP = {"type": "stop"}


@pytest.fixture
async def lasting(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """Sessions wait a minute for their clients."""
    upstream.script = names_samples()
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60) as gateway:
        yield gateway


def resume(started: dict[str, Any], last_event: int = 0, **other: Any) -> dict[str, Any]:
    """`started`, or `resumed` with the session's id."""
    return {
        "type": "resume",
        "session_id": started["session_id"],
        "resume_token": started["resume_token"],
        "last_event": last_event,
    } | other


@asynccontextmanager
async def a_session_without_its_client(gateway: Gateway, audio: bytes) -> AsyncIterator[dict[str, Any]]:
    """Yields `started` of a session whose connection broke after `audio`, which it has."""
    async with Client.connect(gateway) as client:
        await client.say(START)
        started = await client.hear("started")
        await client.say(audio)
        while (await client.hear("ack"))["received"] < len(audio):
            pass
        await client.drop()
    await until(lambda: gateway.hub.sessions == 1 and not gateway.hub.registry.relays)
    yield started


async def refusal(gateway: Gateway, message: dict[str, Any]) -> tuple[str, int | None]:
    """The error's code, and the close code."""
    async with Client.connect(gateway) as client:
        await client.say(message)
        messages = await client.hear_all()
        return messages[-1]["code"], client.close_code


def once(event: asyncio.Event, script: Script) -> Script:
    """An upstream that reads nothing till then."""

    async def late(call: Call) -> AsyncIterator[Any]:
        await event.wait()
        async for response in script(call):
            yield response

    return late


async def test_a_client_that_comes_back_goes_on_where_it_was(lasting: Gateway) -> None:
    audio = sound(64_000)
    async with a_session_without_its_client(lasting, audio[:32_000]) as started:
        async with Client.connect(lasting) as client:
            await client.say(resume(started))
            resumed = await client.hear("resumed")
            assert resumed["offset"] == 32_000
            await client.say(audio[32_000:], STOP)
            messages = await client.hear_all()
            assert client.close_code == 1000
    check(messages, audio)
    assert messages[-1]["resumes"] == 1


async def test_exactly_the_events_after_last_event_are_replayed(lasting: Gateway) -> None:
    async with a_session_without_its_client(lasting, sound(32_000)) as session:
        for last_event in (0, 3, 9):
            async with Client.connect(lasting) as client:
                await client.say(resume(session, last_event))
                resumed = await client.hear("resumed")
                events = [(await client.hear("final"))["event"] for _ in range(resumed["replayed"])]
                assert events == list(range(last_event + 1, last_event + 1 + resumed["replayed"]))
                await client.drop()
            await until(lambda: not lasting.hub.registry.relays)
            session["resume_token"] = resumed["resume_token"]


async def test_what_became_final_meanwhile_waits(lasting: Gateway, upstream: ScriptedUpstream) -> None:
    answers = asyncio.Event()

    async def late(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            await answers.wait()
            yield call.final(name(call.audio), len(call.audio))

    upstream.script = late
    async with a_session_without_its_client(lasting, sound(3200)) as started:
        answers.set()
        async with Client.connect(lasting) as client:
            await client.say(resume(started))
            assert (await client.hear("final"))["text"] == "0-1599"


async def test_a_client_that_never_heard_resumed_comes_back_with_its_old_token(lasting: Gateway) -> None:
    async with a_session_without_its_client(lasting, sound(3200)) as started:
        async with Client.connect(lasting) as client:
            await client.say(resume(started))
            await until(lambda: lasting.hub.registry.relays)
            await client.drop()  # whatever was on its way
        async with Client.connect(lasting) as client:
            await client.say(resume(started))
            await client.hear("resumed")
            await client.say(STOP)
            assert (await client.hear("stopped"))["resumes"] == 2


async def test_a_token_works_once_and_only_the_right_one(lasting: Gateway) -> None:
    async with a_session_without_its_client(lasting, sound(3200)) as started:
        assert await refusal(lasting, resume(started, resume_token="x" * 43)) == ("session_unknown", 4404)
        assert await refusal(lasting, resume(started, session_id="nobody")) == ("session_unknown", 4404)
        async with Client.connect(lasting) as client:
            await client.say(resume(started))
            await client.hear("resumed")
            await client.say(sound(3200))
            while (await client.hear("ack"))["received"] < 6400:
                pass
            assert await refusal(lasting, resume(started)) == ("session_unknown", 4404)
            await client.say(STOP)
            await client.hear("stopped")


async def test_an_event_that_never_was_is_refused_by_name(lasting: Gateway) -> None:
    async with a_session_without_its_client(lasting, sound(6400)) as started:
        async with Client.connect(lasting) as client:
            await client.say(resume(started, 999))
            error = await client.hear("error")
    assert (error["code"], error["param"]) == ("invalid_config", "last_event")
    assert "999 is not allowed: the session's last event is" in error["message"]


async def test_the_newest_connection_wins_though_the_old_one_is_not_known_to_be_dead(lasting: Gateway) -> None:
    audio = sound(32_000)
    async with Client.connect(lasting) as old, Client.connect(lasting) as new:
        await old.say(START, audio[:16_000])
        started = await old.hear("started")
        await old.hear("final")
        await new.say(resume(started))
        offset = (await new.hear("resumed"))["offset"]
        told = await old.hear_all()
        assert (told[-1]["code"], old.close_code) == ("superseded", 4409)
        await new.say(audio[offset:], STOP)
        messages = await new.hear_all()
    check(messages, audio)


async def test_a_resume_that_the_network_brings_twice_costs_a_connection_and_no_session(lasting: Gateway) -> None:
    async with a_session_without_its_client(lasting, sound(3200)) as started:
        async with Client.connect(lasting) as client, Client.connect(lasting) as echo:
            await client.say(resume(started))
            resumed = await client.hear("resumed")
            await echo.say(resume(started))
            assert (await client.hear_all())[-1]["code"] == "superseded"
            await echo.drop()
        async with Client.connect(lasting) as client:
            await client.say(resume(started | resumed), STOP)
            await client.hear("stopped")


async def test_of_two_that_resume_at_once_the_later_one_goes_on(lasting: Gateway) -> None:
    """A request that was repeated on its way, say."""
    async with a_session_without_its_client(lasting, sound(3200)) as started:
        async with Client.connect(lasting) as one, Client.connect(lasting) as two:
            await asyncio.gather(one.say(resume(started)), two.say(resume(started)))
            await asyncio.gather(one.hear("resumed"), two.hear("resumed"))
            loser = await asyncio.wait_for(next_to_end(one, two), 10)
            assert loser.close_code == 4409


async def next_to_end(*clients: Client) -> Client:
    ends = {asyncio.create_task(client.hear_all()): client for client in clients}
    done, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return ends[done.pop()]


async def test_a_session_waits_so_long_and_no_longer(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=0.5) as gateway:
        async with a_session_without_its_client(gateway, sound(3200)) as started:
            await gateway.until_no_session()
            assert await refusal(gateway, resume(started)) == ("resume_window_expired", 4410)
        await until(lambda: upstream.open_calls == 0)


async def test_a_lost_resumed_costs_nothing_though_an_older_link_still_had_audio(
    upstream: ScriptedUpstream,
) -> None:
    """What that waited for is taken at last: it is no sign that the client has its newest token."""
    reads = asyncio.Event()
    upstream.script = once(reads, names_samples())
    audio = sound(128_000)
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", resume_window_seconds=60, upstream_speed=4
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *[audio[i : i + 16_000] for i in range(0, len(audio), 16_000)])
            started = await client.hear("started")
            await client.hear("throttle")
            await client.drop()
        await until(lambda: not gateway.hub.registry.relays)
        (live,) = gateway.hub.registry.lives.values()
        assert live.is_busy
        async with Client.connect(gateway) as client:
            await client.say(resume(started))
            await until(lambda: gateway.hub.registry.relays)
            await client.drop()  # before it has heard `resumed`
        await until(lambda: not gateway.hub.registry.relays)
        reads.set()
        await until(lambda: not live.is_busy)
        async with Client.connect(gateway) as client:
            await client.say(resume(started))
            offset = (await client.hear("resumed"))["offset"]
            await client.say(audio[offset:][:64_000], audio[offset:][64_000:], STOP)
            check(await client.hear_all(), audio)


async def test_a_client_that_leaves_while_it_is_pushed_back_has_left(upstream: ScriptedUpstream) -> None:
    """Its farewell is heard though what it sent before still waits."""
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", resume_window_seconds=60, upstream_speed=1
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *[sound(16_000)] * 8)
            await client.hear("throttle")
            await client.socket.close(1000)
        await gateway.until_no_session()


async def test_a_client_that_closes_in_good_order_does_not_come_back(lasting: Gateway) -> None:
    async with Client.connect(lasting) as client:
        await client.say(START, sound(3200))
        started = await client.hear("started")
        await client.socket.close(1000)
    await lasting.until_no_session()
    assert await refusal(lasting, resume(started)) == ("session_ended", 4410)


async def test_a_session_that_has_ended_says_so(lasting: Gateway) -> None:
    async with Client.connect(lasting) as client:
        await client.say(START, STOP)
        started = await client.hear("started")
        await client.hear_all()
    await lasting.until_no_session()
    assert await refusal(lasting, resume(started)) == ("session_ended", 4410)


async def test_the_end_that_a_client_has_missed_is_told_when_it_comes_back(
    lasting: Gateway, upstream: ScriptedUpstream
) -> None:
    """It said `stop` and lost its connection; it does not know whether `stop` was heard, and says it again."""
    flushes = asyncio.Event()

    async def late(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        await flushes.wait()
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = late
    audio = sound(6400)
    async with Client.connect(lasting) as client:
        await client.say(START, audio)
        started = await client.hear("started")
        call = await upstream.called(1)
        await client.say(STOP)
        await until(lambda: call.half_closed)
        await client.drop()
    flushes.set()
    await call.ended.wait()
    async with Client.connect(lasting) as client:
        await client.say(resume(started), STOP)
        messages = await client.hear_all()
    check(messages, audio)
    await lasting.until_no_session()


async def test_an_idle_client_is_closed_and_may_come_back(upstream: ScriptedUpstream) -> None:
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", resume_window_seconds=60, idle_timeout_seconds=0.5
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START)
            messages = await client.hear_all()
            assert (messages[-1]["code"], client.close_code) == ("idle_timeout", 4408)
        async with Client.connect(gateway) as client:
            await client.say(resume(messages[0]), STOP)
            assert (await client.hear("stopped"))["resumes"] == 1


async def test_a_client_that_does_not_read_is_closed_and_comes_back_for_every_final(upstream: ScriptedUpstream) -> None:
    upstream.script = talks(finals=40, interims=200, done=asyncio.Event())
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", resume_window_seconds=60, send_timeout_seconds=0.5
    ) as gateway:
        async with Client.connect(gateway, sock=await narrowly_connected(gateway)) as client:
            await client.say(START)
            started = await client.hear("started")
            client.socket.transport.pause_reading()
            await client.say(sound(3200))
            await until(lambda: gateway.hub.sessions == 1 and not gateway.hub.registry.relays)
            client.socket.transport.resume_reading()
            before = await client.hear_all()
            assert client.close_code == 4408
        async with Client.connect(gateway) as client:
            await client.say(resume(started, max(message.get("event", 0) for message in before)), STOP)
            after = await client.hear_all()
            assert client.close_code == 1000
    finals = [message["text"] for message in before + after if message["type"] == "final"]
    assert finals == [f"final {number}" for number in range(40)]


async def test_a_connection_that_is_half_open_is_noticed_by_a_ping(upstream: ScriptedUpstream) -> None:
    """Nobody says that it is dead: its client is away after a ping without an answer, and may come back."""
    defaults = Settings.model_fields
    assert defaults["ping_interval_seconds"].default + defaults["ping_timeout_seconds"].default <= 40
    async with (
        run_gateway(
            upstream=f"grpc://{upstream.address}",
            resume_window_seconds=60,
            ping_interval_seconds=0.2,
            ping_timeout_seconds=0.2,
        ) as gateway,
        flaky(gateway.port) as network,
    ):
        way = Gateway(network.port, gateway.hub)
        async with Client.connect(way, ping_interval=None) as client:
            await client.say(START)
            started = await client.hear("started")
            network.go_silent()
            await until(lambda: gateway.hub.sessions == 1 and not gateway.hub.registry.relays)
            async with Client.connect(way) as again:
                await again.say(resume(started), STOP)
                assert (await again.hear("stopped"))["resumes"] == 1
            await client.drop()


async def test_audio_that_waits_for_the_upstream_is_not_lost_with_the_connection(
    lasting: Gateway, upstream: ScriptedUpstream
) -> None:
    """What `resumed.offset` says is there, is there: also what was still on its way to a stream that reads nothing."""
    reads = asyncio.Event()
    upstream.script = once(reads, names_samples(every=BYTES_PER_SECOND))
    audio = sound(128_000)
    async with Client.connect(lasting) as client:
        await client.say(START, *[audio[i : i + 16_000] for i in range(0, len(audio), 16_000)])
        started = await client.hear("started")
        await client.hear("throttle")
        await client.drop()
    async with Client.connect(lasting) as client:
        await client.say(resume(started))
        offset = (await client.hear("resumed"))["offset"]
        reads.set()
        await client.say(*[audio[i : i + 16_000] for i in range(offset, len(audio), 16_000)], STOP)
        messages = await client.hear_all()
    check(messages, audio)


async def test_a_gateway_that_stops_ends_the_sessions_that_wait(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60) as gateway:
        async with a_session_without_its_client(gateway, sound(3200)):
            pass
    assert upstream.open_calls == 0


async def test_sessions_that_wait_take_their_places(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60, max_sessions=1) as gateway:
        async with a_session_without_its_client(gateway, sound(3200)) as started:
            assert await refusal(gateway, START) == ("overloaded", 1013)
            async with Client.connect(gateway) as client:
                await client.say(resume(started))
                await client.hear("resumed")


async def test_a_full_gateway_lets_its_own_clients_in(upstream: ScriptedUpstream) -> None:
    """The place of a client is still taken by its old connection, which is dead, as nobody has noticed yet."""
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60, max_sessions=1) as gateway:
        async with Client.connect(gateway) as old:
            await old.say(START)
            started = await old.hear("started")
            assert await refusal(gateway, START) == ("overloaded", 1013)
            async with Client.connect(gateway) as client:
                await client.say(resume(started))
                assert (await client.hear_one())["type"] == "resumed"


async def test_who_comes_back_in_the_moment_when_the_wait_ends_is_told_so(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is slow: the time is over while it is asked."""
    monkeypatch.setattr("app.registry.TICK_SECONDS", 0.02)
    upstream.script = names_samples()
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=0.3) as gateway:
        store = gateway.hub.registry.journal.store
        save, expired = store.save, asyncio.Event()

        async def slow(changes: Any) -> list[int]:
            await expired.wait()
            return await save(changes)

        async with a_session_without_its_client(gateway, sound(3200)) as started:
            (live,) = gateway.hub.registry.lives.values()
            monkeypatch.setattr(store, "save", slow)
            async with Client.connect(gateway) as client:
                await client.say(resume(started))
                await until(lambda: live.session.over)
                expired.set()
                messages = await client.hear_all()
                assert (messages[-1]["code"], client.close_code) == ("resume_window_expired", 4410)
        assert not gateway.hub.registry.relays


async def test_a_gateway_that_drains_begins_no_session(upstream: ScriptedUpstream) -> None:
    """Not even for who connected before."""
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60) as gateway:
        async with Client.connect(gateway) as client:
            gateway.hub.registry.closing = True
            await client.say(START)
            messages = await client.hear_all()
    assert (messages[-1]["code"], client.close_code) == ("restarting", 1012)


@pytest.mark.parametrize("seed", range(20))
async def test_random_cuts_cost_no_sample(lasting: Gateway, upstream: ScriptedUpstream, seed: int) -> None:
    """Connections that break at any moment; the client keeps what is not final, as the protocol says."""
    dice = random.Random(seed)
    upstream.script = names_samples(every=dice.choice([1000, 3200, 20_000]))
    audio = sound(100_000)
    finals: list[str] = []
    events: list[int] = []
    session: dict[str, Any] = {}

    def note(message: dict[str, Any]) -> None:
        session.update({key: message[key] for key in ("session_id", "resume_token") if key in message})
        if "event" in message:
            events.append(message["event"])
        if message["type"] == "final":
            finals.append(message["text"])

    async def speak(client: Client) -> None:
        """Until the audio is over, or the connection, or the patience."""
        hello = await client.hear_one()
        at = hello.get("offset", 0)
        while at < len(audio):
            frame = audio[at : at + dice.choice([640, 641, 3200, 20_000])]
            await client.say(frame)
            at += len(frame)
            if dice.random() < 0.2:
                await client.hear_one()
            if dice.random() < 0.2:
                return
        await client.say(STOP)
        while dice.random() < 0.9:
            await client.hear_one()

    async def link(first: dict[str, Any]) -> bool:
        """One connection; whether it was the last one. What had come before it broke, counts."""
        async with Client.connect(lasting) as client:
            await client.say(first)
            with suppress(ConnectionClosed):
                await speak(client)
            if client.socket.state is State.OPEN:  # else it has answered the gateway's close, and has all before it
                await client.drop()
            for message in await client.hear_all():
                note(message)
            return bool(client.heard("stopped"))

    first = START
    while not await link(first):
        first = resume(session, events[-1] if events else 0)
    assert [n for text in finals for n in numbers(text)] == list(range(len(audio) // 2))
    assert events == list(range(1, len(events) + 1))


@pytest.mark.parametrize("there", [True, False], ids=["with its client", "without it"])
async def test_a_session_that_fails_in_its_tick_fails_alone(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, there: bool
) -> None:
    """The others are ticked on: one that is idle is still closed."""

    def fails(_: float) -> None:
        raise RuntimeError("a fault of ours")

    async with run_gateway(
        upstream=f"grpc://{upstream.address}", resume_window_seconds=60, idle_timeout_seconds=1
    ) as gateway:
        async with Client.connect(gateway) as client, Client.connect(gateway) as other:
            await client.say(START)
            await client.hear("started")
            (live,) = gateway.hub.registry.lives.values()
            if not there:
                await client.drop()
                await until(lambda: not gateway.hub.registry.relays)
            await other.say(START)
            await other.hear("started")
            monkeypatch.setattr(live, "tick", fails)
            if there:
                assert (await client.hear_all())[-1]["code"] == "internal"
            await until(lambda: live not in gateway.hub.registry.lives.values())
            assert (await other.hear_all())[-1]["code"] == "idle_timeout"
    assert "a fault of ours" in caplog.text
