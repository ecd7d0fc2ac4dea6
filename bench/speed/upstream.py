"""`python -m bench.speed.upstream FRAME_BYTES`: a scripted Speech-to-Text, v1 and v2, that costs next to nothing.

It says where it is. On `begin` it forgets what it has measured, on `report` it tells: how long each frame was on its
way (of what came in one message the last one, since the others were gathered on purpose), how many were lost and came
twice. Sends an interim for each `INTERIM` bytes that it hears, and a final for each `FINAL`.

HTTP/2 as much as gRPC's clients need of a server (RFC 9113), by hand: a server of grpc.aio would take as much of the
machine as the gateways that are to be measured. Frames are read, headers are not; windows are opened once, wide.
"""

import asyncio
import struct
import sys
from dataclasses import dataclass, field
from typing import Any

import uvloop
from google.cloud.speech_v1.types import cloud_speech as v1
from google.cloud.speech_v2.types import cloud_speech as v2

from bench.helpers import Tool, serve_tool
from bench.speed.frames import HEAD, caption_stamp, now
from tests.upstream import BYTES_PER_SECOND, duration

INTERIM, FINAL = BYTES_PER_SECOND * 3 // 10, BYTES_PER_SECOND * 4
WORDS = ["ten", "words", "that", "somebody", "has", "said", "in", "these", "four", "seconds"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
WIDE = 2**31 - 1
RENEW = 2**30
"""Bytes that a connection has brought when its window is opened again."""
STREAMS = 100
"""Of one connection, as at Google."""

_ANSWER = b"\x88\x0f\x10\x10application/grpc"
""":status: 200, content-type: HPACK's static table, nothing indexed."""
_TRAILERS = b"\x00\x0bgrpc-status\x010"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Measured:
    """Since it was asked to begin."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.delays: list[int] = []
        self.frames = self.lost = self.repeated = 0


@dataclass
class Call:
    """One streaming_recognize."""

    connection: "Connection"
    number: int
    frame_bytes: int
    measured: Measured
    pending: bytearray = field(default_factory=bytearray)
    """Of the next message."""
    rest: bytes = b""
    """Of the next frame of audio."""
    types: Any = None
    """Of the version that it speaks."""
    heard: int = 0
    expected: int = 0
    """The number of its next frame."""
    interim_at: int = INTERIM
    final_at: int = FINAL
    ended: bool = False

    def take(self, data: bytes, *, last: bool) -> None:
        """gRPC's messages: a byte, four for the length, the message."""
        pending = self.pending
        pending += data
        while len(pending) >= 5 and len(pending) >= 5 + (size := int.from_bytes(pending[1:5], "big")):
            message = bytes(pending[5 : 5 + size])
            del pending[: 5 + size]
            self._take_message(message)
        if last and not self.ended:
            self.ended = True
            self.connection.send(frame(HEADERS, END_STREAM | END_HEADERS, self.number, _TRAILERS))

    def _take_message(self, message: bytes) -> None:
        if self.types is None:
            self.types = v1 if message[0] == 0x0A else v2  # v1: streaming_config is field 1; v2: 6, recognizer 3
            return
        request = self.types.StreamingRecognizeRequest.pb().FromString(message)
        audio = request.audio_content if self.types is v1 else request.audio
        self._hear(audio)

    def _hear(self, audio: bytes) -> None:
        self.heard += len(audio)
        audio = self.rest + audio
        size, at, stamp = self.frame_bytes, 0, 0
        while len(audio) - at >= size:
            stamp, _, number = HEAD.unpack_from(audio, at)
            self._count(number)
            at += size
        self.rest = audio[at:]
        if stamp:
            self.measured.delays.append(now() - stamp)
        if self.heard >= self.final_at:
            self.final_at += FINAL
            self._say(self._final())
        elif self.heard >= self.interim_at:
            self._say(self._interim())
        self.interim_at = max(self.interim_at, self.heard - self.heard % INTERIM + INTERIM)

    def _count(self, number: int) -> None:
        """Every call is a session's own, from its first frame on: nothing here is changed over to another call."""
        measured = self.measured
        measured.frames += 1
        measured.lost += max(0, number - self.expected)
        measured.repeated += number < self.expected
        self.expected = max(self.expected, number + 1)

    def _interim(self) -> dict[str, Any]:
        return {"alternatives": [{"transcript": f"{caption_stamp()} as far as it goes"}], "stability": 0.9}

    def _final(self) -> dict[str, Any]:
        begin, each = self.final_at - 2 * FINAL, FINAL // len(WORDS)
        starts, ends = ("start_time", "end_time") if self.types is v1 else ("start_offset", "end_offset")
        words = [
            {"word": word, starts: duration(begin + at * each), ends: duration(begin + (at + 1) * each)}
            for at, word in enumerate(WORDS)
        ]
        text = f"{caption_stamp()} {' '.join(WORDS)}"
        return {"alternatives": [{"transcript": text, "confidence": 0.9, "words": words}], "is_final": True}

    def _say(self, result: dict[str, Any]) -> None:
        name = "result_end_time" if self.types is v1 else "result_end_offset"
        result |= {name: duration(self.heard), "language_code": "en-US"}
        message = self.types.StreamingRecognizeResponse.pb()(results=[result]).SerializeToString()
        data = b"\0" + len(message).to_bytes(4, "big") + message
        self.connection.send(frame(DATA, 0, self.number, data))


class Connection(asyncio.Protocol):
    def __init__(self, frame_bytes: int, measured: Measured) -> None:
        self._frame_bytes = frame_bytes
        self._measured = measured
        self._pending = bytearray()
        self._calls: dict[int, Call] = {}
        self._unrenewed = 0
        self._greeted = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        # MAX_CONCURRENT_STREAMS (3), INITIAL_WINDOW_SIZE (4), and the connection's own window.
        settings = struct.pack(">HIHI", 3, STREAMS, 4, WIDE)
        self.send(frame(SETTINGS, 0, 0, settings) + _window(WIDE - 65_535))

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        pending = self._pending
        pending += data
        if not self._greeted:
            if len(pending) < len(PREFACE):
                return
            assert pending.startswith(PREFACE), "this is no HTTP/2 client"
            del pending[: len(PREFACE)]
            self._greeted = True
        at = 0
        while len(pending) - at >= 9 and len(pending) - at >= 9 + (size := int.from_bytes(pending[at : at + 3], "big")):
            stream = int.from_bytes(pending[at + 5 : at + 9], "big")
            self._take(pending[at + 3], pending[at + 4], stream, bytes(pending[at + 9 : at + 9 + size]))
            at += 9 + size
        del pending[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._renew(len(payload))
            if call := self._calls.get(stream):
                self._feed(call, payload, last=bool(flags & END_STREAM))
        elif kind == HEADERS:
            self._calls[stream] = Call(self, stream, self._frame_bytes, self._measured)
            self.send(frame(HEADERS, END_HEADERS, stream, _ANSWER))
        elif kind == RST_STREAM:
            self._calls.pop(stream, None)
        elif kind in {SETTINGS, PING} and not flags & ACK:
            self.send(frame(kind, ACK, 0, payload if kind == PING else b""))

    def _feed(self, call: Call, data: bytes, *, last: bool) -> None:
        call.take(data, last=last)
        if last:
            del self._calls[call.number]

    def _renew(self, count: int) -> None:
        self._unrenewed += count
        if self._unrenewed >= RENEW:
            self.send(_window(self._unrenewed))
            self._unrenewed = 0


def _window(more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", more))


class Upstream(Tool):
    def __init__(self, frame_bytes: int) -> None:
        self._measured = Measured()
        self._frame_bytes = frame_bytes

    async def start(self) -> str:
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._frame_bytes, self._measured), "127.0.0.1", 0
        )
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def obey(self, command: str) -> Any:
        if command == "begin":
            self._measured.begin()
            return None
        seen = self._measured
        return {"delays": seen.delays, "frames": seen.frames, "lost": seen.lost, "repeated": seen.repeated}


if __name__ == "__main__":
    uvloop.run(serve_tool(Upstream(int(sys.argv[1]))))
