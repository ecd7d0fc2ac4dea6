"""Bytes and milliseconds of a client's audio, and the audio that is not settled yet.

A position is a byte offset in the client's encoded stream, 0 at the start of the session. A gap advances it without
audio, so the blocks of a ReplayBuffer need not touch each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from app.core.protocol import Audio

BLOCK_BYTES = 64 * 1024
"""Of audio that is kept, at least."""
_SAMPLE_BYTES = {"LINEAR16": 2, "MULAW": 1, "ALAW": 1}


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Headerless audio of constant size: LINEAR16 (signed 16-bit little-endian), MULAW or ALAW, interleaved."""

    encoding: str
    sample_rate_hertz: int
    channels: int

    @classmethod
    def of(cls, audio: Audio) -> Self:
        return cls(audio.encoding, audio.sample_rate_hertz, audio.audio_channel_count)

    @property
    def frame_bytes(self) -> int:
        """One sample of every channel."""
        return _SAMPLE_BYTES[self.encoding] * self.channels

    @property
    def bytes_per_second(self) -> int:
        return self.frame_bytes * self.sample_rate_hertz

    def ms(self, offset: int) -> int:
        return offset * 1000 // self.bytes_per_second

    def offset(self, ms: float) -> int:
        """The last whole sample at or before `ms`."""
        offset = int(ms * self.bytes_per_second / 1000)
        return offset - offset % self.frame_bytes


class Gatherer:
    """Gathers frames of any size into chunks that never split a sample: of one size, but the last one of what has come
    has all the rest in it, so that none waits in vain."""

    def __init__(self, chunk_bytes: int, frame_bytes: int, most_bytes: int) -> None:
        """`most_bytes`: the largest chunk."""
        self._chunk_bytes = chunk_bytes
        self._frame_bytes = frame_bytes
        self._most_bytes = most_bytes
        self._pending = bytearray()

    def __len__(self) -> int:
        """Bytes that wait for more."""
        return len(self._pending)

    def add(self, audio: bytes) -> Iterator[bytes]:
        """Yields what is full. Stopping early keeps the rest for the next call."""
        self._pending += audio
        while (count := len(self._pending)) >= self._chunk_bytes:
            whole = count - count % self._frame_bytes
            is_last = whole < 2 * self._chunk_bytes and whole <= self._most_bytes
            yield self._take(whole if is_last else self._chunk_bytes)

    def flush(self) -> bytes:
        """Everything up to the last whole sample; part of a sample stays."""
        return self._take(len(self._pending) - len(self._pending) % self._frame_bytes)

    def drop(self) -> int:
        """Forgets what is left; returns how much it was."""
        return len(self._take(len(self._pending)))

    def _take(self, count: int) -> bytes:
        chunk = bytes(self._pending[:count])
        del self._pending[:count]
        return chunk


class ReplayBuffer:
    """The audio that no final has covered yet, in blocks with their offsets."""

    def __init__(self, piece_bytes: int) -> None:
        """`piece_bytes`: so much is read at a time, whole samples."""
        self._piece_bytes = piece_bytes
        self._blocks: list[tuple[int, bytes]] = []
        self._loose = 0
        """So many of them, the newest ones, touch each other and are to be one: what each object costs beside its audio
        would be a twentieth of it."""
        self._size = 0

    def __len__(self) -> int:
        """Bytes held."""
        return self._size

    def append(self, offset: int, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._loose:
            start, block = self._blocks[-1]
            if start + len(block) != offset:
                self._join()
        self._blocks.append((offset, chunk))
        self._loose += 1
        if offset + len(chunk) - self._blocks[-self._loose][0] >= BLOCK_BYTES:
            self._join()

    def _join(self) -> None:
        first = len(self._blocks) - self._loose
        if self._loose > 1:
            block = b"".join([block for _, block in self._blocks[first:]])
            self._blocks[first:] = [(self._blocks[first][0], block)]
        self._loose = 0

    def settle(self, offset: int) -> None:
        """Forget every byte before `offset`."""
        over = 0
        for start, block in self._blocks:
            if start + len(block) > offset:
                break
            self._size -= len(block)
            over += 1
        del self._blocks[:over]
        if self._blocks and self._blocks[0][0] < offset:
            start, block = self._blocks[0]
            self._blocks[0] = (offset, block[offset - start :])
            self._size -= offset - start
        self._loose = min(self._loose, len(self._blocks))

    def read(self, at: int, end: int) -> bytes:
        """A piece of what is held from byte `at` on, at most to `end`; empty where nothing is."""
        for offset, block in self._blocks:
            if offset <= at < min(end, offset + len(block)):
                return block[at - offset : min(end, at + self._piece_bytes) - offset]
        return b""

    def offset_from_end(self, count: int) -> int:
        """Where the newest `count` bytes held begin; at least one."""
        excess = self._size - count
        for offset, block in self._blocks:
            if excess < len(block):
                return offset + max(0, excess)
            excess -= len(block)
        return 0


class Pace:
    """A token bucket: `burst` bytes at once, then `rate` bytes a second. The caller brings the clock."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst_seconds = burst / rate
        self._due = float("-inf")
        """When what was let through so far would have gone out at `rate`."""

    def delay(self, now: float, count: int) -> float:
        """Seconds to wait at `now` before the next `count` bytes, which are counted as sent."""
        self._due = max(self._due, now - self._burst_seconds) + count / self._rate
        return max(0.0, self._due - now)
