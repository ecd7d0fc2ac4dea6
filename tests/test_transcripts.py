"""GET /sessions/{id}/transcript: what was heard, also for those who do not speak."""

import httpx
import pytest

from tests.gateway import START, Client, Gateway, run_gateway
from tests.redis_server import RedisServer
from tests.test_gateways import gateways
from tests.test_resume import STOP
from tests.upstream import BYTES_PER_SECOND, ScriptedUpstream, hears_bytes

GAP = {"type": "gap", "bytes": BYTES_PER_SECOND, "reason": "muted"}


async def a_session(gateway: Gateway) -> str:
    """Two finals, a gap, and its end. Its id."""
    async with Client.connect(gateway) as client:
        await client.say(START, bytes(BYTES_PER_SECOND), bytes(BYTES_PER_SECOND), GAP, STOP)
        await client.hear_all()
        session_id: str = client.heard("started")[0]["session_id"]
        return session_id


async def read(gateway: Gateway, session_id: str, query: str = "") -> httpx.Response:
    return await gateway.get(f"/sessions/{session_id}/transcript{query}")


async def test_a_session_can_be_read_after_its_end(gateway: Gateway) -> None:
    answer = await read(gateway, await a_session(gateway))
    body = answer.json()
    assert [event["type"] for event in body["events"]] == ["final", "final", "gap", "stopped"]
    assert (body["last_event"], body["ended"]) == (4, True)
    assert (answer.headers["last-event"], answer.headers["session-ended"]) == ("4", "true")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("?format=txt", "0-32000\n32000-64000\n[... audio missing: muted]\n"),
        ("?format=txt&after=1", "32000-64000\n[... audio missing: muted]\n"),
        ("?format=txt&after=4", ""),
        ("?format=srt&after=2", "3\n00:00:02,000 --> 00:00:03,000\n[... audio missing: muted]\n\n"),
        (
            "?format=vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n0-32000\n\n00:00:01.000 --> 00:00:02.000\n32000-64000\n\n"
            "00:00:02.000 --> 00:00:03.000\n[... audio missing: muted]\n\n",
        ),
    ],
)
async def test_it_comes_as_captions_too(gateway: Gateway, query: str, text: str) -> None:
    answer = await read(gateway, await a_session(gateway), query)
    assert answer.text == text


async def test_a_second_reader_follows_a_session_by_its_cursor(gateway: Gateway) -> None:
    async with Client.connect(gateway) as client:
        await client.say(START, bytes(BYTES_PER_SECOND))
        session_id = (await client.hear("started"))["session_id"]
        await client.hear("final")
        first = (await read(gateway, session_id)).json()
        assert ([event["event"] for event in first["events"]], first["ended"]) == ([1], False)
        await client.say(bytes(BYTES_PER_SECOND))
        await client.hear("final")
        more = (await read(gateway, session_id, f"?after={first['last_event']}")).json()
        assert [event["event"] for event in more["events"]] == [2]


async def test_any_gateway_can_be_asked(upstream: ScriptedUpstream, redis: RedisServer) -> None:
    upstream.script = hears_bytes()
    async with gateways(upstream, redis) as (one, two):
        session_id = await a_session(one)
        assert (await read(two, session_id)).json() == (await read(one, session_id)).json()


async def test_it_is_kept_no_longer_than_the_setting_says(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", retention_seconds=0) as gateway:
        assert (await read(gateway, await a_session(gateway))).status_code == 404


@pytest.mark.parametrize(
    ("query", "param", "part"),
    [
        ("?after=-1", "after", "'-1'"),
        ("?after=x", "after", "'x'"),
        ("?after=99", "after", "99 is not allowed: the session's last event is 4"),
        ("?format=pdf", "format", "'pdf'"),
    ],
)
async def test_a_query_that_cannot_be_taken_is_refused_by_name(
    gateway: Gateway, query: str, param: str, part: str
) -> None:
    answer = await read(gateway, await a_session(gateway), query)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_config", param)
    assert part in error["message"]


async def test_a_session_that_never_was_is_unknown(gateway: Gateway) -> None:
    answer = await read(gateway, "nobody")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_unknown")
