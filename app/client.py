"""Speech in, captions out: one session with a gateway, for Python programs.

    config = SessionConfig(audio=Audio("LINEAR16", 16_000), language_codes=["en-US"])
    async with Transcriber("ws://127.0.0.1:8000/ws/transcribe", config) as transcriber:
        await transcriber.send(audio)
        await transcriber.stop()
        async for message in transcriber.messages():
            print(message)

`send` waits while the gateway gives no credit (`ack.window`). One task reads the socket whether or not anybody iterates
over `messages()`, so sending a whole file first and reading afterwards cannot lock up.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Literal, Self

import msgspec
from websockets.exceptions import ConnectionClosed

from app.client_link import (
    OPEN_SECONDS,
    ConnectionLostError,
    GatewayError,
    Socket,
    TranscriberError,
    UnreachableError,
    lost,
    not_understood,
    open_socket,
)
from app.core.audio import AudioFormat, ReplayBuffer
from app.core.protocol import (
    Ack,
    Audio,
    AudioMessage,
    ClientInfo,
    ClientMessage,
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

__all__ = [
    "Audio",
    "ConnectionLostError",
    "GatewayError",
    "SessionConfig",
    "Transcriber",
    "TranscriberError",
    "UnreachableError",
]

Message = (
    Interim | Final | GapEvent | SpeechStarted | SpeechEnded | Finalized | Throttle | WarningMessage | GoAway | Stopped
)
"""What `Transcriber.messages` yields."""


class Transcriber:
    """One session. Enter it to connect and to be accepted; leaving it closes the socket.

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
    ) -> None:
        """`frame_ms`: what is longer goes out in several frames; what is shorter goes out as it is."""
        self.started: Started
        """What the gateway made of `config`, and its limits. Set on entering."""
        self.sent = 0
        """The cursor: bytes of the session's audio that went out, or were skipped by `gap()`."""
        self.received = 0
        """Bytes of them that the gateway has."""
        self.settled = 0
        """Bytes of them whose text is final."""
        self._url = url
        self._token = token
        self._base64 = framing == "base64"
        self._start = _start(config)
        self._frame_bytes = max(1, AudioFormat.of(config.audio).offset(frame_ms))
        self._window = 0
        self._unsettled = ReplayBuffer()  # what a resumed session would send again; the credit bounds it
        self._last_event = 0
        self._inbox: deque[Message] = deque()
        self._news = asyncio.Event()
        self._stopping = False
        self._over = False
        self._failure: TranscriberError | None = None
        self._socket: Socket
        self._listener: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        """Raises UnreachableError, GatewayError, ConnectionLostError."""
        self._socket = await open_socket(self._url, self._token)
        try:
            self.started = await self._open()
        except BaseException:
            await self._socket.close()
            raise
        self._window = self.started.limits.window_bytes
        self._frame_bytes = min(self._frame_bytes, self.started.limits.max_frame_bytes)
        self._listener = asyncio.create_task(self._listen(), name="transcriber")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._socket.close()
        finally:
            self._listener.cancel()
            await asyncio.wait([self._listener])

    async def send(self, audio: bytes) -> None:
        """The next audio, in the encoding of the config; any size, samples may be split between calls.

        Waits for credit and for the socket. Cancelling is safe: `sent` then tells how much went out.
        Raises GatewayError or ConnectionLostError once the session has failed.
        """
        if self._stopping:
            raise RuntimeError("audio after stop()")
        while audio:
            await self._until(lambda: self._credit > 0)
            size = min(len(audio), self._frame_bytes, self._credit)
            chunk, audio = audio[:size], audio[size:]
            offset = self._advance(size)
            self._unsettled.append(offset, chunk)
            await self._put(serialize(AudioMessage(content=chunk, offset=offset)) if self._base64 else chunk)

    async def gap(self, size: int, reason: GapReason) -> None:
        """Skip `size` bytes of audio that there will never be: the cursor advances and readers are told."""
        self._advance(size)
        await self._say(Gap(bytes=size, reason=reason))

    async def finalize(self, name: str | None = None) -> None:
        """Ask for everything sent so far to become final now; `finalized` with `id` = `name` says that it is."""
        await self._say(Finalize(id=name))

    async def keepalive(self) -> None:
        """Say that there is no audio for a while, or the gateway closes the session as idle."""
        await self._say(Keepalive())

    async def stop(self) -> None:
        """Say that there is no more audio. `messages()` goes on until the last final and `stopped`."""
        if not self._stopping:
            self._stopping = True
            await self._say(Stop())

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

    def _advance(self, size: int) -> int:
        offset = self.sent
        self.sent += size
        return offset

    async def _until(self, ready: Callable[[], bool], *, fail: bool = True) -> None:
        while not ready() and not self._over:
            self._news.clear()
            await self._news.wait()
        if fail and self._over:
            raise self._failure or ConnectionLostError("the session has ended")

    async def _say(self, message: ClientMessage) -> None:
        await self._put(serialize(message))

    async def _put(self, frame: str | bytes) -> None:
        try:
            await self._socket.send(frame)
        except ConnectionClosed as exc:
            await asyncio.wait([self._listener])  # the reason may still stand in what the socket has received
            raise self._failure or lost(exc) from exc

    async def _open(self) -> Started:
        """Say `start`, hear `started`. A resume will differ from this in its two messages only."""
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._socket.send(serialize(self._start))
                message = parse_server(await self._socket.recv())
        except ConnectionClosed as exc:
            raise lost(exc) from exc
        except TimeoutError as exc:
            raise ConnectionLostError(f"the gateway did not answer `start` in {OPEN_SECONDS:.0f} s") from exc
        except msgspec.DecodeError as exc:
            raise not_understood(exc) from exc
        match message:
            case Started():
                return message
            case Error():
                raise GatewayError(message)
        raise TranscriberError(f"the gateway answered `start` with {serialize(message)}")

    async def _listen(self) -> None:
        """The one reader of the socket. What ends it is kept for those who wait."""
        try:
            while not self._over:
                self._take(parse_server(await self._socket.recv()))
                self._news.set()
        except ConnectionClosed as exc:
            self._failure = lost(exc)
        except msgspec.DecodeError as exc:
            self._failure = not_understood(exc)
        except TranscriberError as exc:
            self._failure = exc
        finally:
            self._over = True
            self._news.set()

    def _take(self, message: object) -> None:
        if isinstance(message, Durable):
            self._last_event = message.event
        match message:
            case Ack():
                self.received = max(self.received, message.received)
                self.settled = max(self.settled, message.final)
                self._window = message.window
                self._unsettled.settle(self.settled)
            case Error():
                raise GatewayError(message)
            case Interim() | Final():
                self._replace_interim(message.channel)
                self._inbox.append(message)
            case Stopped():
                self._inbox.append(message)
                self._over = True
            case GapEvent() | SpeechStarted() | SpeechEnded() | Finalized() | Throttle() | WarningMessage() | GoAway():
                self._inbox.append(message)

    def _replace_interim(self, channel: int) -> None:
        last = self._inbox[-1] if self._inbox else None
        if isinstance(last, Interim) and last.channel == channel:
            self._inbox.pop()


def _start(config: SessionConfig) -> Start:
    fields = {name: getattr(config, name) for name in SessionConfig.__struct_fields__}
    return Start(**fields, client=ClientInfo(name="captions-gateway python"))
