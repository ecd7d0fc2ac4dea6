"""WAV files as a gateway takes them: MULAW and ALAW as they are, everything else as LINEAR16, one channel, any rate.

The standard library's `wave` refuses MULAW, ALAW and float, so the RIFF chunks are read here. Nothing seeks: a pipe
will do. A data size that the file does not have (a recording cut short, a writer that could not seek) is no error.
"""

import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from app.speech.alaw import alaw_to_linear16

TAKEN = "taken is WAV with 8- to 32-bit PCM, float, MULAW or ALAW samples at 8 to 48 kHz"
RATES = range(8_000, 48_001)
UNKNOWN_SIZE = 0xFFFF_FFFF
EXTENSIBLE = 0xFFFE


class WavError(Exception):
    """A file that cannot be read as audio: the message says what it is and what is taken."""


@dataclass(frozen=True)
class Wav:
    """An open recording. `encoding` and `sample_rate_hertz` describe what `chunks` yields: one channel, headerless."""

    encoding: Literal["LINEAR16", "MULAW", "ALAW"]
    sample_rate_hertz: int
    channels: int
    """In the file; more than one is mixed down to their mean."""
    total_ms: int | None
    """None where the file does not tell, as a pipe may not."""
    _file: BinaryIO
    _frame_bytes: int
    _size: int
    _convert: Callable[[bytes], bytes]

    def chunks(self, ms: int) -> Iterator[bytes]:
        """The audio from here to its end in pieces of `ms`; the last one is shorter."""
        size = max(1, self.sample_rate_hertz * ms // 1000) * self._frame_bytes
        left = self._size
        while piece := self._file.read(min(size, left)):
            left -= len(piece)
            if whole := len(piece) - len(piece) % self._frame_bytes:
                yield self._convert(piece[:whole])


@contextmanager
def open_wav(path: Path) -> Iterator[Wav]:
    """Raises WavError, and OSError where there is no such file."""
    with path.open("rb") as file:
        yield _parse(file)


def _parse(file: BinaryIO) -> Wav:
    head = file.read(12)
    if head[:4] not in {b"RIFF", b"RF64"} or head[8:] != b"WAVE":
        raise WavError(f"this is {_found(head)}: {TAKEN}")
    form = b""
    while True:
        name, size = _chunk_head(file)
        if name == b"data":
            break
        body = _read_exactly(file, size + size % 2)
        if name == b"fmt ":
            form = body
    if len(form) < 16:
        raise WavError(f"this WAV file does not say its format (no `fmt ` chunk before the audio): {TAKEN}")
    return _wav(file, form, size)


def _wav(file: BinaryIO, form: bytes, size: int) -> Wav:
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == EXTENSIBLE and len(form) >= 26:
        tag = int.from_bytes(form[24:26], "little")
    if (tag, bits) not in _SAMPLES or not channels:
        raise WavError(f"this WAV file has {bits}-bit {_TAGS.get(tag, f'format {tag}')}, {channels} channels: {TAKEN}")
    if rate not in RATES:
        raise WavError(f"this WAV file has {rate} samples a second: {TAKEN}")
    encoding, to_linear16 = _SAMPLES[tag, bits]
    if channels > 1:
        encoding, to_linear16 = "LINEAR16", _mixed(to_linear16, channels)
    elif encoding != "LINEAR16":
        to_linear16 = bytes
    frame_bytes = channels * bits // 8
    size, known = _data_size(file, size)
    if known and size < frame_bytes:
        raise WavError(f"this WAV file has no audio in it: {TAKEN}")
    total_ms = size // frame_bytes * 1000 // rate if known else None
    return Wav(encoding, rate, channels, total_ms, file, frame_bytes, size, to_linear16)


def _data_size(file: BinaryIO, declared: int) -> tuple[int, bool]:
    """How many bytes of audio to read, and whether that is known and not only an upper bound."""
    status = os.fstat(file.fileno())
    sized = declared not in {0, UNKNOWN_SIZE}
    if stat.S_ISREG(status.st_mode):
        rest = status.st_size - file.tell()
        return (min(declared, rest) if sized else rest), True
    return (declared, True) if sized else (2**63, False)


def _chunk_head(file: BinaryIO) -> tuple[bytes, int]:
    head = _read_exactly(file, 8)
    return head[:4], int.from_bytes(head[4:], "little")


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise WavError(f"this WAV file ends before its audio begins: {TAKEN}")
    return data


def _found(head: bytes) -> str:
    if not head:
        return "an empty file"
    for magic, kind in _MAGIC.items():
        if magic in (head[: len(magic)], head[4 : 4 + len(magic)]):
            return kind
    return f"no WAV file (it begins with {head[:4]!r})"


_MAGIC = {
    b"ID3": "an MP3 file",
    b"\xff\xfb": "an MP3 file",
    b"OggS": "an Ogg file",
    b"fLaC": "a FLAC file",
    b"ftyp": "an MP4 file",
    b"\x1aE\xdf\xa3": "a WebM file",
    b"FORM": "an AIFF file",
    b"RIFX": "a big-endian WAV file",
}
_TAGS = {1: "PCM", 2: "ADPCM", 3: "float", 6: "ALAW", 7: "MULAW", 17: "ADPCM", 85: "MP3"}


# Samples to LINEAR16 --------------------------------------------------------------------------


def _pcm8(data: bytes) -> bytes:
    linear = bytearray(2 * len(data))
    linear[1::2] = data.translate(_UNSIGNED)
    return bytes(linear)


def _upper_half(width: int) -> Callable[[bytes], bytes]:
    """The two most significant bytes of little-endian samples of `width` bytes."""

    def convert(data: bytes) -> bytes:
        linear = bytearray(len(data) // width * 2)
        linear[0::2] = data[width - 2 :: width]
        linear[1::2] = data[width - 1 :: width]
        return bytes(linear)

    return convert


def _floating(code: str, width: int) -> Callable[[bytes], bytes]:
    def convert(data: bytes) -> bytes:
        count = len(data) // width
        samples = struct.unpack(f"<{count}{code}", data)
        return struct.pack(f"<{count}h", *(round(32767 * max(-1.0, min(1.0, sample))) for sample in samples))

    return convert


def _mulaw_sample(code: int) -> int:
    """One MULAW byte as a signed 16-bit sample (ITU-T G.711, table 2a)."""
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return -magnitude if code & 0x80 else magnitude


def _mulaw(data: bytes) -> bytes:
    return struct.pack(f"<{len(data)}h", *map(_MULAW.__getitem__, data))


def _mixed(to_linear16: Callable[[bytes], bytes], channels: int) -> Callable[[bytes], bytes]:
    def convert(data: bytes) -> bytes:
        linear = to_linear16(data)
        samples = struct.unpack(f"<{len(linear) // 2}h", linear)
        frames = zip(*(samples[channel::channels] for channel in range(channels)), strict=True)
        return struct.pack(f"<{len(samples) // channels}h", *(sum(frame) // channels for frame in frames))

    return convert


_UNSIGNED = bytes(code ^ 0x80 for code in range(256))
_MULAW = [_mulaw_sample(code) for code in range(256)]
_Encoding = Literal["LINEAR16", "MULAW", "ALAW"]
_SAMPLES: dict[tuple[int, int], tuple[_Encoding, Callable[[bytes], bytes]]] = {
    (1, 8): ("LINEAR16", _pcm8),
    (1, 16): ("LINEAR16", bytes),
    (1, 24): ("LINEAR16", _upper_half(3)),
    (1, 32): ("LINEAR16", _upper_half(4)),
    (3, 32): ("LINEAR16", _floating("f", 4)),
    (3, 64): ("LINEAR16", _floating("d", 8)),
    (6, 8): ("ALAW", alaw_to_linear16),
    (7, 8): ("MULAW", _mulaw),
}
"""By format tag and bits of a sample: what to call it, and how it becomes LINEAR16."""
