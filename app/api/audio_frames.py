"""Audio is nearly all that a client says, in small frames. Plain ones are read here, in a tenth of the time that the
WebSocket library takes for them, and gathered, so that nobody is woken for each.

Plain is a binary frame that is masked, whole, of one piece and no larger than audio may be (RFC 6455, 5.2). Everything
else is the library's to read, and to refuse.
"""

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the compiled module
    from websockets.utils import apply_mask

PLAIN = 0x82
"""FIN and the opcode of a binary frame."""
MASKED = 0x80
LONG = 126
"""Instead of a length: it stands in the two bytes after this one; or, with one more, in eight."""


class AudioFrames:
    """Of one connection."""

    def __init__(self, chunk_bytes: int, frame_bytes: int) -> None:
        """`chunk_bytes`: so much is gathered. `frame_bytes`: the largest frame of audio."""
        self._chunk_bytes = min(chunk_bytes, frame_bytes)
        self._frame_bytes = frame_bytes
        self._piece_bytes = frame_bytes - frame_bytes % self._chunk_bytes
        self._begun = b""
        """A plain frame that is not whole yet."""
        self._gathered = bytearray()

    def read(self, data: bytes, most: int) -> tuple[bytes, int]:
        """Plain frames at the beginning of what has come between two frames, `most` at most. Returns the rest, which is
        empty where it is the beginning of a plain one, and how many they were."""
        if self._begun:
            data, self._begun = self._begun + data, b""
        at, count, length = 0, 0, len(data)
        while at < length and count < most and data[at] == PLAIN:
            start, end = self._body(data, at, length)
            if end > length:
                self._begun = data[at:]
                return b"", count
            if end < start:
                break
            self._gathered += apply_mask(data[start:end], data[start - 4 : start])
            at, count = end, count + 1
        return data[at:], count

    def _body(self, data: bytes, at: int, length: int) -> tuple[int, int]:
        """From where to where the body of the frame at `at` goes, as far as is known, if it is plain; if not, its end
        comes before its begin."""
        if length - at < 4:
            return at, length + 1
        size, start = data[at + 1] - MASKED, at + 6
        if size >= LONG:
            size, start = (data[at + 2] << 8 | data[at + 3]) if size == LONG else -1, at + 8
            if size < LONG:
                return start, -1
        return start, start + size if 0 <= size <= self._frame_bytes else -1

    @property
    def is_empty(self) -> bool:
        """Nothing is gathered."""
        return not self._gathered

    def add(self, audio: bytes) -> None:
        """Of a frame that was read elsewhere, too."""
        self._gathered += audio

    def full(self) -> bytes:
        """Whole chunks, if there are any, as many as one frame may have: there may be more then."""
        count = len(self._gathered)
        if count < self._chunk_bytes:
            return b""
        return self._take(min(count - count % self._chunk_bytes, self._piece_bytes))

    def rest(self) -> bytes:
        """All that was gathered, after `full` less than a chunk."""
        return self._take(len(self._gathered))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._gathered[:count])
        del self._gathered[:count]
        return taken
