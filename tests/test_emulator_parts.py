"""The parts that need no server: bytes to samples, where utterances are cut, frames, texts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")

import numpy as np

from app.emulator import models, wire
from app.emulator.api_v1 import V1
from app.emulator.api_v2 import V2
from app.emulator.audio import Decoder, hearing
from app.emulator.calls import plain
from app.emulator.moonshine import _loop, _words
from app.emulator.voice import GRID, LEAD_IN, LONGEST, PAUSE, TAIL, Cut, Segmenter


def test_mu_law_is_g711() -> None:
    """Silence, the extremes, and one value on the way (ITU-T G.711, table 2a)."""
    values = Decoder("MULAW").decode(bytes([0xFF, 0x7F, 0x80, 0x00, 0xEF]))
    assert values.tolist() == [0, 0, 32124, -32124, 132]


def test_a_law_is_g711() -> None:
    """The smallest and the largest of either sign (ITU-T G.711, table 1a)."""
    values = Decoder("ALAW").decode(bytes([0xD5, 0x55, 0xAA, 0x2A]))
    assert values.tolist() == [8, -8, 32256, -32256]


@given(st.lists(st.integers(0, 9), min_size=1))
def test_half_a_sample_waits_for_its_other_half(sizes: list[int]) -> None:
    """However the bytes are cut, the samples are the same."""
    data = random.Random(1).randbytes(sum(sizes))
    decoder, out, at = Decoder("LINEAR16"), [], 0
    for size in sizes:
        out += decoder.decode(data[at : at + size]).tolist()
        at += size
    assert out == np.frombuffer(data[: len(data) & ~1], "<i2").tolist()


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_resampling_does_not_depend_on_the_pieces(rate: int) -> None:
    """To the bit, which the clean cut stands on; and time is kept."""
    pcm = np.random.default_rng(0).integers(-9_000, 9_000, rate).astype(np.int16)
    whole = hearing(rate)
    at_once = np.concatenate([whole.feed(pcm), whole.feed(pcm[:0], last=True)])
    split = hearing(rate)
    parts = [split.feed(part) for part in np.array_split(pcm, 77)]
    in_pieces = np.concatenate([*parts, split.feed(pcm[:0], last=True)])
    assert np.array_equal(at_once, in_pieces)
    assert abs(len(at_once) - 16_000) <= 1


def _hear(segmenter: Segmenter, probabilities: list[float], loudness: float = 1.0) -> list[Cut]:
    return [cut for p in probabilities if (cut := segmenter.hear(p, loudness))]


def test_one_loud_frame_is_not_speech() -> None:
    """Two in a row are."""
    segmenter = Segmenter()
    _hear(segmenter, [0.0] * 40 + [0.9, 0.1] * 5)
    assert segmenter.start is None
    _hear(segmenter, [0.9, 0.9])
    assert segmenter.start == 50 - LEAD_IN


def test_a_pause_ends_an_utterance() -> None:
    """Part of the pause stays with it."""
    segmenter = Segmenter()
    cuts = _hear(segmenter, [0.0] * 40 + [0.9] * 61 + [0.0] * PAUSE)
    assert cuts == [Cut(40 - LEAD_IN, 101 + TAIL, by_pause=True)]


@given(spoken=st.integers(2, LONGEST), quiet=st.integers(0, LONGEST))
def test_cuts_fall_on_the_grid_and_lie_behind_the_voice(spoken: int, quiet: int) -> None:
    """So what comes after them is framed alike, wherever a stream began on it."""
    segmenter = Segmenter()
    voice = [0.0] * 40 + [0.9] * spoken
    loudness = [1.0] * (len(voice) - quiet % len(voice)) + [0.1] * (quiet % len(voice))
    cuts = [cut for p, loud in zip(voice, loudness, strict=True) if (cut := segmenter.hear(p, loud))]
    cuts += _hear(segmenter, [0.0] * PAUSE)
    assert cuts
    assert cuts[0].end % GRID == 0
    assert not cuts[0].by_pause or 40 + spoken < cuts[0].end <= segmenter.frame


def test_an_endless_utterance_is_cut_where_it_is_quietest() -> None:
    """Not at the frame where it became too long."""
    segmenter = Segmenter()
    assert _hear(segmenter, [0.9] * (LONGEST - 30)) == []
    assert _hear(segmenter, [0.6] * 3, loudness=0.1) == []
    (cut,) = _hear(segmenter, [0.9] * 27)
    assert not cut.by_pause
    assert LONGEST - 30 <= cut.end <= LONGEST - 27


def test_a_beginning_too_short_to_be_sure_of_is_kept_at_the_end() -> None:
    """No word is lost to a half-close."""
    segmenter = Segmenter()
    _hear(segmenter, [0.0] * 40 + [0.9])
    assert segmenter.finish() == Cut(40 - LEAD_IN, 41, by_pause=False)


@given(st.lists(st.binary(max_size=40), max_size=9), st.integers(1, 9))
def test_frames_survive_any_cut(payloads: list[bytes], size: int) -> None:
    """Bytes in, whole frames out."""
    data = b"".join(wire.frame(wire.Kind.AUDIO, n, payload) for n, payload in enumerate(payloads))
    frames = wire.Frames()
    read = [frame for at in range(0, len(data), size) for frame in frames.feed(data[at : at + size])]
    assert read == [(wire.Kind.AUDIO, n, payload) for n, payload in enumerate(payloads)]


@pytest.mark.parametrize(
    "event",
    [
        wire.SpeechBegan(1),
        wire.UtteranceOver(),
        wire.Interim(5, ("a", "b"), 1),
        wire.Final(9, (wire.Word("a", 1, 2, 0.5),), 0.5),
    ],
)
def test_events_survive_the_wire(event: wire.Event) -> None:
    """As they were."""
    ((_, stream, payload),) = wire.Frames().feed(wire.event(3, event))
    assert (stream, wire.read_event(payload)) == (3, event)


def test_the_limits_speak_as_google_does() -> None:
    """With the default limit, to the letter."""
    assert V1().too_long(305).text == "Exceeded maximum allowed stream duration of 305 seconds."
    assert V2().too_long(305).text == "Max duration of 5 minutes reached for stream."


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Light,", "light"),
        ("don\u2019t", "don't"),
        ("3.5", "3.5"),
        ('"No!"', "no"),
        ("well-known.", "well-known"),
        ("--", ""),
    ],
)
def test_words_without_punctuation(written: str, spoken: str) -> None:
    """What is inside a word stays."""
    assert plain(written) == spoken


def test_tokens_become_words() -> None:
    """A word is as sure as its least sure token."""
    assert _words([" It", " was", "n", "'t", " "], [0.9, 0.8, 0.5, 0.7, 0.1]) == [("It", 0.9), ("wasn't", 0.5)]


def test_going_round_in_circles_is_noticed() -> None:
    """One round is kept; people do say a word twice."""
    assert _loop([1, 2, 3] + [7, 8] * 4) == 6
    assert _loop([1, 5, 5, 5]) == 0


def test_a_missing_package_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line."""
    monkeypatch.setattr(models, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(models.ModelMissing, match=r"needs no_such_package: install the extra: .*\[emulator\]"):
        models.require_packages()


def test_finding_the_recording_loads_no_model() -> None:
    """The gateway asks for it, too."""
    recording = models.sample_recording()
    assert recording
    assert recording.name == "two_cities.wav"
