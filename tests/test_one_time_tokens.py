"""One-time tokens where several gateways share one Redis: each is used once, wherever that is."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.credentials import Keyring
from tests.gateway import START, Client, Gateway
from tests.redis_server import RedisServer, redis_server
from tests.test_gateways import gateways
from tests.test_resume import STOP, resume
from tests.upstream import ScriptedUpstream


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


@pytest.fixture
async def two(upstream: ScriptedUpstream, redis: RedisServer, keyring: Keyring) -> AsyncIterator[list[Gateway]]:
    async with gateways(upstream, redis, **keyring.settings) as running:
        yield running


async def mint(gateway: Gateway, keyring: Keyring) -> httpx.Response:
    headers = {"Authorization": f"Bearer {keyring.keys['app']}"}
    async with httpx.AsyncClient() as http:
        return await http.post(f"{gateway.http}/tokens", json={}, headers=headers)


async def come(gateway: Gateway, token: str, first: dict[str, Any]) -> dict[str, Any]:
    """With the token in the URL; the first answer, and a connection that breaks."""
    async with connect(f"{gateway.url}?token={token}", compression=None) as socket:
        client = Client(socket)
        await client.say(first)
        answer = await client.hear_one()
        await client.drop()
        return answer


async def test_a_token_that_one_gateway_made_is_good_at_another_and_once(two: list[Gateway], keyring: Keyring) -> None:
    token = (await mint(two[0], keyring)).json()["token"]
    started = await come(two[1], token, START)
    assert started["type"] == "started"
    for gateway in two:
        assert (await come(gateway, token, START))["code"] == "unauthenticated"
    answer = await come(two[0], token, resume(started, 0))
    assert answer["type"] == "resumed", "the device comes back, to another gateway"


async def test_of_many_who_come_at_once_with_one_token_one_comes_in(two: list[Gateway], keyring: Keyring) -> None:
    token = (await mint(two[0], keyring)).json()["token"]
    coming = [come(two[number % 2], token, START) for number in range(20)]
    answers = await asyncio.gather(*coming, return_exceptions=True)
    told = [answer for answer in answers if isinstance(answer, dict)]
    refused = [answer.response.status_code for answer in answers if isinstance(answer, InvalidStatus)]
    assert [answer["type"] for answer in told].count("started") == 1
    assert {answer["code"] for answer in told if answer["type"] == "error"} <= {"unauthenticated"}
    assert len(told) + len(refused) == 20 and set(refused) <= {429}


async def test_one_that_lost_the_race_leaves_no_session(two: list[Gateway], keyring: Keyring) -> None:
    token = (await mint(two[0], keyring)).json()["token"]
    async with connect(f"{two[0].url}?token={token}", compression=None) as first:
        async with connect(f"{two[0].url}?token={token}", compression=None) as second:  # both are in, with a fresh one
            winner, loser = Client(first), Client(second)
            await winner.say(START)
            await winner.hear("started")
            await loser.say(START)
            assert (await loser.hear_all())[-1]["code"] == "unauthenticated"
            assert two[0].hub.sessions == 1
            await winner.say(STOP)
            await winner.hear("stopped")


async def test_a_token_that_another_session_was_faster_to_take_costs_the_one_that_is_resumed_nothing(
    two: list[Gateway], keyring: Keyring
) -> None:
    """It waits for its client as before."""
    started = await come(two[0], (await mint(two[0], keyring)).json()["token"], START)
    fresh = (await mint(two[0], keyring)).json()["token"]
    async with connect(f"{two[0].url}?token={fresh}", compression=None) as late:
        assert (await come(two[1], fresh, START))["type"] == "started"
        client = Client(late)
        await client.say(resume(started, 0))
        assert (await client.hear_all())[-1]["code"] == "unauthenticated"
    waiting = two[0].hub.registry.lives[started["session_id"]].session
    assert waiting.detached_at is not None
    third = (await mint(two[0], keyring)).json()["token"]
    assert (await come(two[1], third, resume(started, 0)))["type"] == "resumed"


async def test_while_redis_is_away_none_is_made_and_none_is_taken(upstream: ScriptedUpstream, keyring: Keyring) -> None:
    """It is told as what it is, and who has a key comes in."""
    with redis_server() as redis:
        async with gateways(upstream, redis, 1, **keyring.settings) as (gateway,):
            token = (await mint(gateway, keyring)).json()["token"]
            redis.kill()
            answer = await mint(gateway, keyring)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
            with pytest.raises(InvalidStatus) as caught:
                await come(gateway, token, START)
            assert caught.value.response.status_code == 503
            key = {"Authorization": f"Bearer {keyring.keys['app']}"}
            async with Client.connect(gateway, additional_headers=key) as client:
                await client.say(START)
                await client.hear("started")
