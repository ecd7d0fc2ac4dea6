"""One session with a gateway, as an app sees it.

`send` puts audio into the outbox and waits while the gateway gives no credit (`ack.window`). The keeper (keeper.py)
sends what is in the outbox and hears what the gateway says, whether or not anybody iterates over `messages()`.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Literal, Self

from app.client.keeper import Keeper
from app.client.link import ConnectionLostError
from app.client.outbox import Outbox
from app.core.audio import AudioFormat
from app.core.protocol import (
    Ack,
    ClientInfo,
    Final,
    Finalize,
    Finalized,
    GapEvent,
    GapReason,
    GoAway,
    Interim,
    Keepalive,
    ServerMessage,
    SessionConfig,
    SpeechEnded,
    SpeechStarted,
    Start,
    Started,
    Stopped,
    Throttle,
    WarningMessage,
)

Message = (
    Interim | Final | GapEvent | SpeechStarted | SpeechEnded | Finalized | Throttle | WarningMessage | GoAway | Stopped
)
"""What `Transcriber.messages` yields."""


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
        self.settled = 0
        """Bytes of what the gateway has whose text is final."""
        self._overflow = overflow
        self._frame_bytes = max(1, AudioFormat.of(config.audio).offset(frame_ms))
        self._window = 0
        self._outbox = Outbox()
        self._inbox: deque[Message] = deque()
        self._stopping = False
        self._keeper = Keeper(url, token, _start(config), self._outbox, self._take, base64=framing == "base64")

    @property
    def sent(self) -> int:
        """The cursor: bytes of the session's audio that were given to `send`, or skipped by `gap`."""
        return self._outbox.cursor

    @property
    def received(self) -> int:
        """Bytes that the gateway has."""
        return self._keeper.received

    @property
    def resumes(self) -> int:
        """How often the session went on over a new connection."""
        return self._keeper.resumes

    async def __aenter__(self) -> Self:
        """Raises UnreachableError, GatewayError, ConnectionLostError."""
        self.started = await self._keeper.open()
        self._window = self.started.limits.window_bytes
        self._frame_bytes = min(self._frame_bytes, self.started.limits.max_frame_bytes)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._keeper.close()

    async def send(self, audio: bytes) -> None:
        """The next audio, in the encoding of the config; any size, samples may be split between calls.

        Waits for credit, and for the socket while there is one. Cancelling is safe: `sent` then tells how much counts.
        Raises GatewayError or ConnectionLostError once the session has failed.
        """
        if self._stopping:
            raise RuntimeError("audio after stop()")
        while audio:
            if self._overflow == "gap" and self._credit <= 0 and not self._keeper.over:
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
        await self._keeper.say(Keepalive())

    async def stop(self) -> None:
        """Say that there is no more audio. `messages()` goes on until the last final and `stopped`."""
        if not self._stopping:
            self._stopping = True
            self._outbox.stop()
            await self._flush()

    def network_changed(self) -> None:
        """The phone has another network: a new connection is opened before the old one is given up."""
        self._keeper.network_changed()

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
        if self._keeper.failure:
            raise self._keeper.failure

    @property
    def _credit(self) -> int:
        return self.settled + self._window - self.sent

    async def _flush(self) -> None:
        """Waits for the socket; where there is none, what is in the outbox waits for the next one."""
        self._keeper.kick()
        await self._until(lambda: self._outbox.is_empty or not self._keeper.connected)

    async def _until(self, ready: Callable[[], bool], *, fail: bool = True) -> None:
        while not ready() and not self._keeper.over:
            self._keeper.news.clear()
            await self._keeper.news.wait()
        if fail and self._keeper.over:
            raise self._keeper.failure or ConnectionLostError("the session has ended")

    def _take(self, message: ServerMessage) -> None:
        match message:
            case Ack():
                self.settled = max(self.settled, message.final)
                self._window = message.window
                self._outbox.settle(self.settled)
            case Interim() | Final():
                self._replace_interim(message.channel)
                self._inbox.append(message)
            case Finalized() if not self._outbox.finalized(message):
                pass
            case (
                GapEvent()
                | SpeechStarted()
                | SpeechEnded()
                | Finalized()
                | Throttle()
                | WarningMessage()
                | GoAway()
                | Stopped()
            ):
                self._inbox.append(message)

    def _replace_interim(self, channel: int) -> None:
        last = self._inbox[-1] if self._inbox else None
        if isinstance(last, Interim) and last.channel == channel:
            self._inbox.pop()


def _start(config: SessionConfig) -> Start:
    fields = {name: getattr(config, name) for name in SessionConfig.__struct_fields__}
    return Start(**fields, client=ClientInfo(name="captions-gateway python"))
