"""How much a principal may, and all together: on one gateway, and on two that share a Redis."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.core.grant import ANYBODY, Bounds
from app.quota import quota
from app.quota.account import Account
from tests.credentials import Keyring
from tests.gateway import START, Client, Gateway, run_gateway
from tests.principals import admits, grant
from tests.redis_server import RedisServer, redis_server
from tests.test_auth import Stage
from tests.test_resume import STOP, refusal, resume
from tests.test_seams import until
from tests.upstream import ScriptedUpstream, hears_bytes

SECOND = 32_000


@asynccontextmanager
async def gateways(
    kind: str, upstream: ScriptedUpstream, redis: RedisServer | None, **settings: Any
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two on one Redis; in memory twice the same."""
    common = {"upstream": f"grpc://{upstream.address}", "resume_window_seconds": 60.0} | settings
    async with AsyncExitStack() as stack:
        if kind == "memory" or redis is None:
            alone = await stack.enter_async_context(run_gateway(**common))
            yield alone, alone
            return
        raw = await stack.enter_async_context(Redis.from_url(redis.url))
        await raw.flushdb()  # each test has the limits for itself
        one, other = [await stack.enter_async_context(run_gateway(**common, store=redis.url)) for _ in range(2)]
        yield one, other


@pytest.fixture(scope="module")
def own_redis() -> Any:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


async def start(stack: AsyncExitStack, gateway: Gateway, *more: Any) -> Client:
    client = await stack.enter_async_context(Client.connect(gateway))
    await client.say(START, *more)
    await client.hear("started")
    return client


async def refused(
    gateway: Gateway, message: dict[str, Any] = START, **options: Any
) -> tuple[dict[str, Any], int | None]:
    """In-band: the error, and the close code."""
    async with Client.connect(gateway, **options) as client:
        with suppress(ConnectionClosed):  # a browser that was refused at the upgrade
            await client.say(message)
        return (await client.hear_all())[-1], client.close_code


async def refused_at_the_upgrade(gateway: Gateway) -> tuple[int, int, dict[str, Any]]:
    """Status, Retry-After, and the error."""
    with pytest.raises(InvalidStatus) as caught:
        async with Client.connect(gateway):
            pass
    response = caught.value.response
    error: dict[str, Any] = json.loads(response.body)["error"]
    return response.status_code, int(response.headers["Retry-After"]), error


# Sessions at the same time ----------------------------------------------------------------------


async def test_sessions_at_the_same_time_are_counted_on_all_gateways(
    kind: str, upstream: ScriptedUpstream, own_redis: RedisServer
) -> None:
    async with gateways(kind, upstream, own_redis) as (one, other), AsyncExitStack() as stack:
        for gateway in {one.port: one, other.port: other}.values():
            admits(gateway, grant(max_sessions=2))
        first = await start(stack, one)
        await start(stack, other)
        error, code = await refused(one)
        assert (error["code"], code, error["retry_after_ms"]) == ("too_many_sessions", 4429, 5000)
        assert error["message"] == "this principal has 2 sessions, the limit, on all gateways together"
        error, code = await refused(other, origin=other.http)
        assert (error["code"], code) == ("too_many_sessions", 4429), "a browser, the same"
        await start(stack, admits(one, grant("another", max_sessions=2)))
        admits(one, grant(max_sessions=2))
        await first.say(STOP)
        await first.hear_all()
        while (await refusal_or_none(other)) is not None:
            pass


async def refusal_or_none(gateway: Gateway) -> str | None:
    async with Client.connect(gateway) as client:
        await client.say(START)
        message = await client.hear_one()
        if message["type"] == "started":
            await client.say(STOP)
            await client.hear_all()
            return None
        return str(message["code"])


async def test_a_session_without_its_client_keeps_its_place_and_can_be_resumed_anywhere(
    kind: str, upstream: ScriptedUpstream, own_redis: RedisServer
) -> None:
    """A resume is never refused because all places are taken: one of them is its own. It has one on any gateway."""
    async with gateways(kind, upstream, own_redis) as (one, other), AsyncExitStack() as stack:
        for gateway in (one, other):
            admits(gateway, grant(max_sessions=1))
        client = await start(stack, one, bytes(SECOND))
        session = client.heard("started")[0]
        await client.hear("final")
        await client.drop()
        assert (await refused(other))[0]["code"] == "too_many_sessions"
        again = await stack.enter_async_context(Client.connect(other))
        await again.say(resume(session, last_event=1))
        await again.hear("resumed")
        await until(lambda: one is other or not one.hub.sessions)
        for gateway in (one, other):
            assert (await refused(gateway))[0]["code"] == "too_many_sessions", "it has kept the place, and one only"
        await again.say(STOP)
        assert (await again.hear("stopped"))["resumes"] == 1


async def test_more_connections_than_its_sessions_need_are_refused_at_the_upgrade(upstream: ScriptedUpstream) -> None:
    async with gateways("memory", upstream, None) as (gateway, _), AsyncExitStack() as stack:
        admits(gateway, grant(max_sessions=1))
        for _ in range(2):
            await stack.enter_async_context(Client.connect(gateway))
        await until(lambda: gateway.hub._sockets == 2)
        status, retry_after, error = await refused_at_the_upgrade(gateway)
        assert (status, retry_after, error["code"]) == (429, 5, "too_many_sessions")
        assert error["message"] == "this principal has 2 connections: more than its 1 sessions need"
        async with Client.connect(gateway, origin=gateway.http) as browser:
            assert (await browser.hear("error"))["code"] == "too_many_sessions"
            await browser.hear_all()
            assert browser.close_code == 4429
        await start(stack, admits(gateway, grant("another", max_sessions=1)))


# Starts a minute --------------------------------------------------------------------------------


async def test_starts_a_minute_are_counted_on_all_gateways(
    kind: str, upstream: ScriptedUpstream, own_redis: RedisServer
) -> None:
    """At the upgrade, too, where the principal has nothing that could be resumed."""
    async with gateways(kind, upstream, own_redis) as (one, other), AsyncExitStack() as stack:
        for gateway in (one, other):
            admits(gateway, grant(starts_per_minute=2))
        first, second = await start(stack, one), await start(stack, other)
        error, code = await refused(other)
        assert (error["code"], code) == ("rate_limited", 4429)
        assert error["message"] == "2 sessions of this principal were started within a minute, the limit"
        assert 1000 <= error["retry_after_ms"] <= 60_000
        for client in (first, second):
            await client.say(STOP)
            await client.hear_all()
        await one.until_no_session()
        await other.until_no_session()
        status, retry_after, error = await refused_at_the_upgrade(one)
        assert (status, error["code"]) == (429, "rate_limited")
        assert 1 <= retry_after <= 60
        assert (await refused(other, origin=other.http))[1] == 4429


async def test_starts_of_all_together_have_a_limit_too(
    kind: str, upstream: ScriptedUpstream, own_redis: RedisServer
) -> None:
    settings = {"total_starts_per_minute": 2}
    async with gateways(kind, upstream, own_redis, **settings) as (one, other), AsyncExitStack() as stack:
        await start(stack, admits(one, grant("p")))
        await start(stack, admits(one, ANYBODY))
        error, code = await refused(admits(other, ANYBODY))
        assert (error["code"], code) == ("rate_limited", 4429)
        assert error["message"] == "2 sessions of all were started within a minute, the limit"
        status, _, error = await refused_at_the_upgrade(admits(other, grant("q")))
        assert (status, error["code"]) == (429, "rate_limited"), "it has nothing to go on with"


# Budgets ----------------------------------------------------------------------------------------

BUDGETS: dict[str, tuple[dict[str, Any], dict[str, Any], str, int | None]] = {
    "of the principal": (
        {"budget_seconds": 2},
        {},
        "the budget of 2 billed seconds in 30 days for this principal",
        quota.MONTH,
    ),
    "of the principal, by the settings": (
        {},
        {"principal_budget_seconds": 2},
        "the budget of 2 billed seconds in 30 days for this principal",
        quota.MONTH,
    ),
    "of all": (
        {},
        {"total_budget_seconds": 2},
        "the budget of 2 billed seconds in 30 days for all together",
        quota.MONTH,
    ),
    "of the session": (
        {"bounds": Bounds(budget_seconds=2)},
        {},
        "the budget of 2 billed seconds for this session",
        None,
    ),
    "audio a day": (
        {"audio_seconds_per_day": 2},
        {},
        "the 2 seconds of audio a day for this principal",
        quota.DAY,
    ),
    "audio a day, of all": (
        {},
        {"total_audio_seconds_per_day": 2},
        "the 2 seconds of audio a day for all together",
        quota.DAY,
    ),
}


@pytest.mark.parametrize("whose", BUDGETS)
async def test_words_up_to_the_budget_are_all_told_and_none_after_it(
    kind: str, whose: str, upstream: ScriptedUpstream, own_redis: RedisServer
) -> None:
    """What was accepted is final before the error comes; nothing more went upstream. Who starts another one is
    refused, on any gateway."""
    granted, settings, name, window = BUDGETS[whose]
    upstream.script = hears_bytes(20_000)
    async with gateways(kind, upstream, own_redis, **settings) as (one, other):
        for gateway in (one, other):
            admits(gateway, grant(**granted))
        async with Client.connect(one) as client:
            await client.say(START, bytes(range(250)) * 180, bytes(range(250)) * 180, {"type": "finalize", "id": "x"})
            messages = await client.hear_all()
            assert client.close_code == 4429
        session, error = client.heard("started")[0], messages[-1]
        texts = [message["text"] for message in client.heard("final")]
        assert texts == ["0-20000", "20000-40000", "40000-60000", "60000-64000"]
        assert [m["event"] for m in messages if "event" in m] == [1, 2, 3, 4]
        assert bytes(upstream.calls[0].audio) == (bytes(range(250)) * 360)[:64_000]
        assert client.heard("ack")[-1]["final"] == 64_000
        acks = [message["received"] for message in client.heard("ack")]
        assert acks == sorted(acks)
        [warning] = client.heard("warning")
        assert (warning["code"], warning["message"].partition(":")[0]) == ("budget", name)
        assert (error["code"], error["message"]) == ("budget_exhausted", f"{name}: all of it is used up")
        assert error["retryable"]
        if window is None:
            assert "retry_after_ms" not in error, "it is never renewed"
        else:
            assert 0 < error["retry_after_ms"] <= 1000 * window + 1
        await one.until_no_session()
        if window is None:
            assert await refusal(other, resume(session, last_event=4)) == ("session_ended", 4410)
            assert await refusal_or_none(other) is None, "another session has a budget of its own"
            return
        status, _, error = await refused_at_the_upgrade(other)
        assert (status, error["code"]) == (429, "budget_exhausted"), "it has nothing to go on with"
        error, code = await refused(other, origin=other.http)
        assert (error["code"], error["message"], code) == ("budget_exhausted", f"{name}: all of it is used up", 4429)


@pytest.mark.parametrize("there", [0, 1])
async def test_a_session_whose_budget_is_used_up_is_over_also_where_there_is_more_of_it_later(
    kind: str, upstream: ScriptedUpstream, own_redis: RedisServer, there: int
) -> None:
    async with gateways(kind, upstream, own_redis) as both:
        admits(both[0], grant(budget_seconds=1))
        async with Client.connect(both[0]) as client:
            await client.say(START, bytes(2 * SECOND))
            session = await client.hear("started")
            assert (await client.hear_all())[-1]["code"] == "budget_exhausted"
        admits(both[there], grant(budget_seconds=100))
        assert await refusal(both[there], resume(session, last_event=1)) == ("session_ended", 4410)
        assert await refusal_or_none(both[there]) is None


async def test_a_client_is_warned_once_at_80_percent_and_what_is_left_can_be_used_to_its_end(
    upstream: ScriptedUpstream,
) -> None:
    """Who stops then is stopped in good order."""
    async with gateways("memory", upstream, None) as (gateway, _):
        admits(gateway, grant(budget_seconds=10))
        async with Client.connect(gateway) as client:
            await client.say(START, *[bytes(SECOND)] * 7)
            while (await client.hear("ack"))["received"] < 7 * SECOND:
                pass
            assert client.heard("warning") == []
            await client.say(bytes(SECOND))
            warning = await client.hear("warning")
            assert warning["message"] == "the budget of 10 billed seconds in 30 days for this principal: 2 s are left"
            await client.say(*[bytes(SECOND)] * 2, STOP)
            await client.hear_all()
            assert client.close_code == 1000
            assert len(client.heard("warning")) == 1
            assert client.heard("stopped")[0]["audio_ms"] == 10_000


async def test_what_was_not_used_is_free_for_others_again(
    kind: str, upstream: ScriptedUpstream, own_redis: RedisServer
) -> None:
    """Each session reserves ahead of its need."""
    async with gateways(kind, upstream, own_redis) as (one, other):
        for gateway in (one, other):
            admits(gateway, grant(budget_seconds=3, audio_seconds_per_day=3))
        for gateway in (one, other, one):
            async with Client.connect(gateway) as client:
                await client.say(START, bytes(SECOND), STOP)
                assert (await client.hear_all())[-1]["type"] == "stopped"
                await gateway.until_no_session()
        assert (await refused(one, origin=one.http))[0]["code"] == "budget_exhausted"


async def test_what_is_heard_again_after_a_failure_is_paid_again(upstream: ScriptedUpstream) -> None:
    """The upstream bills it twice: the budget is used up earlier."""
    usual = hears_bytes(SECOND)

    async def breaks(call: Any) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if len(call.audio) >= 2 * SECOND:
                upstream.script = usual
                yield call.billed(2)
                await call.context.abort(grpc.StatusCode.UNAVAILABLE, "x")

    upstream.script = breaks
    async with gateways("memory", upstream, None) as (gateway, _):
        admits(gateway, grant(budget_seconds=4))
        async with Client.connect(gateway) as client:
            await client.say(START, bytes(2 * SECOND), {"type": "finalize"})
            await client.hear("finalized")
            live: Any = next(iter(gateway.hub.registry.lives.values()))
            await until(lambda: live.session.transcript.billed_ms == 4000)
            await client.say(bytes(SECOND))
            messages = await client.hear_all()
            assert messages[-1]["code"] == "budget_exhausted"
            assert [message["text"] for message in client.heard("final")] == ["0-32000", "32000-64000"]


async def test_a_takeover_does_not_renew_the_budget_of_a_session(
    upstream: ScriptedUpstream, own_redis: RedisServer
) -> None:
    """Nor is it the one of the credential that it was resumed with."""
    async with gateways("redis", upstream, own_redis) as (one, other):
        admits(one, grant(bounds=Bounds(budget_seconds=3, max_session_seconds=100)))
        admits(other, grant(bounds=Bounds(budget_seconds=100)))
        async with Client.connect(one) as client:
            await client.say(START, bytes(2 * SECOND), {"type": "finalize"})
            started = await client.hear("started")
            assert started["limits"]["max_session_ms"] == 100_000
            await client.hear("finalized")
            await client.drop()
        last = max(message["event"] for message in client.messages if "event" in message)
        async with Client.connect(other) as client:
            await client.say(resume(started, last_event=last))
            assert (await client.hear("resumed"))["offset"] == 2 * SECOND
            await client.say(bytes(2 * SECOND))
            messages = await client.hear_all()
            assert messages[-1]["code"] == "budget_exhausted"
            assert sum(len(call.audio) for call in upstream.calls) == 3 * SECOND


async def test_a_session_is_no_longer_than_its_credential_allows(upstream: ScriptedUpstream) -> None:
    async with gateways("memory", upstream, None, max_session_seconds=50) as (gateway, _):
        for bound, told in [(10.0, 10_000), (99.0, 50_000), (None, 50_000)]:
            admits(gateway, grant(bounds=Bounds(max_session_seconds=bound)))
            async with Client.connect(gateway) as client:
                await client.say(START)
                assert (await client.hear("started"))["limits"]["max_session_ms"] == told


async def test_captions_wait_for_no_answer_while_something_is_reserved(upstream: ScriptedUpstream) -> None:
    """The next block is asked for before it is needed; only where nothing is left audio waits for it."""
    async with gateways("memory", upstream, None) as (gateway, _):
        admits(gateway, grant(budget_seconds=60))
        async with Client.connect(gateway) as client:
            await client.say(START)
            await client.hear("started")
            live: Any = next(iter(gateway.hub.registry.lives.values()))
            account: Account = live._account
            answer = asyncio.Event()
            books: Any = account._books
            add = books.add

            async def late(*asked: Any) -> int:
                await answer.wait()
                was: int = await add(*asked)
                return was

            books.add = late
            await client.say(*[bytes(SECOND)] * 5)
            while (await client.hear("final"))["end_ms"] < 5000:
                pass
            await client.say(bytes(SECOND))
            await until(lambda: live.session.received == 6 * SECOND)
            assert len(upstream.calls[0].audio) == 5 * SECOND
            answer.set()
            await client.say(STOP)
            assert (await client.hear("stopped"))["audio_ms"] == 6000


# With real credentials --------------------------------------------------------------------------


async def test_a_keys_entry_goes_before_the_settings_for_all_tokens_that_it_made(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """They are of one principal. One that may not start has not used its token."""
    keyring = Keyring(tmp_path)
    keyring.add("app", "max_sessions = 2")
    settings: dict[str, Any] = {"principal_sessions": 1, "resume_window_seconds": 60.0, **keyring.settings}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway, AsyncExitStack() as stack:
        phones = Stage(gateway, keyring)
        clients = []
        for _ in range(2):
            clients.append(await stack.enter_async_context(phones.come("header", await phones.minted())))
            await clients[-1].say(START)
            await clients[-1].hear("started")
        token = await phones.minted()
        async with phones.come("url", token) as third:
            await third.say(START)
            assert (await third.hear("error"))["code"] == "too_many_sessions"
        await clients[0].say(STOP)
        await clients[0].hear_all()
        await until(lambda: gateway.hub.sessions == 1)
        async with phones.come("url", token) as third:
            await third.say(START)
            await third.hear("started")


async def test_a_one_time_token_opens_a_session_with_the_budget_and_the_length_that_it_was_made_with(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    keyring = Keyring(tmp_path)
    async with run_gateway(upstream=f"grpc://{upstream.address}", **keyring.settings) as gateway:
        phones = Stage(gateway, keyring)
        token = await phones.minted(budget_seconds=1, max_session_seconds=30)
        async with phones.come("subprotocol", token) as client:
            await client.say(START, bytes(2 * SECOND))
            assert (await client.hear("started"))["limits"]["max_session_ms"] == 30_000
            assert (await client.hear_all())[-1]["code"] == "budget_exhausted"
            assert [message["text"] for message in client.heard("final")] == ["0-32000"]


# Redis is away ----------------------------------------------------------------------------------


@pytest.mark.parametrize("away", ["open", "refuse"])
async def test_while_redis_is_away_sessions_run_on_and_new_ones_are_as_the_setting_says(
    upstream: ScriptedUpstream, away: str
) -> None:
    with redis_server() as redis:
        settings: dict[str, Any] = {"store": redis.url, "store_away": away, "upstream": f"grpc://{upstream.address}"}
        async with run_gateway(**settings) as gateway, AsyncExitStack() as stack:
            admits(gateway, grant(budget_seconds=60, max_sessions=2))
            client = await start(stack, gateway, bytes(SECOND))
            redis.kill()
            await client.say(*[bytes(SECOND)] * 9)
            while (await client.hear("final"))["end_ms"] < 10_000:
                pass
            if away == "refuse":
                assert await refusal(gateway, START) == ("overloaded", 1013)
            else:
                await start(stack, gateway)
                assert (await refused(gateway))[0]["code"] == "too_many_sessions"
            redis.start()
            await until(lambda: not gateway.hub._quota.away)
            await client.say(STOP)
            assert (await client.hear("stopped"))["audio_ms"] == 10_000
