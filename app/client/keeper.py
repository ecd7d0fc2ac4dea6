"""Keeps a session connected: reads the socket, sends what is in the outbox, and comes back when the connection breaks.

One task does it all. It tells what it hears by a callback, and what changes by `news`.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

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
from app.core.breaker import Backoff
from app.core.protocol import (
    Ack,
    AudioMessage,
    Durable,
    Error,
    Finalize,
    Gap,
    Keepalive,
    Resume,
    Resumed,
    ServerMessage,
    Start,
    Started,
    Stop,
    Stopped,
    parse_server,
    serialize,
)

RETRY_BASE, RETRY_CAP = 0.1, 5.0
"""Seconds: the backoff between attempts to come back."""
HEALTHY_SECONDS = 10.0
"""A connection that has lived so long was a good one: the backoff starts anew."""


class Keeper:
    def __init__(
        self,
        url: str,
        token: str | None,
        start: Start,
        outbox: Outbox,
        hear: Callable[[ServerMessage], None],
        *,
        base64: bool,
    ) -> None:
        """`hear` is told every message but the answers to `start` and `resume`."""
        self.news = asyncio.Event()
        """Set after every change."""
        self.received = 0
        """Bytes that the gateway has."""
        self.resumes = 0
        self.connected = False
        self.over = False
        self.failure: TranscriberError | None = None
        """What has ended it, where that is not `stopped` or the caller."""
        self._url = url
        self._token = token
        self._start = start
        self._outbox = outbox
        self._hear = hear
        self._base64 = base64
        self._started: Started
        self._resume_token = ""
        self._last_event = 0
        self._kick = asyncio.Event()
        """Something is in the outbox."""
        self._changed = asyncio.Event()
        """The network is another one."""
        self._backoff = Backoff(RETRY_BASE, RETRY_CAP)
        self._socket: Socket
        self._task: asyncio.Task[None]
        self._clock: Callable[[], float]

    async def open(self) -> Started:
        """The first connection. Raises UnreachableError, GatewayError, ConnectionLostError."""
        self._clock = asyncio.get_running_loop().time
        self._socket, hello = await self._open(self._start)
        if not isinstance(hello, Started):
            await self._socket.close()
            raise TranscriberError(f"the gateway answered `start` with {serialize(hello)}")
        self._started = hello
        self._resume_token = hello.resume_token
        self.connected = True
        self._task = asyncio.create_task(self._keep(), name="transcriber")
        return hello

    async def close(self) -> None:
        self.over = True
        try:
            await self._socket.close()
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])

    def kick(self) -> None:
        """Something was put into the outbox."""
        self._kick.set()

    def network_changed(self) -> None:
        self._changed.set()

    async def say(self, message: Keepalive) -> None:
        """Now, or never."""
        if self.connected:
            with suppress(ConnectionClosed):
                await self._socket.send(serialize(message))

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
                if self.over:
                    return
                if self._clock() - since >= HEALTHY_SECONDS:
                    self._backoff.reset()
                await self._come_back(failure)
        except TranscriberError as exc:
            self.failure = exc
        finally:
            self.over = True
            self.connected = False
            self.news.set()

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
        self.connected = failure is None
        self.news.set()  # who waits for the socket waits no more
        if failure is not None and not self._may_come_back(failure):
            raise failure
        until = self._clock() + self._started.resume_window_ms / 1000
        while not await self._resume(failure, until):
            pass
        with suppress(ConnectionClosed):
            await old.close()

    def _may_come_back(self, failure: TranscriberError) -> bool:
        retryable = failure.retryable if isinstance(failure, GatewayError) else isinstance(failure, ConnectionLostError)
        return retryable and self._started.resume_window_ms > 0

    async def _resume(self, failure: TranscriberError | None, until: float) -> bool:
        """One attempt, after its time; whether it was one. Raises `failure` when there is no more hope."""
        delay = 0.0 if failure is None else self._backoff.next(random.random)
        if isinstance(failure, GatewayError) and failure.retry_after_ms:
            delay += failure.retry_after_ms / 1000
        await asyncio.sleep(delay)
        try:
            socket, hello = await self._open(Resume(self._started.session_id, self._resume_token, self._last_event))
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
        self.connected = True
        self._kick.set()

    async def _listen(self) -> None:
        """The one reader of the socket. Raises TranscriberError; returns after `stopped`."""
        try:
            while not self.over:
                self._take(parse_server(await self._socket.recv()))
                self.news.set()
        except (ConnectionClosed, msgspec.DecodeError) as exc:
            raise _as_failure(exc) from exc

    async def _speak(self) -> None:
        """The one writer of the socket; the reader knows when it is gone."""
        with suppress(ConnectionClosed):
            while True:
                while (item := self._outbox.next()) is not None:
                    await self._socket.send(self._frame(*item))
                    self.news.set()
                self.news.set()
                self._kick.clear()
                await self._kick.wait()

    def _frame(self, offset: int, item: bytes | Gap | Finalize | Stop) -> str | bytes:
        if not isinstance(item, bytes):
            return serialize(item)
        return serialize(AudioMessage(content=item, offset=offset)) if self._base64 else item

    def _take(self, message: ServerMessage) -> None:
        if isinstance(message, Durable):
            self._last_event = message.event
        match message:
            case Error():
                raise GatewayError(message)
            case Ack():
                self.received = max(self.received, message.received)
            case Stopped():
                self.over = True
        self._hear(message)


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
