"""One session with a gateway, over as many connections as it takes.

`send` puts audio into the outbox and waits while the gateway gives no credit (`ack.window`). One task keeps the
connection: it reads whether or not anybody iterates over `messages()`, sends what is in the outbox, and comes back when
the connection breaks.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

import msgspec
from websockets.exceptions import ConnectionClosed

from app.client.link import (
    OPEN_SECONDS,
    ConnectionLostError,
    GatewayError,
    Socket,
    TranscriberError,
    lost,
    not_understood,
    open_socket,
)
from app.client.outbox import Outbox
from app.core.audio import AudioFormat
from app.core.breaker import Backoff
from app.core.protocol import (
    Ack,
    AudioMessage,
    ClientInfo,
    Durable,
    Error,
    Final,
    Finalize,
    Finalized,
    Gap,
    GapEvent,
    GapReason,
    GoAway,
    Interim,
    Keepalive,
    Resume,
    Resumed,
    ServerMessage,
    SessionConfig,
    SpeechEnded,
    SpeechStarted,
    Start,
    Started,
    Stop,
    Stopped,
    Throttle,
    WarningMessage,
    parse_server,
    serialize,
)

Message = (
    Interim | Final | GapEvent | SpeechStarted | SpeechEnded | Finalized | Throttle | WarningMessage | GoAway | Stopped
)
"""What `Transcriber.messages` yields."""


RETRY_BASE, RETRY_CAP = 0.1, 5.0
"""Seconds: the backoff between attempts to come back."""
HEALTHY_SECONDS = 10.0
"""A connection that has lived so long was a good one: the backoff starts anew."""


class Transcriber:
    """One session. Enter it to connect and to be accepted; leaving it closes the socket.

    A connection that breaks, or that the gateway closes for a time, is opened again and the session goes on, for as
    long as the gateway keeps it (`started.resume_window_ms`): audio that is not final is kept, and sent again.

    After `stop()`, `messages()` ends with `stopped`. Leaving before that gives up the text that is still to come.
    """

    def __init__(
        self,
        url: str,
        config: SessionConfig,
        *,
        token: str | None = None,
        framing: Literal["binary", "base64"] = "binary",
        frame_ms: int = 100,
        overflow: Literal["wait", "gap"] = "wait",
    ) -> None:
        """`frame_ms`: what is longer goes out in several frames; what is shorter goes out as it is. `overflow`: without
        credit `send` waits, or, for a microphone, skips the audio: a `gap` that readers are told of."""
        self.started: Started
        """What the gateway made of `config`, and its limits. Set on entering."""
        self.received = 0
        """Bytes that the gateway has."""
        self.settled = 0
        """Bytes of them whose text is final."""
        self.resumes = 0
        """How often the session went on over a new connection."""
        self._url = url
        self._token = token
        self._base64 = framing == "base64"
        self._overflow = overflow
        self._start = _start(config)
        self._frame_bytes = max(1, AudioFormat.of(config.audio).offset(frame_ms))
        self._window = 0
        self._outbox = Outbox()
        self._kick = asyncio.Event()
        """Something is in the outbox."""
        self._connected = False
        self._changed = asyncio.Event()
        """The network is another one."""
        self._resume_token = ""
        self._last_event = 0
        self._inbox: deque[Message] = deque()
        self._news = asyncio.Event()
        self._stopping = False
        self._over = False
        self._failure: TranscriberError | None = None
        self._socket: Socket
        self._keeper: asyncio.Task[None]
        self._backoff = Backoff(RETRY_BASE, RETRY_CAP)
        self._clock: Callable[[], float]

    @property
    def sent(self) -> int:
        """The cursor: bytes of the session's audio that were given to `send`, or skipped by `gap`."""
        return self._outbox.cursor

    async def __aenter__(self) -> Self:
        """Raises UnreachableError, GatewayError, ConnectionLostError."""
        self._clock = asyncio.get_running_loop().time
        self._socket, hello = await self._open(self._start)
        if not isinstance(hello, Started):
            await self._socket.close()
            raise TranscriberError(f"the gateway answered `start` with {serialize(hello)}")
        self.started = hello
        self._resume_token = hello.resume_token
        self._window = hello.limits.window_bytes
        self._frame_bytes = min(self._frame_bytes, hello.limits.max_frame_bytes)
        self._connected = True
        self._keeper = asyncio.create_task(self._keep(), name="transcriber")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        try:
            await self._socket.close()
        finally:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def send(self, audio: bytes) -> None:
        """The next audio, in the encoding of the config; any size, samples may be split between calls.

        Waits for credit, and for the socket while there is one. Cancelling is safe: `sent` then tells how much counts.
        Raises GatewayError or ConnectionLostError once the session has failed.
        """
        if self._stopping:
            raise RuntimeError("audio after stop()")
        while audio:
            if self._overflow == "gap" and self._credit <= 0 and not self._over:
                await self.gap(len(audio), "overflow")
                return
            await self._until(lambda: self._credit > 0)
            size = min(len(audio), self._frame_bytes, self._credit)
            chunk, audio = audio[:size], audio[size:]
            self._outbox.audio(chunk)
            await self._flush()

    async def gap(self, size: int, reason: GapReason) -> None:
        """Skip `size` bytes of audio that there will never be: the cursor advances and readers are told."""
        self._outbox.gap(size, reason)
        await self._flush()

    async def finalize(self, name: str | None = None) -> None:
        """Ask for everything sent so far to become final now; `finalized` with `id` = `name` says that it is."""
        self._outbox.finalize(Finalize(id=name))
        await self._flush()

    async def keepalive(self) -> None:
        """Say that there is no audio for a while, or the gateway closes the session as idle."""
        if self._connected:
            with suppress(ConnectionClosed):
                await self._socket.send(serialize(Keepalive()))

    async def stop(self) -> None:
        """Say that there is no more audio. `messages()` goes on until the last final and `stopped`."""
        if not self._stopping:
            self._stopping = True
            self._outbox.stop()
            await self._flush()

    def network_changed(self) -> None:
        """The phone has another network: a new connection is opened before the old one is given up."""
        self._changed.set()

    async def messages(self) -> AsyncIterator[Message]:
        """Everything the gateway says about the speech, in order, until `stopped`.

        A newer interim replaces one that was not read yet. Raises GatewayError or ConnectionLostError where the session
        fails, after what came before.
        """
        while True:
            await self._until(lambda: bool(self._inbox), fail=False)
            if not self._inbox:
                break
            yield self._inbox.popleft()
        if self._failure:
            raise self._failure

    @property
    def _credit(self) -> int:
        return self.settled + self._window - self.sent

    async def _flush(self) -> None:
        """Waits for the socket; where there is none, what is in the outbox waits for the next one."""
        self._kick.set()
        await self._until(lambda: self._outbox.is_empty or not self._connected)

    async def _until(self, ready: Callable[[], bool], *, fail: bool = True) -> None:
        while not ready() and not self._over:
            self._news.clear()
            await self._news.wait()
        if fail and self._over:
            raise self._failure or ConnectionLostError("the session has ended")

    # The connection ---------------------------------------------------------------------------

    async def _open(self, first: Start | Resume) -> tuple[Socket, ServerMessage]:
        """A new socket, and the answer to its first message. Raises UnreachableError, GatewayError,
        ConnectionLostError."""
        socket = await open_socket(self._url, self._token)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await socket.send(serialize(first))
                message = parse_server(await socket.recv())
            if isinstance(message, Error):
                raise GatewayError(message)
        except BaseException as exc:
            await socket.close()
            raise _as_failure(exc) from exc
        return socket, message

    async def _keep(self) -> None:
        """The one task of the session: from connection to connection. What ends it is kept for those who wait."""
        try:
            while True:
                since = self._clock()
                failure = await self._converse()
                if self._over:
                    return
                if self._clock() - since >= HEALTHY_SECONDS:
                    self._backoff.reset()
                await self._come_back(failure)
        except TranscriberError as exc:
            self._failure = exc
        finally:
            self._over = True
            self._connected = False
            self._news.set()

    async def _converse(self) -> TranscriberError | None:
        """One connection, until the session is over or it is; returns why it ended, or nothing where another network is
        to be used."""
        listening = asyncio.create_task(self._listen())
        others = [asyncio.create_task(self._speak()), asyncio.create_task(self._until_changed())]
        try:
            await asyncio.wait([listening, others[1]], return_when=asyncio.FIRST_COMPLETED)
            changed = not listening.done()
        finally:
            for task in (listening, *others):
                task.cancel()
            ends = await asyncio.gather(listening, *others, return_exceptions=True)
        if changed:
            return None
        return ends[0] if isinstance(ends[0], TranscriberError) else ConnectionLostError("the session has ended")

    async def _until_changed(self) -> None:
        await self._changed.wait()

    async def _come_back(self, failure: TranscriberError | None) -> None:
        """Goes on over a new connection. Raises `failure` where that cannot be."""
        self._changed.clear()
        old = self._socket
        self._connected = failure is None
        self._news.set()  # who waits for the socket waits no more
        if failure is not None and not self._may_come_back(failure):
            raise failure
        until = self._clock() + self.started.resume_window_ms / 1000
        while not await self._resume(failure, until):
            pass
        with suppress(ConnectionClosed):
            await old.close()

    def _may_come_back(self, failure: TranscriberError) -> bool:
        retryable = failure.retryable if isinstance(failure, GatewayError) else isinstance(failure, ConnectionLostError)
        return retryable and self.started.resume_window_ms > 0

    async def _resume(self, failure: TranscriberError | None, until: float) -> bool:
        """One attempt, after its time; whether it was one. Raises `failure` when there is no more hope."""
        delay = 0.0 if failure is None else self._backoff.next(random.random)
        if isinstance(failure, GatewayError) and failure.retry_after_ms:
            delay += failure.retry_after_ms / 1000
        await asyncio.sleep(delay)
        try:
            socket, hello = await self._open(Resume(self.started.session_id, self._resume_token, self._last_event))
        except TranscriberError as exc:
            final = isinstance(exc, GatewayError) and not exc.retryable
            if final or self._clock() >= until:
                raise failure or exc from exc
            return False
        if not isinstance(hello, Resumed):
            await socket.close()
            raise TranscriberError(f"the gateway answered `resume` with {serialize(hello)}")
        self._go_on(socket, hello)
        return True

    def _go_on(self, socket: Socket, hello: Resumed) -> None:
        self._socket = socket
        self._resume_token = hello.resume_token
        self.received = hello.offset
        self.resumes += 1
        self._outbox.rewind(hello.offset)
        self._connected = True
        self._kick.set()

    async def _listen(self) -> None:
        """The one reader of the socket. Raises TranscriberError; returns after `stopped`."""
        try:
            while not self._over:
                self._take(parse_server(await self._socket.recv()))
                self._news.set()
        except (ConnectionClosed, msgspec.DecodeError) as exc:
            raise _as_failure(exc) from exc

    async def _speak(self) -> None:
        """The one writer of the socket; the reader knows when it is gone."""
        with suppress(ConnectionClosed):
            while True:
                while (item := self._outbox.next()) is not None:
                    await self._socket.send(self._frame(*item))
                    self._news.set()
                self._news.set()
                self._kick.clear()
                await self._kick.wait()

    def _frame(self, offset: int, item: bytes | Gap | Finalize | Stop) -> str | bytes:
        if not isinstance(item, bytes):
            return serialize(item)
        return serialize(AudioMessage(content=item, offset=offset)) if self._base64 else item

    def _take(self, message: object) -> None:
        if isinstance(message, Durable):
            self._last_event = message.event
        match message:
            case Ack():
                self.received = max(self.received, message.received)
                self.settled = max(self.settled, message.final)
                self._window = message.window
                self._outbox.settle(self.settled)
            case Error():
                raise GatewayError(message)
            case Interim() | Final():
                self._replace_interim(message.channel)
                self._inbox.append(message)
            case Stopped():
                self._inbox.append(message)
                self._over = True
            case Finalized() if not self._outbox.finalized(message):
                pass
            case GapEvent() | SpeechStarted() | SpeechEnded() | Finalized() | Throttle() | WarningMessage() | GoAway():
                self._inbox.append(message)

    def _replace_interim(self, channel: int) -> None:
        last = self._inbox[-1] if self._inbox else None
        if isinstance(last, Interim) and last.channel == channel:
            self._inbox.pop()


def _as_failure(exc: BaseException) -> BaseException:
    """What went wrong with a socket, in the client's words."""
    match exc:
        case ConnectionClosed():
            return lost(exc)
        case TimeoutError():
            return ConnectionLostError(f"the gateway did not answer in {OPEN_SECONDS:.0f} s")
        case msgspec.DecodeError():
            return not_understood(exc)
    return exc


def _start(config: SessionConfig) -> Start:
    fields = {name: getattr(config, name) for name in SessionConfig.__struct_fields__}
    return Start(**fields, client=ClientInfo(name="captions-gateway python"))
