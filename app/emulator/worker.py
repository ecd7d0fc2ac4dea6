"""A worker process: one model, many streams, one select loop, no asyncio.

    python -m app.emulator.worker FD [MODEL_DIRECTORY]

FD is this end of a socket pair. The server's end going away, for whatever reason, ends the worker.
"""

import select
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path

from app.emulator import wire
from app.emulator.listener import Listener
from app.emulator.models import speech_model, voice_model
from app.emulator.moonshine import Moonshine, SpeechModel
from app.emulator.voice import VoiceModel
from app.emulator.wire import Kind

TURN = 0.25  # seconds of audio a stream may put through before it is another's turn
LEAST = 0.03  # seconds of audio worth a turn, about what the voice-activity network takes
LATE = 0.5  # seconds that a stream may be behind real time; with one more behind, nobody gets interims
READ = 1 << 18  # bytes


class Lane:
    """A stream in this worker: audio that waits, and the listener it goes to."""

    def __init__(self, stream: int, request: wire.Open, listener: Listener) -> None:
        width = 2 if request.encoding == "LINEAR16" else 1
        self.stream = stream
        self.ended = False
        self._listener = listener
        self._second = request.rate * width  # bytes
        self._waiting = bytearray()
        self._opened = time.monotonic()
        self._done = 0  # bytes

    def add(self, audio: bytes) -> None:
        self._waiting += audio

    @property
    def late(self) -> bool:
        """Audio waits although as much time has passed as it lasts: an upload at any speed is not late by itself."""
        waiting, done = len(self._waiting) / self._second, self._done / self._second
        return waiting > LATE and done < time.monotonic() - self._opened - LATE

    def busy(self, *, interims: bool) -> bool:
        """Whether a turn would do anything."""
        return self._audio_due or self.ended or (interims and self._listener.interim_due)

    def turn(self, *, interims: bool) -> list[bytes]:
        """One piece of work, and the frames that come of it."""
        frames = []
        if self._waiting:
            audio = bytes(self._waiting[: int(self._second * TURN)])
            del self._waiting[: len(audio)]
            frames += [wire.event(self.stream, event) for event in self._listener.feed(audio)]
            frames.append(wire.ack(self.stream, len(audio)))
            self._done += len(audio)
        elif self.ended:
            frames += [wire.event(self.stream, event) for event in self._listener.finish()]
            frames.append(wire.frame(Kind.DONE, self.stream))
        if interims and self._listener.interim_due:
            frames += [wire.event(self.stream, event) for event in self._listener.interim()]
        return frames

    @property
    def _audio_due(self) -> bool:
        return len(self._waiting) >= self._second * LEAST


class Worker:
    """The select loop: read what there is, give one stream its turn, write what can be written."""

    def __init__(self, link: socket.socket, voice: VoiceModel, model: SpeechModel) -> None:
        link.setblocking(False)
        self._link = link
        self._voice = voice
        self._model = model
        self._frames = wire.Frames()
        self._lanes: deque[Lane] = deque()  # the next turn is the first one's
        self._out = bytearray(wire.frame(Kind.READY))

    def run(self) -> None:
        """Until the server is gone."""
        while self._exchange():
            self._give_a_turn()

    def _exchange(self) -> bool:
        interims = self._in_time
        busy = any(lane.busy(interims=interims) for lane in self._lanes)
        writers = [self._link] if self._out else []
        readable, writable, _ = select.select([self._link], writers, [], 0 if busy else None)
        try:
            if writable:
                del self._out[: self._link.send(self._out)]
            return not readable or self._read()
        except (BrokenPipeError, ConnectionResetError):
            return False

    def _read(self) -> bool:
        data = self._link.recv(READ)
        for kind, stream, payload in self._frames.feed(data):
            self._take(kind, stream, payload)
        return bool(data)

    def _take(self, kind: Kind, stream: int, payload: bytes) -> None:
        if kind is Kind.OPEN:
            request = wire.read_open(payload)
            self._lanes.appendleft(Lane(stream, request, Listener(request, self._voice, self._model)))
            return
        lane = next((lane for lane in self._lanes if lane.stream == stream), None)
        if lane is None:
            return
        match kind:
            case Kind.AUDIO:
                lane.add(payload)
            case Kind.END:
                lane.ended = True
            case _:
                self._lanes.remove(lane)

    def _give_a_turn(self) -> None:
        interims = self._in_time
        for _ in range(len(self._lanes)):
            lane = self._lanes[0]
            self._lanes.rotate(-1)
            if lane.busy(interims=interims):
                for frame in lane.turn(interims=interims):
                    self._say(lane, frame)
                return

    @property
    def _in_time(self) -> bool:
        return not any(lane.late for lane in self._lanes)

    def _say(self, lane: Lane, frame: bytes) -> None:
        self._out += frame
        if frame[0] == Kind.DONE:
            self._lanes.remove(lane)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the server tells us when to end
    link = socket.socket(fileno=int(sys.argv[1]))
    directory = speech_model(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    Worker(link, VoiceModel(voice_model()), Moonshine(directory)).run()


if __name__ == "__main__":
    main()
