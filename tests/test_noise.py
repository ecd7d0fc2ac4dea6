"""Speech that was told and never brings words: noise, music, a door. It must be settled like silence is, and a stream
that is dead must still be noticed.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from app.speech import retry
from tests.gateway import START, Client, run_gateway, transcribe
from tests.test_seams import check, name, sound
from tests.upstream import BYTES_PER_SECOND, Call, Script, ScriptedUpstream

TENTH = BYTES_PER_SECOND // 10
LIMITS = {"answer_seconds": 0.3, "leg_quiet_seconds": 1, "max_utterance_seconds": 2}
DOUBTS, MUTE_DOUBTS = 3, 5


def tells_of_speech(upstream: ScriptedUpstream, *, every_leg: bool) -> Script:
    """BEGIN and nothing more: from every leg, as in music; or from the first one, which fails then."""

    async def script(call: Call) -> AsyncIterator[Any]:
        first = call is upstream.calls[0]
        async for _ in call.hear():
            if len(call.audio) == TENTH and (first or every_leg):
                yield call.activity(2, 0)
                if not every_leg:
                    await call.context.abort(grpc.StatusCode.ABORTED, "Max duration of 5 minutes reached for stream.")
        yield call.billed(1)

    return script


@pytest.mark.parametrize("every_leg", [True, False], ids=["music", "a noise before a failure"])
async def test_speech_that_brings_no_words_is_heard_in_peace_at_last(
    upstream: ScriptedUpstream, every_leg: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some legs are given up over it; the one after them hears it to a seam, and so do those that follow."""
    monkeypatch.setattr(retry, "BACKOFF_CAP", 0.1)
    upstream.script = tells_of_speech(upstream, every_leg=every_leg)
    given_up = DOUBTS if every_leg else 1 + MUTE_DOUBTS
    async with run_gateway(upstream=f"grpc://{upstream.address}", **LIMITS) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *[bytes(TENTH)] * 5)
            patient = await upstream.called(given_up + 1)
            seconds, final = 0, 0
            while final < 3 * BYTES_PER_SECOND:
                await client.say(*[bytes(TENTH)] * 10)
                seconds += 1
                final = (await client.hear("ack"))["final"]
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    assert len(patient.audio) > BYTES_PER_SECOND
    assert messages[-1]["type"] == "stopped"
    assert messages[-1]["gap_ms"] == 0
    assert messages[-1]["upstream_streams"] <= given_up + 1 + seconds


@pytest.mark.parametrize("silent", [1, 2, 3])
async def test_words_that_legs_leave_out_are_heard_by_the_next(upstream: ScriptedUpstream, silent: int) -> None:
    """Legs that tell of speech and go dead are given up while audio comes: nothing of it is lost."""

    async def goes_dead(call: Call) -> AsyncIterator[Any]:
        yield call.activity(2, 0)
        async for _ in call.hear():
            if call not in upstream.calls[:silent]:
                yield call.interim("so far", end=len(call.audio))
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = goes_dead
    audio = sound(48_000)
    async with run_gateway(upstream=f"grpc://{upstream.address}", answer_seconds=0.3) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:16_000])
            await upstream.called(silent + 1)
            await client.hear("interim")
            await client.say(audio[16_000:], {"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)
    assert messages[-1]["upstream_streams"] == silent + 1


async def deaf_at_first(upstream: ScriptedUpstream, deaf: int, audio: bytes) -> list[dict[str, Any]]:
    """So many streams take audio and never say anything; those after them hear it all."""

    async def script(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if call not in upstream.calls[:deaf]:
                yield call.interim("so far", end=len(call.audio))
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = script
    async with run_gateway(upstream=f"grpc://{upstream.address}", answer_seconds=0.3) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:16_000])
            await upstream.called(2)
            await client.say(audio[16_000:], {"type": "stop"})
            return await client.hear_all()


async def test_a_stream_that_never_says_a_word_of_what_is_loud_is_replaced(upstream: ScriptedUpstream) -> None:
    """It told of no speech either: how loud the audio is shows that it should have."""
    audio = sound(48_000)
    messages = await deaf_at_first(upstream, 1, audio)
    check(messages, audio)
    assert messages[-1]["upstream_streams"] == 2


async def test_what_two_streams_say_nothing_of_is_taken_for_noise(upstream: ScriptedUpstream) -> None:
    """The second is heard out."""
    audio = sound(48_000)
    messages = await deaf_at_first(upstream, 2, audio)
    check(messages, audio)
    assert messages[-1]["upstream_streams"] == 2


async def test_a_recognizer_slower_than_an_answer_may_be_is_heard_out(upstream: ScriptedUpstream) -> None:
    """It tells of speech at once, and of words only when more audio has come than any leg before got."""

    async def slow(call: Call) -> AsyncIterator[Any]:
        yield call.activity(2, 0)
        async for _ in call.hear():
            if len(call.audio) >= 32_000:
                yield call.interim("so far", end=len(call.audio))
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = slow
    audio = sound(48_000)
    async with run_gateway(upstream=f"grpc://{upstream.address}", answer_seconds=0.3) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:16_000])
            await upstream.called(DOUBTS + 1)
            await client.say(audio[16_000:], {"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)
    assert [m["text"] for m in messages if m["type"] == "final"] == [name(audio)]


async def test_what_was_over_long_before_the_end_costs_no_second_hearing(upstream: ScriptedUpstream) -> None:
    """A cough, then silence: the stream that ends well has said all."""

    async def coughs(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if len(call.audio) == 2 * BYTES_PER_SECOND:
                yield call.activity(2, BYTES_PER_SECOND // 2)
                yield call.activity(3, BYTES_PER_SECOND)
        yield call.billed(1)

    upstream.script = coughs
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
        messages = await transcribe(gateway, *[bytes(TENTH)] * 100)
    assert (messages[-1]["type"], messages[-1]["upstream_streams"]) == ("stopped", 1)
