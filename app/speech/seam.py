"""Where a leg may be cut when it cannot wait for a final: in a pause between words, as far as one can hear it here."""

from collections.abc import Iterable

_SEEK_FROM = 0.8
"""Part of a limit that may be used before a pause is looked for."""
_RECENT_CHUNKS = 30
_MAGNITUDE = {
    "MULAW": bytes(127 - (code & 0x7F) if code & 0x80 else 127 - code for code in range(256)),
    "ALAW": bytes((code ^ 0x55) & 0x7F for code in range(256)),
}
"""G.711 codes -> 0 (silence) to 127, on the logarithmic scale of the code itself."""

_LOUD = {"LINEAR16": 2000, "MULAW": 64, "ALAW": 64}
"""About -24 dB of full scale: a phone's peaks in speech are above."""


class Pauses:
    """Knows how loud the speech of late was, and so what is a pause in it."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._recent: list[int] = []

    def is_seam(self, chunk: bytes, used: float) -> bool:
        """Whether to cut before `chunk`, with this part of the limit `used`. The less is left, the shallower a pause
        will do; at 1 anything does, even without a chunk."""
        if used >= 1:
            return True
        if used < _SEEK_FROM or not chunk:
            return False
        peak = loudness(chunk, self._encoding)
        self._recent = [*self._recent[1 - _RECENT_CHUNKS :], peak]
        depth = (used - _SEEK_FROM) / (1 - _SEEK_FROM)
        return len(self._recent) > 5 and peak <= max(self._recent) * (0.05 + 0.35 * depth**2)


def quietest(chunks: Iterable[tuple[int, bytes]], encoding: str) -> int | None:
    """Where the middle of the quietest one begins, of chunks and where they begin; none where there is none."""
    found = min(chunks, key=lambda each: loudness(each[1], encoding), default=None)
    return None if found is None else found[0] + len(found[1]) // 2


def is_loud(chunk: bytes, encoding: str) -> bool:
    """As loud as speech mostly is; so is much else."""
    return loudness(chunk, encoding) >= _LOUD[encoding]


def loudness(chunk: bytes, encoding: str) -> int:
    """The peak of a chunk, on any scale that grows with it."""
    if encoding == "LINEAR16":
        samples = memoryview(chunk).cast("h")
        loudest, quietest = max(samples), min(samples)
        return max(loudest, -quietest)
    return max(chunk.translate(_MAGNITUDE[encoding]))
