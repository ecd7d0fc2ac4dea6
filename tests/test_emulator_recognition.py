"""What the emulator hears: real speech through the unmodified clients of both versions."""

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.emulator_client import SECOND, Asked, end_of, google, pieces, silence, speech
from tests.speech_files import TWO_CITIES, normal, word_errors

pytest.importorskip("onnxruntime")

BOTH = pytest.mark.parametrize("version", ["v1", "v2"])
FIRST_WORDS = "it was the best of times it was the worst of times it was the age of wisdom"
FIRST_SECONDS = 6.6


@BOTH
async def test_the_sample_recording_is_understood(version: str, port: int) -> None:
    """44 s at 48 kHz, under 15 % word errors."""
    async with google(version, port) as client:
        heard = await client.recognize(Asked(rate=48_000), pieces(speech(rate=48_000), 9_600))
    assert heard.status == ("OK", "")
    assert word_errors([heard.text], [TWO_CITIES]) < 0.15


@pytest.mark.parametrize("rate", [16_000, 44_100])
async def test_a_stream_from_a_finals_end_says_the_same_words(rate: int, port: int) -> None:
    """The end of a final is a clean cut: nothing before it matters to what follows."""
    audio = speech(0, 24, rate)
    async with google("v2", port) as client:
        whole = await client.recognize(Asked(rate=rate), pieces(audio, 8_820))
        assert len(whole.finals) > 2
        for seen in range(1, len(whole.finals)):
            rest = audio[end_of(whole.finals[seen - 1]) * rate // SECOND * 2 :]
            resumed = await client.recognize(Asked(rate=rate), pieces(rest, 25_000))
            assert _said(resumed.finals) == _said(whole.finals[seen:])


@pytest.mark.parametrize("size", [33, 333, 25_600])
async def test_finals_do_not_depend_on_how_audio_is_cut_into_messages(size: int, port: int) -> None:
    """Odd sizes split samples in two."""
    audio = speech(0, 3.5)
    async with google("v2", port) as client:
        one = await client.recognize(Asked(), pieces(audio, 3_202))
        other = await client.recognize(Asked(), pieces(audio, size))
    assert [(f.alternatives[0].transcript, end_of(f)) for f in other.finals] == [
        (f.alternatives[0].transcript, end_of(f)) for f in one.finals
    ]


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 48_000])
async def test_every_rate_is_understood(rate: int, port: int) -> None:
    """From telephone to studio."""
    async with google("v2", port) as client:
        heard = await client.recognize(Asked(rate=rate), pieces(speech(0, FIRST_SECONDS, rate)))
    assert word_errors([heard.text], [FIRST_WORDS]) < 0.15


@pytest.mark.parametrize(("version", "encoding"), [("v1", "MULAW"), ("v2", "MULAW"), ("v2", "ALAW")])
async def test_telephone_encodings_are_understood(version: str, encoding: str, port: int) -> None:
    """8 kHz, a byte for each sample."""
    audio = _companded(speech(0, FIRST_SECONDS, 8_000), encoding)
    async with google(version, port) as client:
        heard = await client.recognize(Asked(rate=8_000, encoding=encoding), pieces(audio, 801))
    assert word_errors([heard.text], [FIRST_WORDS]) < 0.15
    assert FIRST_SECONDS - 1 < end_of(heard.finals[-1]) / SECOND <= FIRST_SECONDS


async def test_half_close_says_the_utterance_in_flight(port: int) -> None:
    """Speech that stops in the middle of a word's pause is not lost."""
    async with google("v2", port) as client:
        heard = await client.recognize(Asked(), pieces(speech(0, 2.8)))
    assert normal(heard.text).startswith("it was the best of times")
    assert end_of(heard.finals[-1]) == 2.8 * SECOND


async def test_results_count_from_the_beginning_of_the_streams_audio(port: int) -> None:
    """Silence before the speech counts; it brings no result of its own."""
    async with google("v2", port) as client:
        heard = await client.recognize(Asked(), pieces(silence(5.0) + speech(0, 3.4) + silence(1.0)))
    assert 7.5 < end_of(heard.finals[0]) / SECOND < 9.4
    assert normal(heard.text).startswith("it was the best of times")


@BOTH
async def test_interims_come_only_when_asked_for_and_grow_into_the_final(version: str, port: int) -> None:
    """Pieces of one response are put together; what is stable is marked so."""
    audio = pieces(speech(0, FIRST_SECONDS))
    async with google(version, port) as client:
        silent, told = await asyncio.gather(
            client.recognize(Asked(), audio), client.recognize(Asked(interims=True), audio)
        )
    assert silent.interims == []
    assert len(told.interims) >= 3
    assert told.text == silent.text
    stabilities = {round(result.stability, 1) for result in told.results if not result.is_final}
    assert stabilities == {0.1, 0.9}
    assert all(result.stability == 0 for result in told.finals)


@BOTH
async def test_the_first_interim_comes_within_a_second_of_speech(version: str, port: int) -> None:
    """Counted in audio: what the client has to send until there is something to show."""
    async with google(version, port) as client:
        heard = await client.recognize(Asked(interims=True, events=True), pieces(speech(0, 4.0)))
    began = next(r for r in heard.responses if r.speech_event_type)
    event = began.speech_event_time if version == "v1" else began.speech_event_offset
    first = next(r for r in heard.results if not r.is_final)
    assert end_of(first) - event.ToNanoseconds() < SECOND


@BOTH
async def test_words_carry_times_and_confidence_when_asked(version: str, port: int) -> None:
    """In order, inside their final, adding up to its text."""
    async with google(version, port) as client:
        heard = await client.recognize(Asked(words=True), pieces(speech(0, FIRST_SECONDS)))
    for final in heard.finals:
        words = final.alternatives[0].words
        assert " ".join(w.word for w in words) == final.alternatives[0].transcript.strip()
        spans = [_span(word) for word in words]
        assert spans == sorted(spans)
        assert spans[-1][1] <= end_of(final)
        assert all(0 < word.confidence <= 1 for word in words)


@BOTH
async def test_without_being_asked_for_words_there_are_none(version: str, port: int) -> None:
    """The confidence of the whole is always there."""
    async with google(version, port) as client:
        heard = await client.recognize(Asked(), pieces(speech(0, 4.0)))
    alternative = heard.finals[0].alternatives[0]
    assert not alternative.words
    assert 0.3 < alternative.confidence <= 1


async def test_punctuation_and_capitals_come_only_when_asked_for(port: int) -> None:
    """As Google: plain lower-case words by default."""
    audio = pieces(speech(0, FIRST_SECONDS))
    async with google("v2", port) as client:
        plain = await client.recognize(Asked(), audio)
        written = await client.recognize(Asked(punctuation=True), audio)
    assert plain.text == plain.text.lower()
    assert not set(plain.text) & set(".,!?")
    assert set(written.text) & set(".,")
    assert written.text.startswith("It was")


async def test_many_streams_at_once_do_not_mix(port: int) -> None:
    """Each says what it says alone."""
    parts = [speech(start, start + 3) for start in range(0, 24, 3)]
    async with google("v2", port) as client:
        alone = [(await client.recognize(Asked(), pieces(part))).text for part in parts[:2]]
        together = await asyncio.gather(*(client.recognize(Asked(interims=True), pieces(part)) for part in parts))
    assert [heard.text for heard in together[:2]] == alone


async def test_silence_brings_no_results(port: int) -> None:
    """Only what was billed."""
    async with google("v2", port) as client:
        heard = await client.recognize(Asked(interims=True), pieces(silence(20)))
    assert heard.results == []
    assert heard.status == ("OK", "")


def _said(finals: list[Any]) -> list[str]:
    return [final.alternatives[0].transcript.strip() for final in finals]


def _span(word: object) -> tuple[int, int]:
    names = ("start_time", "end_time") if hasattr(word, "start_time") else ("start_offset", "end_offset")
    start, end = (getattr(word, name).ToNanoseconds() for name in names)
    return start, end


def _companded(pcm: bytes, encoding: str) -> bytes:
    """The nearest byte for every sample."""
    from app.emulator.audio import Decoder

    values = Decoder(encoding).decode(bytes(range(256))).astype(np.int32)
    order = np.argsort(values, kind="stable")
    middles = (values[order][1:] + values[order][:-1]) / 2
    return bytes(order[np.searchsorted(middles, np.frombuffer(pcm, np.int16))].astype(np.uint8))
