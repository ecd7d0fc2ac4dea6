"""What comes back from Google, on the session's clock: repeated finals, two channels, speakers, across a seam."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.cloud.speech_v2 import types as v2

from app.core.audio import AudioFormat
from app.core.breaker import Breaker
from app.core.protocol import Audio, Diarization, SessionConfig
from app.core.recognition import Event, Finished, Result, Settled
from app.speech.google import GoogleRecognizer
from app.speech.limits import LegLimits
from app.speech.responses import ResponseReader
from app.speech.v2 import SpeechV2
from tests.test_pool import a_pool
from tests.upstream import Call, ScriptedUpstream

SECOND = 32_000
"""Bytes of one channel."""


def reader(start: int, finals_end: dict[int, int], channels: int = 1, **config: Any) -> ResponseReader:
    audio = Audio("LINEAR16", 16_000, channels)
    names = SpeechV2(project="p", location="global").names
    wanted = SessionConfig(audio=audio, language_codes=["en-US"], **config)
    return ResponseReader(names, wanted, AudioFormat.of(audio), start, finals_end)


def said(
    text: str, seconds: float, *, channel: int = 0, is_final: bool = True, words: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    end = {"seconds": int(seconds), "nanos": round(seconds % 1 * 1e9)}
    alternatives = [{"transcript": text, "words": words or []}]
    return {"alternatives": alternatives, "is_final": is_final, "result_end_offset": end, "channel_tag": channel}


def heard(leg: ResponseReader, *results: dict[str, Any]) -> list[Event]:
    return [
        event
        for result in results
        for event in leg.read(v2.StreamingRecognizeResponse.pb()(results=[result]), heard_until=1_000 * SECOND)
    ]


def finals(events: list[Event]) -> list[tuple[int, str, int, int]]:
    results = [event for event in events if isinstance(event, Result) and event.is_final]
    return [(event.channel, event.text, event.start_ms, event.end_ms) for event in results]


def settled(events: list[Event]) -> list[int]:
    return [event.offset for event in events if isinstance(event, Settled)]


def test_a_final_that_comes_again_is_told_once_however_late() -> None:
    events = heard(reader(0, {}), said("a", 1), said("b", 2), said("a", 1), said("b", 2), said("b", 3))
    assert finals(events) == [(1, "a", 0, 1000), (1, "b", 1000, 2000), (1, "b", 2000, 3000)]


def test_finals_without_a_time_are_all_told() -> None:
    assert [text for _, text, _, _ in finals(heard(reader(0, {}), said("yes", 0), said("yes", 0)))] == ["yes", "yes"]


def test_one_channel_is_the_same_whether_it_is_numbered_or_not() -> None:
    assert settled(heard(reader(0, {}), said("a", 1), said("b", 2, channel=1))) == [SECOND, 2 * SECOND]


def test_a_channel_settles_nothing_of_the_other() -> None:
    """Of two channels, 4 bytes a sample pair: audio is settled where both are final."""
    leg = reader(0, {}, channels=2)
    assert settled(heard(leg, said("a", 2, channel=1))) == [0]
    assert settled(heard(leg, said("b", 1, channel=2))) == [1 * 2 * SECOND]
    assert settled(heard(leg, said("c", 3, channel=2))) == [2 * 2 * SECOND]


def test_a_channel_that_was_ahead_at_a_seam_is_not_told_twice() -> None:
    """The first leg fails when channel 1 is final up to 2 s, channel 2 up to 1 s: the next leg hears from 1 s on."""
    ends: dict[int, int] = {}
    first = heard(reader(0, ends, channels=2), said("b", 1, channel=2), said("a", 2, channel=1))
    assert settled(first)[-1] == 2 * SECOND
    second = reader(settled(first)[-1], ends, channels=2)
    again = heard(
        second,
        said("a", 0.9, channel=1, is_final=False),
        said("a", 1, channel=1),
        said("d", 1.5, channel=2),
        said("c", 2, channel=1),
    )
    assert finals(again) == [(2, "d", 1000, 2500), (1, "c", 2000, 3000)]
    assert all(event.is_final for event in again if isinstance(event, Result))
    assert settled(again)[-1] == 5 * SECOND


@pytest.mark.parametrize("label", ["1", "2"])
def test_a_seam_keeps_the_times_of_words_and_leaves_the_labels_of_speakers(label: str) -> None:
    """Each stream numbers its speakers anew: what it says is passed on."""
    word = {"word": "hi", "start_offset": {"nanos": 200_000_000}, "end_offset": {"seconds": 1}, "speaker_label": label}
    leg = reader(10 * SECOND, {1: 10 * SECOND}, diarization=Diarization(1, 2), enable_word_time_offsets=True)
    (result, _) = heard(leg, said("hi", 1, words=[word]))
    assert isinstance(result, Result)
    assert [(w.word, w.start_ms, w.end_ms, w.speaker) for w in result.words] == [("hi", 10_200, 11_000, label)]


SAMPLES = 24_000
PERIODS = {1: 1000, 2: 1700}
"""Samples after which each channel makes an utterance final."""


def names_samples(dice: random.Random, failures: float) -> Any:
    """Two channels, each of whose samples is its number in the session. Utterances end at the same samples on every
    leg, as a speaker's pauses would have it; a leg may fail at any chunk."""

    def utterance(call: Call, channel: int, start: int, end: int) -> Any:
        first = int.from_bytes(call.audio[:2], "little")
        return call.final(f"{start}-{end}", (end - first) * 2, channel=channel)

    async def script(call: Call) -> AsyncIterator[Any]:
        done: dict[int, int] = {}
        async for _ in call.hear():
            if dice.random() < failures:
                await call.context.abort(grpc.StatusCode.ABORTED, "told to fail")
            first = int.from_bytes(call.audio[:2], "little")
            for channel, period in PERIODS.items():
                start = done.setdefault(channel, first)
                while (end := (start // period + 1) * period) <= first + len(call.audio) // 4:
                    yield utterance(call, channel, start, end)
                    start = done[channel] = end
        for channel, start in done.items():
            if start < (end := first + len(call.audio) // 4):
                yield utterance(call, channel, start, end)

    return script


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("failures", "soft"), [(0.2, 240), (0, 0.001), (0.1, 0.01)], ids=["failures", "seams", "both"])
async def test_each_of_two_channels_is_told_once_whatever_fails(
    upstream: ScriptedUpstream, seed: int, failures: float, soft: float
) -> None:
    upstream.script = names_samples(random.Random(seed), failures)
    events: list[Event] = []
    told = asyncio.Event()

    def listen(event: Event) -> None:
        events.append(event)
        told.set()

    async def heard_of(samples: int) -> None:
        """What the first channel has said of the audio so far."""
        while sum(channel == 1 for channel, *_ in finals(events)) < samples // PERIODS[1]:
            told.clear()
            await told.wait()

    config = SessionConfig(audio=Audio("LINEAR16", 16_000, 2), language_codes=["en-US"])
    async with a_pool(upstream) as pool:
        recognizer = GoogleRecognizer(
            config,
            dialect=SpeechV2(project="p", location="global"),
            pool=pool,
            breaker=Breaker(20, 5),
            limits=LegLimits(speed=1000, soft=soft),
            gate=None,
            listen=listen,
        )
        for n in range(0, SAMPLES, 1600):
            await recognizer.send(b"".join(i.to_bytes(2, "little") * 2 for i in range(n, n + 1600)))
            if soft < 1:
                await heard_of(n + 1600)
        await recognizer.finish()
        while not isinstance(events[-1], Finished):
            told.clear()
            await told.wait()
        await recognizer.close()
    assert failures or len(upstream.calls) > 5
    for channel in PERIODS:
        spans = [tuple(map(int, text.split("-"))) for of, text, _, _ in finals(events) if of == channel]
        assert [n for start, end in spans for n in range(start, end)] == list(range(SAMPLES))
