"""Bytes of a stream to 16 kHz samples, however the bytes are cut into messages."""

from typing import Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

RATE = 16_000  # what the models hear

Pcm = NDArray[np.int16]
Samples = NDArray[np.float32]


class Decoder:
    """Encoded bytes to 16-bit samples; half a sample waits for its other half."""

    def __init__(self, encoding: str) -> None:
        self._table = {"LINEAR16": None, "MULAW": _mulaw(), "ALAW": _alaw()}[encoding]
        self._half = b""

    def decode(self, data: bytes) -> Pcm:
        if self._table is not None:
            return self._table[np.frombuffer(data, np.uint8)]
        data = self._half + data
        whole = len(data) & ~1
        self._half = data[whole:]
        return np.frombuffer(data[:whole], "<i2").astype(np.int16, copy=False)


class Hearing(Protocol):
    """Samples of the stream's rate to samples of 16 kHz, in the same time."""

    def feed(self, pcm: Pcm, *, last: bool = False) -> Samples: ...


class Direct:
    """16 kHz already."""

    def feed(self, pcm: Pcm, *, last: bool = False) -> Samples:  # noqa: ARG002 - nothing is held back
        return _unit(pcm)


class Resampled:
    """Any other rate. Always fed in blocks of the same size, so that the result depends on the samples alone."""

    def __init__(self, rate: int) -> None:
        self._resampler = soxr.ResampleStream(rate, RATE, 1, dtype="float32")
        self._block = rate // 50
        self._waiting = np.empty(0, np.int16)

    def feed(self, pcm: Pcm, *, last: bool = False) -> Samples:
        self._waiting = np.concatenate([self._waiting, pcm])
        whole = len(self._waiting) // self._block * self._block
        blocks = self._waiting[:whole].reshape(-1, self._block)
        out = [self._resampler.resample_chunk(_unit(block)) for block in blocks]
        self._waiting = self._waiting[whole:]
        if last:
            out.append(self._resampler.resample_chunk(_unit(self._waiting), last=True))
        return np.concatenate(out) if out else np.empty(0, np.float32)


def hearing(rate: int) -> Hearing:
    return Direct() if rate == RATE else Resampled(rate)


def _unit(pcm: Pcm) -> Samples:
    return pcm.astype(np.float32) / np.float32(32768)


def _mulaw() -> Pcm:
    """ITU-T G.711: the value of each of the 256 mu-law bytes."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    size = ((mantissa << 3) + 132 << exponent) - 132
    return np.where(code & 128, -size, size).astype(np.int16)


def _alaw() -> Pcm:
    """ITU-T G.711: the value of each of the 256 A-law bytes."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    size = np.where(exponent == 0, (mantissa << 4) + 8, (mantissa << 4) + 264 << np.maximum(exponent - 1, 0))
    return np.where(code & 128, size, -size).astype(np.int16)
