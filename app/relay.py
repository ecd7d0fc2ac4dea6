"""One session at work: socket <-> session <-> recognizer. asyncio only, no rule of its own.

Two tasks: the reader takes frames (and waits where the recognizer waits, so TCP pushes back on the client), the writer
alone sends, whatever the session says is due. Whoever changes the session wakes the writer.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Protocol

from app.core.errors import SessionError
from app.core.protocol import AudioMessage, Finalize, Gap, Keepalive, Resume, Start, Stop, parse
from app.core.recognition import Event
from app.core.session import Phase, Session

log = logging.getLogger(__name__)


class Disconnected(Exception):
    """The socket is gone."""


class Socket(Protocol):
    """A WebSocket, accepted."""

    async def receive(self) -> str | bytes:
        """The next frame. Raises Disconnected. Cancelling loses nothing."""

    async def send(self, text: str) -> None:
        """Waits while the client does not read. Raises Disconnected."""

    async def close(self, code: int, reason: str) -> None:
        """`reason`: at most 123 bytes of UTF-8."""

    def abort(self) -> None:
        """Drops the connection at once, whatever is still unsent."""

    async def gone(self) -> None:
        """Waits for the connection's end, however much of it was not received yet."""


class Recognizer(Protocol):
    """Hears one session. It tells what it heard through the callback that it was made with."""

    async def send(self, audio: bytes) -> None:
        """Waits while the upstream is behind."""

    async def skip(self, count: int) -> None:
        """The next audio is `count` bytes later."""

    async def finalize(self) -> None:
        """Everything sent so far becomes final now."""

    async def finish(self) -> None:
        """No more audio will come."""

    def tick(self, now: float) -> None:
        """Called at least every second."""

    async def close(self) -> None:
        """Ends at once and releases everything."""


class Meter(Protocol):
    """Counts what all sessions do."""

    def opened(self) -> None: ...

    def hear(self, event: Event) -> None:
        """A recognizer says so."""

    def closed(self, session: Session) -> None: ...


Recognize = Callable[[Session, Callable[[Event], None]], Recognizer]


class Relay:
    def __init__(
        self, session: Session, socket: Socket, recognize: Recognize, *, meter: Meter, send_seconds: float
    ) -> None:
        self.session = session
        self._meter = meter
        self._socket = socket
        self._recognizer = recognize(session, self._hear)
        self._send_seconds = send_seconds
        self._wake = asyncio.Event()
        self._upstream = asyncio.Lock()
        """The recognizer takes one call at a time."""
        self._finishing: asyncio.Task[None] | None = None
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Until the session has ended or the socket is gone. Leaves no task and no upstream call behind."""
        reader = asyncio.create_task(self._guard(self._read()))
        writer = asyncio.create_task(self._guard(self._write()))
        gone = asyncio.create_task(self._socket.gone())  # a reader that waits for the upstream would not notice
        self._wake.set()
        try:
            await asyncio.wait({reader, writer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if self.session.ended:
                await writer
        finally:
            tasks = [task for task in (reader, writer, gone, self._finishing) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._recognizer.close()

    def fail(self, error: SessionError) -> None:
        """Ends the session from outside: the client is told."""
        self.session.fail(error)
        self._wake.set()

    def tick(self, now: float) -> None:
        """At least every second."""
        try:
            if not self._upstream.locked():  # a client that waits for us is not idle
                self.session.tick(now)
        except SessionError as error:
            self.session.fail(error)
        if self.session.over(now):
            self.session.close()
        self._recognizer.tick(now)
        self._finish_if_closing()
        self._wake.set()

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """The outermost frame of the reader and the writer: what goes wrong is told to the client or logged."""
        try:
            await work
        except Disconnected:
            pass
        except SessionError as error:
            self.fail(error)
        except Exception:
            log.exception("session %s failed", self.session.id)
            self.fail(SessionError("internal", "the gateway failed: its log has the reason"))

    def _hear(self, event: Event) -> None:
        self._meter.hear(event)
        self.session.receive(event)
        self._finish_if_closing()
        self._wake.set()

    def _finish_if_closing(self) -> None:
        if self.session.phase is Phase.CLOSING and self._finishing is None:
            self._finishing = asyncio.create_task(self._finish())

    async def _finish(self) -> None:
        async with self._upstream:
            await self._recognizer.finish()

    # The reader -------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            frame = await self._socket.receive()
            self.session.heard_from_client(self._clock())
            if isinstance(frame, bytes):
                await self._send(self.session.receive_audio(frame))
            else:
                await self._obey(frame)

    async def _obey(self, text: str) -> None:
        session = self.session
        match parse(text):
            case AudioMessage() as message:
                await self._send(session.receive_audio_message(message))
            case Gap() as gap if session.receive_gap(gap):
                async with self._upstream:
                    await self._recognizer.skip(gap.bytes)
            case Finalize() as message if session.finalize(message):
                async with self._upstream:
                    await self._recognizer.finalize()
            case Stop() if session.stop():
                await self._finish()
            case Keepalive():
                session.takes("keepalive")
            case Start():
                raise SessionError("bad_order", "`start` may only be the first message")
            case Resume():
                raise SessionError("bad_order", "`resume` may only be the first message")
        self._wake.set()

    async def _send(self, audio: bytes) -> None:
        if audio:
            async with self._upstream:
                await self._recognizer.send(audio)
            self.session.heard_from_client(self._clock())

    # The writer -------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            ended = self.session.ended
            try:
                async with asyncio.timeout(self._send_seconds):
                    for message in self.session.due():
                        await self._socket.send(message)
                    self.session.forget_sent()
                    if ended:
                        await self._close()
                        return
            except TimeoutError:
                self.session.fail(SessionError("slow_client", f"nothing was read for {self._send_seconds:g} s"))
                self._socket.abort()
                return

    async def _close(self) -> None:
        if error := self.session.error:
            await self._socket.close(error.refusal.close_code, clip(error.message))
        else:
            await self._socket.close(1000, "stopped")


def clip(reason: str) -> str:
    """A close frame holds 123 bytes of reason."""
    return reason.encode()[:123].decode(errors="ignore")
