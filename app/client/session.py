"""One transcription, as an app sees it.

`send` puts audio into the outbox and waits while the gateway gives no credit (`ack.window`). The keeper (keeper.py)
sends what is in the outbox and hears what the gateway says, whether or not anybody iterates over `messages()`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Literal, Self

from app.client.connect import Token, open_socket
from app.client.errors import ConnectionLostError
from app.client.keeper import Keeper
from app.client.messages import Message, Reconnected, Reconnecting
from app.client.outbox import Outbox
from app.client.timeline import Timeline
from app.core.audio import AudioFormat
from app.core.protocol import ClientInfo, Final, Finalize, GapReason, Interim, Keepalive, SessionConfig, Start, Started


class Transcriber:
    """One transcription. Enter it to connect and to be accepted; leaving it closes the socket.

    A connection that breaks is opened again, for as long as the Transcriber is entered or `give_up_seconds` long; one
    that is about to end (`go_away`, `network_changed`) is followed by the next without a pause. Audio that is not final
    is kept, and sent again. Where the gateway has lost the session, or ended it for its age, a new one hears what is
    not final: times, `event` numbers and the sums in `stopped` go on, but for what a lost session has cost upstream,
    which nobody knows.

    After `stop()`, `messages()` ends with `stopped`. Leaving before that gives up the text that is still to come.
    """

    def __init__(
        self,
        url: str,
        config: SessionConfig,
        *,
        token: Token = None,
        framing: Literal["binary", "base64"] = "binary",
        frame_ms: int = 100,
        overflow: Literal["wait", "gap"] = "wait",
        give_up_seconds: float | None = None,
    ) -> None:
        """`token`: an API key, a signed or a one-time token; or an async function that gets one, called for each
        connection. `frame_ms`: what is longer goes out in several frames; what is shorter goes out as it is.
        `overflow`: without credit `send` waits, or, for a microphone, skips the audio: a `gap` that readers are told
        of; then it waits for nothing. `give_up_seconds`: without a connection for so long, or one that gets anywhere,
        the session has failed."""
        form = AudioFormat.of(config.audio)
        self._overflow = overflow
        self._frame_bytes = max(1, form.offset(frame_ms))
        self._outbox = Outbox()
        self._timeline = Timeline(form, self._outbox)
        self._inbox: deque[Message] = deque()
        self._stopping = False
        self._keeper = Keeper(
            lambda first: open_socket(url, token, first),
            _start(config),
            self._outbox,
            self._timeline,
            self._put,
            base64=framing == "base64",
            give_up_seconds=give_up_seconds,
        )

    @property
    def started(self) -> Started:
        """What the gateway made of `config`, and its limits; of its newest session. There once it is entered."""
        return self._timeline.started

    @property
    def sent(self) -> int:
        """The cursor: bytes of the session's audio that were given to `send`, or skipped by `gap`."""
        return self._outbox.cursor

    @property
    def received(self) -> int:
        """Bytes that the gateway has; fewer again where it has lost them."""
        return self._timeline.received

    @property
    def settled(self) -> int:
        """Bytes whose text is final."""
        return self._timeline.settled

    @property
    def room(self) -> int:
        """Bytes that `send` takes now without waiting, or skipping. 0 and less: none."""
        return self._timeline.settled + self._timeline.window - self.sent

    @property
    def connected(self) -> bool:
        return self._keeper.connected

    @property
    def resumes(self) -> int:
        """How often a session went on over a new connection."""
        return self._timeline.resumes

    @property
    def sessions(self) -> int:
        """The gateway's, that it took: more than one where it had lost one, or ended it for its age."""
        return self._timeline.sessions

    async def __aenter__(self) -> Self:
        """Raises UnreachableError, GatewayError, ConnectionLostError."""
        await self._keeper.open()
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
            if self._overflow == "gap" and self.room <= 0 and not self._keeper.over:
                await self.gap(len(audio), "overflow")
                return
            await self._until(lambda: self.room > 0)
            size = min(len(audio), self._frame_bytes, self.room)
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
        """Say that there is no audio for a while, or the gateway closes the session as idle. Said every 15 s by itself,
        while nothing else is."""
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

    async def _flush(self) -> None:
        """Waits for the socket; where there is none, what is in the outbox waits for the next one. For who speaks on,
        the outbox has room up to the window."""
        self._keeper.kick()
        await asyncio.sleep(0)
        waits = self._overflow == "wait"
        await self._until(lambda: self._outbox.is_empty or not (waits and self._keeper.connected))

    async def _until(self, ready: Callable[[], bool], *, fail: bool = True) -> None:
        while not ready() and not self._keeper.over:
            self._keeper.news.clear()
            await self._keeper.news.wait()
        if fail and self._keeper.over:
            raise self._keeper.failure or ConnectionLostError("the session has ended")

    def _put(self, message: Message) -> None:
        """A newer interim, or state of the connection, replaces one that was not read yet."""
        match self._inbox[-1] if self._inbox else None, message:
            case (Interim(channel=old), Interim(channel=new) | Final(channel=new)) if old == new:
                self._inbox.pop()
            case Reconnecting(), Reconnecting() | Reconnected():
                self._inbox.pop()
        self._inbox.append(message)


def _start(config: SessionConfig) -> Start:
    fields = {name: getattr(config, name) for name in SessionConfig.__struct_fields__}
    return Start(**fields, client=ClientInfo(name="captions-gateway python"))
