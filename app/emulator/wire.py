"""What the server and its workers say to each other over a socket pair.

A frame is a header (kind, stream, length) and a payload: raw audio for AUDIO, a number for ACK, a message for
OPEN and EVENT. Times are whole nanoseconds of the stream's own audio, rounded up, so that a client that turns one back
into a byte offset lands on the very sample that the recognizer meant.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

import msgspec

HEADER = struct.Struct("<BII")


class Kind(IntEnum):
    OPEN = 1  # to the worker: a stream begins
    AUDIO = 2  # to the worker: bytes as the client sent them
    END = 3  # to the worker: no more audio, say what is left
    CANCEL = 4  # to the worker: forget the stream
    READY = 5  # from the worker: the model is loaded
    EVENT = 6  # from the worker
    ACK = 7  # from the worker: so many bytes are recognized
    DONE = 8  # from the worker: everything is said


class Open(msgspec.Struct, frozen=True):
    """What a worker must know of a stream."""

    encoding: str  # LINEAR16, MULAW or ALAW
    rate: int
    interims: bool = False
    single_utterance: bool = False
    speech_start_timeout: int | None = None  # nanoseconds of audio
    speech_end_timeout: int | None = None


class Word(msgspec.Struct, frozen=True):
    text: str
    start: int
    end: int
    confidence: float


class SpeechBegan(msgspec.Struct, frozen=True, tag=True):
    at: int


class SpeechEnded(msgspec.Struct, frozen=True, tag=True):
    at: int


class UtteranceOver(msgspec.Struct, frozen=True, tag=True):
    """The one utterance of a single-utterance stream is over; its final follows and nothing after it."""


class SilenceTooLong(msgspec.Struct, frozen=True, tag=True):
    """A voice-activity timeout passed; nothing more is recognized."""

    at: int


class Interim(msgspec.Struct, frozen=True, tag=True):
    """The words so far, of which the first `stable` have not changed since the last time."""

    end: int
    words: tuple[str, ...]
    stable: int


class Final(msgspec.Struct, frozen=True, tag=True):
    end: int
    words: tuple[Word, ...]
    confidence: float


Event = SpeechBegan | SpeechEnded | UtteranceOver | SilenceTooLong | Interim | Final

_encoder = msgspec.msgpack.Encoder()
_opens = msgspec.msgpack.Decoder(Open)
_events: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def frame(kind: Kind, stream: int = 0, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, stream, len(payload)) + payload


def opening(stream: int, request: Open) -> bytes:
    return frame(Kind.OPEN, stream, _encoder.encode(request))


def event(stream: int, what: Event) -> bytes:
    return frame(Kind.EVENT, stream, _encoder.encode(what))


def ack(stream: int, size: int) -> bytes:
    return frame(Kind.ACK, stream, size.to_bytes(4, "little"))


def read_open(payload: bytes) -> Open:
    return _opens.decode(payload)


def read_event(payload: bytes) -> Event:
    return _events.decode(payload)


def read_ack(payload: bytes) -> int:
    return int.from_bytes(payload, "little")


class Frames:
    """Bytes in, whole frames out, however the bytes were cut."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
        self._data += data
        at = 0
        while len(self._data) - at >= HEADER.size:
            kind, stream, length = HEADER.unpack_from(self._data, at)
            end = at + HEADER.size + length
            if end > len(self._data):
                break
            yield Kind(kind), stream, bytes(self._data[at + HEADER.size : end])
            at = end
        del self._data[:at]
