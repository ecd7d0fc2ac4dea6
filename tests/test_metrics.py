"""What /metrics counts, seen from outside; and its table in the docs."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics, table
from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.upstream import BYTES_PER_SECOND, Call, ScriptedUpstream

SECOND = b"\1\2" * (BYTES_PER_SECOND // 2)
ROOT = Path(__file__).parent.parent


async def counted(gateway: Gateway) -> dict[str, float]:
    """Every sample that is not 0, as `name{label}`."""
    answer = await gateway.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for sample in samples
        if sample.value and not sample.name.endswith("_created")
    }


async def test_a_session_is_counted_when_it_is_over(gateway: Gateway) -> None:
    await transcribe(gateway, SECOND, {"type": "gap", "bytes": 64_000, "reason": "muted"}, SECOND)
    await gateway.until_no_session()
    assert await counted(gateway) == {
        "gateway_sessions_total{stopped}": 1,
        "gateway_audio_seconds_total": 2,
        "gateway_gap_seconds_total{muted}": 2,
        "gateway_finals_total": 2,
        "gateway_legs_total{OK}": 2,
        "gateway_billed_seconds_total": 2,
    }


async def test_audio_that_is_heard_again_after_a_failure_is_counted(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Of 1.5 s the first stream made none final: the second one hears them again, and half a second more."""

    async def fails_once(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if call is upstream.calls[0] and len(call.audio) == 48_000:
                await call.context.abort(grpc.StatusCode.ABORTED, "told to fail")
        yield call.final("all", len(call.audio))
        yield call.billed(2)

    upstream.script = fails_once
    async with Client.connect(gateway) as client:
        await client.say(START, SECOND, SECOND[:16_000])
        await upstream.called(2)
        await client.say(SECOND[:16_000], {"type": "stop"})
        await client.hear_all()
    await gateway.until_no_session()
    seen = await counted(gateway)
    assert seen["gateway_legs_total{ABORTED}"] == seen["gateway_legs_total{OK}"] == 1
    assert seen["gateway_replayed_seconds_total"] == 1.5
    assert seen["gateway_billed_seconds_total"] == 2


def final_before_the_end(call: Call) -> AsyncIterator[Any]:
    """At 1.5 s of the first stream, its first second becomes final; all the rest where a stream ends."""

    async def script() -> AsyncIterator[Any]:
        async for _ in call.hear():
            if call.audio.startswith(b"first") and len(call.audio) == 48_000:
                yield call.final("first", 32_000)
        yield call.final("rest", len(call.audio))
        yield call.billed(2)

    return script()


async def test_a_planned_change_of_streams_replays_what_came_since_the_last_final(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """The second stream begins at 1 s, of which half a second went up before. The log's closing line says so, too."""
    caplog.set_level(logging.INFO, "app.registry")
    upstream.script = final_before_the_end
    async with run_gateway(upstream=f"grpc://{upstream.address}", leg_soft_limit_seconds=0.001) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, b"first" + bytes(48_000 - 5))
            await client.hear("final")
            await client.say(SECOND[:16_000], {"type": "stop"})
            stopped = (await client.hear_all())[-1]
        await gateway.until_no_session()
        seen = await counted(gateway)
    assert (stopped["upstream_streams"], stopped["billed_ms"], stopped["replayed_ms"]) == (2, 4000, 500)
    assert seen["gateway_legs_total{OK}"] == 2
    assert seen["gateway_replayed_seconds_total"] == 0.5
    assert seen["gateway_billed_seconds_total"] == 4
    assert seen["gateway_audio_seconds_total"] == 2
    (closing,) = [line for line in caplog.messages if " closed: " in line]
    assert closing.endswith("stopped, 2.0 s, 64000 bytes, 2 finals, 2 legs, replayed 0.5 s, billed 4.0 s, 0 resumes")


async def test_a_stream_that_is_cut_off_with_its_session_is_counted(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async with Client.connect(gateway) as client:
        await client.say(START, SECOND)
        await client.hear("final")
        assert (await counted(gateway))["gateway_open_sessions"] == 1
    await gateway.until_no_session()
    seen = await counted(gateway)
    assert seen["gateway_sessions_total{left}"] == seen["gateway_legs_total{CANCELLED}"] == 1
    assert "gateway_open_sessions" not in seen


async def test_a_session_that_waited_for_a_place_in_vain_had_no_stream(upstream: ScriptedUpstream) -> None:
    async with (
        run_gateway(upstream=f"grpc://{upstream.address}", streams_per_channel=1, max_channels=1) as gateway,
        Client.connect(gateway) as first,
    ):
        await first.say(START, SECOND)
        await first.hear("final")
        async with Client.connect(gateway) as second:
            await second.say(START, SECOND)
            await second.hear("warning")
        while gateway.hub.sessions > 1:
            await asyncio.sleep(0.005)
        seen = await counted(gateway)
    assert seen["gateway_sessions_total{left}"] == 1
    assert not [name for name in seen if name.startswith("gateway_legs_total")]


async def test_a_failed_session_is_counted_by_its_error(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, {"type": "nonsense"})
            error = (await client.hear_all())[-1]
        await gateway.until_no_session()
        assert (await counted(gateway))[f"gateway_sessions_total{{{error['code']}}}"] == 1


async def test_nothing_of_a_client_can_be_read_from_what_is_counted(gateway: Gateway) -> None:
    """What it says of itself, the words that were heard, the session's names."""
    mine = {"client": {"name": "my-phone", "version": "7.7.7"}, "phrases": [{"value": "my-phrase"}]}
    messages = await transcribe(gateway, SECOND, {"type": "finalize", "id": "my-mark"}, **mine)
    await transcribe(gateway, {"type": "gap", "bytes": 2, "reason": "my-reason"}, **mine)
    await gateway.until_no_session()
    page = (await gateway.get("/metrics")).text
    assert "stopped" in page and "my-" not in page and "7.7.7" not in page
    started, spoken = messages[0], next(m for m in messages if m["type"] == "final")
    for value in (started["session_id"], started["resume_token"], spoken["text"], "en-US"):
        assert value in json.dumps(messages) and value not in page


def test_the_table_in_the_docs_is_what_is_counted() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == table(Metrics().registry)
