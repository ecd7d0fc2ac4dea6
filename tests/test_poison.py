"""Audio over which every stream fails: it costs as little as can be, and nothing of what others hear."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from app.core.breaker import Breaker
from app.core.protocol import Audio, SessionConfig
from app.core.recognition import Event, Finished
from app.speech import leg, retry
from app.speech.google import GoogleRecognizer
from app.speech.limits import LegLimits
from app.speech.v2 import SpeechV2
from tests.gateway import START, Client, run_gateway
from tests.test_pool import a_pool
from tests.test_seams import check, name, names_samples, sound, until
from tests.upstream import BYTES_PER_SECOND, Call, ScriptedUpstream

TENTH = BYTES_PER_SECOND // 10
POISON = b"\x39\x30" * TENTH
"""200 ms."""


async def survives_no_poison(call: Call) -> AsyncIterator[Any]:
    async for _ in call.hear():
        if call.audio[:2] != POISON[:2]:
            yield call.interim("so far", end=len(call.audio))
    if call.audio[:2] == POISON[:2]:
        await call.context.abort(grpc.StatusCode.INTERNAL, "Internal error encountered.")
    yield call.final("words", len(call.audio))


async def test_what_no_stream_survives_becomes_a_gap_while_the_client_speaks_on(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backoff counts its tries, though the stream after it speaks all the time."""
    monkeypatch.setattr(retry, "BACKOFF_CAP", 0.01)
    monkeypatch.setattr(leg, "HOLD_SECONDS", 0.0)
    upstream.script = survives_no_poison
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway, Client.connect(gateway) as client:
        listening = asyncio.create_task(client.hear_all())
        await client.say(START, POISON, {"type": "finalize"})
        while not client.heard("gap"):
            await client.say(bytes(TENTH))
            await asyncio.sleep(0.02)
        await client.say({"type": "stop"})
        messages = await listening
    told = [(m["type"], m["start_ms"]) for m in messages if m["type"] in ("gap", "final")]
    assert told == [("gap", 0), ("final", 200)]
    assert messages[-1]["gap_ms"] == 200


async def test_after_stop_what_others_heard_is_told(upstream: ScriptedUpstream) -> None:
    """Only the audio that nobody survives is a gap."""
    upstream.script = survives_no_poison
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", replay_seconds=10, max_utterance_seconds=9
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, POISON, {"type": "finalize"}, bytes(64_000), {"type": "stop"})
            await upstream.called(2)
            (live,) = gateway.hub.registry.lives.values()
            recognizer: Any = live._recognizer
            legs = recognizer._legs
            await until(lambda: any(leg.ended and leg.backlog for leg in legs._legs.values()))
            legs._retry._backoff.failures = 20
            await until(lambda: legs.is_away)
            recognizer.tick(asyncio.get_running_loop().time() + 11)
            messages = await client.hear_all()
    told = [(m["type"], m["start_ms"]) for m in messages if m["type"] in ("gap", "final")]
    assert told == [("gap", 0), ("final", 200)]
    assert messages[-1]["gap_ms"] == 200


async def test_a_leg_that_is_retired_before_its_first_step_ends(upstream: ScriptedUpstream) -> None:
    """A guess and its end in one turn of the loop."""
    events: list[Event] = []
    upstream.script = names_samples(every=1_000_000)
    async with a_pool(upstream) as pool:
        recognizer = GoogleRecognizer(
            SessionConfig(audio=Audio("LINEAR16", 16_000), language_codes=["en-US"]),
            dialect=SpeechV2(project="p", location="global"),
            pool=pool,
            breaker=Breaker(20, 5),
            limits=LegLimits(speed=1000),
            gate=None,
            listen=events.append,
        )
        await recognizer.send(sound(120_000))
        legs = recognizer._legs
        await until(lambda: legs._newest and legs._newest.sent >= 110_000)
        older = legs._newest
        assert older is not None
        legs._guess(older, asyncio.get_running_loop().time())
        assert legs._take_back(older)
        await recognizer.finish()
        await until(lambda: any(isinstance(event, Finished) for event in events))
        await recognizer.close()


async def test_the_second_final_of_a_response_is_void_where_the_first_ends_the_leg(upstream: ScriptedUpstream) -> None:
    """A younger stream has failed, and both finals wait for the older one. It is old: the next one hears the rest."""
    failed = asyncio.Event()

    async def script(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if len(upstream.calls) == 2 and call is upstream.calls[1] and len(call.audio) >= 12_800:
                response = call.final(name(call.audio[:6400]), 6400)
                response.results.extend(call.final(name(call.audio[6400:12_800]), 12_800).results)
                yield response
                failed.set()
                await call.context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        if call is upstream.calls[0]:
            await failed.wait()
            (live,) = gateway.hub.registry.lives.values()
            recognizer: Any = live._recognizer
            await until(lambda: any(leg.ended for leg in recognizer._legs._legs.values()))
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = script
    audio = sound(25_600)
    async with run_gateway(upstream=f"grpc://{upstream.address}", leg_soft_limit_seconds=0.01) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:6400], {"type": "finalize"}, audio[6400:19_200])
            await client.hear("finalized")
            await client.say(audio[19_200:], {"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)
