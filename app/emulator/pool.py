"""The worker processes, seen from the server: who has which stream, and how much audio is still unrecognized.

A worker is gone when its end of the socket pair is closed, for whatever reason: its streams fail, another is started.
"""

import asyncio
import logging
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from app.emulator import wire
from app.emulator.options import Options
from app.emulator.wire import Kind

log = logging.getLogger(__name__)

AHEAD = 3.0  # seconds of a stream's audio that a worker may have unrecognized before the server stops reading more
STOP_WITHIN = 0.7  # seconds; a worker may be in the middle of a recognition
COMPLAIN_EVERY = 30.0  # seconds
TRY_AGAIN = 1.0  # seconds until a worker that did not come up is started again
READ = 1 << 18  # bytes


class WorkerFailed(Exception):
    """A worker did not come up; what it wrote to stderr says why."""


class NoWorker(Exception):
    """There is nobody to take a stream just now."""


@dataclass(frozen=True, slots=True)
class Done:
    """Everything about a stream is said."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream's worker died."""


Deliver = Callable[[wire.Event | Done | Lost], None]


class Recognition:
    """One stream in one worker. `deliver` is called with its events until Done or Lost."""

    def __init__(self, pool: "Pool", worker: "_Worker", stream: int, request: wire.Open, deliver: Deliver) -> None:
        self.deliver = deliver
        self._pool = pool
        self._worker = worker
        self._stream = stream
        self._second = request.rate * (2 if request.encoding == "LINEAR16" else 1)
        self._opened = pool.now()
        self._sent = self._acknowledged = 0
        self._room = asyncio.Event()
        self._room.set()
        worker.send(wire.opening(stream, request))

    async def send(self, audio: bytes) -> None:
        """Hand over audio, a second at a time; waits while the worker has enough. Cancelling loses what waits."""
        for at in range(0, len(audio), self._second):
            piece = audio[at : at + self._second]
            self._worker.send(wire.frame(Kind.AUDIO, self._stream, piece))
            self._sent += len(piece)
            await self._wait_for_room()

    def end(self) -> None:
        self._worker.send(wire.frame(Kind.END, self._stream))

    def close(self) -> None:
        """Forget the stream, whatever it still has to say. Harmless when it is over."""
        if self._worker.streams.pop(self._stream, None):
            self._worker.send(wire.frame(Kind.CANCEL, self._stream))

    def acknowledge(self, size: int) -> None:
        self._acknowledged += size
        if self._unrecognized < AHEAD:
            self._room.set()

    def release(self) -> None:
        """Let nobody wait for a worker that is gone."""
        self._acknowledged = self._sent
        self._room.set()

    @property
    def _unrecognized(self) -> float:
        return (self._sent - self._acknowledged) / self._second

    async def _wait_for_room(self) -> None:
        if self._unrecognized < AHEAD:
            return
        if self._sent / self._second <= self._pool.now() - self._opened:
            self._pool.complain()
        self._room.clear()
        await self._room.wait()


class Pool:
    """All workers. A stream goes to the one with the fewest and stays there."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._workers: list[_Worker] = []
        self._streams = count(1)
        self._complained = float("-inf")
        self._started = False

    async def start(self) -> None:
        """Returns when every model is loaded. Raises WorkerFailed."""
        self._workers = [_Worker(self._options, self._replace) for _ in range(self._options.worker_count)]
        await asyncio.gather(*(worker.ready for worker in self._workers))
        self._started = True

    async def stop(self) -> None:
        self._started = False
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    def open(self, request: wire.Open, deliver: Deliver) -> Recognition:
        """One that still loads its model takes streams, too. Raises NoWorker."""
        alive = [worker for worker in self._workers if worker.alive]
        if not alive:
            raise NoWorker
        worker = min(alive, key=lambda worker: len(worker.streams))
        stream = next(self._streams)
        recognition = Recognition(self, worker, stream, request, deliver)
        worker.streams[stream] = recognition
        return recognition

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers if worker.process]

    @property
    def stream_count(self) -> int:
        return sum(len(worker.streams) for worker in self._workers)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def complain(self) -> None:
        """One line, not one per stream, when the workers do not keep up with real time."""
        if self.now() - self._complained < COMPLAIN_EVERY:
            return
        self._complained = self.now()
        log.warning(
            "overloaded: %d streams on %d workers are more than they recognize in real time; reading more slowly",
            self.stream_count,
            len(self._workers),
        )

    def _replace(self, worker: "_Worker") -> None:
        """A worker is gone. After one that never came up the next is not hurried: it may fail alike."""
        if not self._started:
            return
        log.warning("%s; starting another", worker.fate)
        place = self._workers.index(worker)
        if worker.came_up:
            self._fill(place)
        else:
            asyncio.get_running_loop().call_later(TRY_AGAIN, self._fill, place)

    def _fill(self, place: int) -> None:
        if self._started:
            self._workers[place] = _Worker(self._options, self._replace)


class _Worker:
    """One process, and this side of its socket pair."""

    def __init__(self, options: Options, on_lost: Callable[["_Worker"], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._link, theirs = socket.socketpair()
        self._link.setblocking(False)
        self._loop.add_reader(self._link.fileno(), self._read)
        self._frames = wire.Frames()
        self._out = bytearray()
        self._hung_up = asyncio.Event()
        self.process: Process | None = None
        self.fate = ""
        self.streams: dict[int, Recognition] = {}
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._life = self._loop.create_task(self._live(theirs, options))

    @property
    def alive(self) -> bool:
        return not self._hung_up.is_set()

    @property
    def came_up(self) -> bool:
        return self.ready.done() and self.ready.exception() is None

    def send(self, frame: bytes) -> None:
        """Never waits: what a stream may have on its way is bounded by AHEAD."""
        if not self.alive:
            return
        if not self._out:
            self._loop.add_writer(self._link.fileno(), self._write)
        self._out += frame

    async def stop(self) -> None:
        """Closing our direction tells the worker to end; one that does not listen is killed."""
        if self.alive:
            self._link.shutdown(socket.SHUT_WR)
            await asyncio.wait([self._life], timeout=STOP_WITHIN)
            self._hang_up()
        await asyncio.wait([self._life])

    async def _live(self, theirs: socket.socket, options: Options) -> None:
        """Its process, from the start to the end. Frames for one that is being started wait in the socket pair."""
        try:
            with theirs:
                self.process = await _spawn(theirs.fileno(), options)
        except OSError as error:
            self.fate = f"a worker could not be started: {error}"
            self._hang_up()
        else:
            await self._hung_up.wait()
            with suppress(ProcessLookupError):
                self.process.kill()
            code = await self.process.wait()
            self.fate = f"worker {self.process.pid} ended with code {code}"
            self.fate += "" if self.came_up else " before it was ready"
        self._end()

    def _write(self) -> None:
        try:
            del self._out[: self._link.send(self._out)]
        except (BrokenPipeError, ConnectionResetError):
            self._out.clear()  # the reader sees the end, too
        if not self._out:
            self._loop.remove_writer(self._link.fileno())

    def _read(self) -> None:
        try:
            data = self._link.recv(READ)
        except ConnectionResetError:
            data = b""
        if not data:
            self._hang_up()
        for kind, stream, payload in self._frames.feed(data):
            self._take(kind, stream, payload)

    def _take(self, kind: Kind, stream: int, payload: bytes) -> None:
        if kind is Kind.READY:
            self.ready.set_result(None)
            return
        recognition = self.streams.get(stream)
        if recognition is None:
            return
        match kind:
            case Kind.EVENT:
                recognition.deliver(wire.read_event(payload))
            case Kind.ACK:
                recognition.acknowledge(wire.read_ack(payload))
            case Kind.DONE:
                del self.streams[stream]
                recognition.deliver(Done())

    def _hang_up(self) -> None:
        """The process is gone, or is to go."""
        if not self.alive:
            return
        self._hung_up.set()
        self._loop.remove_reader(self._link.fileno())
        self._loop.remove_writer(self._link.fileno())
        self._link.close()

    def _end(self) -> None:
        """The process is gone."""
        if not self.ready.done():
            self.ready.set_exception(WorkerFailed(self.fate))
            self.ready.exception()  # nobody waits for one that was started later
        for recognition in [*self.streams.values()]:
            recognition.release()
            recognition.deliver(Lost())
        self.streams.clear()
        self._on_lost(self)


async def _spawn(link: int, options: Options) -> Process:
    """From the directory that holds this package, so that it need not be installed."""
    model = [str(options.model.resolve())] if options.model else []
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.emulator.worker", str(link), *model),
        cwd=Path(__file__).parents[2],
        pass_fds=[link],
        stdin=DEVNULL,
        stdout=DEVNULL,
    )
