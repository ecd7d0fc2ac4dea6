"""One link at work: socket <-> session. asyncio only, no rule of its own.

Two tasks: the reader takes frames (and waits where the recognizer waits, so TCP pushes back on the client), the writer
alone sends, whatever the session says is due.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from app.core.audio import Pace
from app.core.errors import SessionError, own_fault
from app.core.protocol import (
    AudioMessage,
    ClientMessage,
    Finalize,
    Gap,
    Keepalive,
    Resume,
    Start,
    Stop,
    error_message,
    parse,
    serialize,
)
from app.live import Live

log = logging.getLogger(__name__)

NORMAL_CLOSURE = 1000
BURST_SECONDS = 4.0
"""So long it may have had nothing to say but audio, and then say it at once: it was away, perhaps."""
FINALIZE_COUNTS = 10
"""As so many of the others: each is a stream of the upstream's."""
BATCH_CHARACTERS = 16 * 1024
REFUSE_SECONDS = 1.0
"""Time to tell a client why its link ends, though its session does not."""


class Disconnected(Exception):
    """The socket is gone. `code` is the client's own close code, where it said one."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


class Socket(Protocol):
    """A WebSocket, accepted."""

    async def receive(self) -> str | bytes:
        """The next frame. Raises Disconnected. Cancelling loses nothing."""

    def gather(self, count: int) -> None:
        """From now on binary frames come together, `count` bytes at a time, as long as nothing else comes between, and
        more soon."""

    async def send(self, *texts: str) -> None:
        """Each is a message; they go out together. Waits while the client does not read. Raises Disconnected."""

    async def close(self, code: int, reason: str, *, at_once: bool = False) -> None:
        """`reason`: at most 123 bytes of UTF-8. Waits as `send` does, but not `at_once`."""

    def abort(self) -> None:
        """Drops the connection at once, whatever is still unsent."""

    @property
    def gone(self) -> asyncio.Future[None]:
        """Done at the connection's end, however much of it was not received yet. Not to be cancelled."""

    @property
    def client_code(self) -> int | None:
        """The close code that the client has said, if it did."""

    async def closed(self) -> bool:
        """After `close`: waits for the connection's end; whether the client answered, and so has read all before it."""


class Relay:
    def __init__(self, live: Live, socket: Socket, *, send_seconds: float, controls_per_second: float) -> None:
        self.live = live
        self._socket = socket
        self._send_seconds = send_seconds
        self._controls = Pace(controls_per_second, controls_per_second * BURST_SECONDS)
        self.left = False
        """The client has closed the connection in good order: it will not come back."""
        self._within_step = False
        self._leaving = False
        self._refusal: asyncio.Future[SessionError] = asyncio.get_running_loop().create_future()
        """Why this link ends, though the session does not."""
        self._sending_since = float("inf")
        """When the writer began to wait for the client, if it does."""
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Until the session has ended, the socket is gone, or the link is refused. The session's steps go on."""
        reader = asyncio.create_task(self._guard(self._read()))
        writer = asyncio.create_task(self._guard(self._write()))
        gone = self._socket.gone  # a reader that waits for the upstream would not notice
        self.live.news.set()
        try:
            await _first(reader, writer, gone, self._refusal)
            if gone.done() and not (self.live.session.ended or self._refusal.done()):
                self.left |= self._socket.client_code == NORMAL_CLOSURE
            if self.live.session.ended:
                await _first(writer, self._refusal)
            if self._refusal.done():
                await self._refuse(writer, self._refusal.result())
        finally:
            self._leaving = True
            if self._within_step:
                self.live.adopt(reader)
            else:
                reader.cancel()
            tasks = [writer] if self._within_step else [reader, writer]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._ended.set_result(None)

    @property
    def refusal(self) -> SessionError | None:
        """Why it ended, where it was refused."""
        return self._refusal.result() if self._refusal.done() else None

    def refuse(self, error: SessionError) -> None:
        """Ends this link, not the session: the client is told."""
        if not self._refusal.done():
            self._refusal.set_result(error)

    def drop(self) -> None:
        """Ends the connection at once: its client has had its time."""
        self._socket.abort()

    async def ended(self) -> None:
        """Waits until it neither reads nor sends any more."""
        await asyncio.shield(self._ended)

    def tick(self, now: float) -> None:
        """At least every second."""
        if now - self._sending_since > self._send_seconds:
            self.refuse(SessionError("slow_client", f"nothing was read for {self._send_seconds:g} s"))
        try:
            self.live.tick(now)
        except SessionError as error:
            if not self.live.session.ended:  # else it is being told why
                self.refuse(error)

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """The outermost frame of the reader and the writer: what goes wrong is told to the client or logged."""
        try:
            await work
        except Disconnected as gone:
            self.left = gone.code == NORMAL_CLOSURE
        except SessionError as error:
            self.live.fail(error)
        except Exception:
            log.exception("session %s failed", self.live.session.id)
            self.live.fail(own_fault())

    async def _refuse(self, writer: asyncio.Task[None], error: SessionError) -> None:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        try:
            await refuse(self._socket, error, self.live.session.id)
        except Disconnected:
            self._socket.abort()  # gone, or it has been told the end already and does not read it

    # The reader -------------------------------------------------------------------------------

    async def _read(self) -> None:
        """The first frame comes alone, at once: with it the old resume token is dead."""
        gathers = False
        while not self._leaving:
            frame = await self._socket.receive()
            if not gathers:
                self._socket.gather(self.live.chunk_bytes)
                gathers = True
            if self.live.session.heard_from_client(self._clock()):
                self.live.changed()
            self._within_step = True
            try:
                if isinstance(frame, bytes):
                    await self._send(self.live.session.receive_audio(frame))
                else:
                    await self._obey(frame)
            finally:
                self._within_step = False
            del frame  # up to 64 kB, while it waits for the next one

    async def _obey(self, text: str) -> None:
        session = self.live.session
        match parse(text, session.max_frame_bytes):
            case AudioMessage() as message:
                await self._send(session.receive_audio_message(message))
            case control:
                await self._control(control)

    async def _control(self, control: ClientMessage) -> None:
        """All but audio."""
        session = self.live.session
        match control:
            case Gap() as gap if session.receive_gap(gap):
                async with self.live.step() as recognizer:
                    await recognizer.skip(gap.bytes)
            case Finalize() as message if session.finalize(message):
                async with self.live.step() as recognizer:
                    await recognizer.finalize()
            case Stop() if session.stop():
                async with self.live.step() as recognizer:
                    await recognizer.finish()
            case Keepalive():
                session.takes("keepalive")
            case Start():
                raise SessionError("bad_order", "`start` may only be the first message")
            case Resume():
                raise SessionError("bad_order", "`resume` may only be the first message")
        self.live.changed()
        counts = FINALIZE_COUNTS if isinstance(control, Finalize) else 1
        await asyncio.sleep(self._controls.delay(self._clock(), counts))  # others have their turn in any case

    async def _send(self, audio: bytes) -> None:
        if audio:
            await self.live.send(audio)
            self.live.session.is_not_idle(self._clock())  # it waited for us; perhaps on another link meanwhile

    # The writer -------------------------------------------------------------------------------

    async def _write(self) -> None:
        session, news = self.live.session, self.live.news
        while True:
            await news.wait()
            news.clear()
            last = session.all_is_due
            for batch in batches(session.due()):
                self._sending_since = self._clock()
                await self._socket.send(*batch)
            if last:
                self._sending_since = self._clock()
                await self._close()
                session.delivered = await self._socket.closed()
                return
            self._sending_since = float("inf")

    async def _close(self) -> None:
        if error := self.live.session.error:
            await self._socket.close(error.refusal.close_code, clip(error.message))
        else:
            await self._socket.close(1000, "stopped")


async def _first(*ends: asyncio.Future[Any]) -> None:
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)


async def refuse(socket: Socket, error: SessionError, session_id: str | None = None) -> None:
    """Tells a client why its socket is closed, and closes it. One that does not read will find the close code behind
    what it has not read, if it does so soon."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REFUSE_SECONDS):
            await socket.send(serialize(error_message(error, session_id)))
    await socket.close(error.refusal.close_code, clip(error.message), at_once=True)


def batches(messages: Iterable[str]) -> Iterator[list[str]]:
    """As many as go out together: a client that reads slowly is given some after the other."""
    batch: list[str] = []
    size = 0
    for message in messages:
        batch.append(message)
        size += len(message)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def clip(reason: str) -> str:
    """A close frame holds 123 bytes of reason."""
    return reason.encode()[:123].decode(errors="ignore")
