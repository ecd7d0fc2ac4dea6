"""One socket at work: a reader, a writer, and a watch that notices when the other side is silent."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
from websockets.exceptions import ConnectionClosed

from app.client.connect import Socket, as_failure
from app.client.errors import ConnectionLostError
from app.client.outbox import Item, Outbox
from app.core.protocol import AudioMessage, Keepalive, ServerMessage, parse_server, serialize

SILENT_SECONDS = 10.0
"""Something was sent, and not a byte has come back: nobody is there. Acks come every second, pongs within five."""
THROTTLED_SECONDS = 30.0
"""The same while the gateway takes no more: a ping waits behind the audio. It pings itself, every 10 to 20 s."""
KEEPALIVE_SECONDS = 15.0
"""Nothing was sent for so long (muted, paused): the gateway is told that this is no end. Its idle timeout is 60 s."""
LOOK_AGAIN_SECONDS = 0.05
"""After a stall of ours a timer comes before what the gateway said in time: it is read within this."""


class Link:
    def __init__(
        self,
        socket: Socket,
        outbox: Outbox,
        hear: Callable[[ServerMessage], None],
        *,
        news: asyncio.Event,
        throttled: Callable[[], bool],
        base64: bool,
        base: int,
        frame_bytes: int,
    ) -> None:
        """`news` is set after all that was heard or sent. `base`: where the gateway's session begins; `frame_bytes`: it
        takes no longer frame."""
        self.socket = socket
        self.kick = asyncio.Event()
        """Something is in the outbox."""
        self._outbox = outbox
        self._hear = hear
        self._news = news
        self._throttled = throttled
        self._base64 = base64
        self._base = base
        self._frame_bytes = frame_bytes
        self._clock = asyncio.get_running_loop().time
        self._began = self._spoke_at = self._clock()

    @property
    def age(self) -> float:
        """In seconds."""
        return self._clock() - self._began

    async def run(self) -> None:
        """Never returns. Raises TranscriberError: why the connection has ended, or must. Then it takes nothing more
        from the outbox, and hears nothing."""
        tasks = [asyncio.create_task(work) for work in (self._listen(), self._watch(), self._speak(), self._stay())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        raise next(end for end in ends if isinstance(end, Exception))

    async def say(self, message: Keepalive) -> None:
        """Now, or never."""
        self._spoke_at = self._clock()
        with suppress(ConnectionClosed):
            await self.socket.send(serialize(message))

    async def _listen(self) -> None:
        """The one reader."""
        try:
            while True:
                self._hear(parse_server(await self.socket.recv()))
                self._news.set()
        except (ConnectionClosed, msgspec.DecodeError) as exc:
            raise as_failure(exc) from exc

    async def _speak(self) -> None:
        """The one writer; the reader knows why it ends."""
        with suppress(ConnectionClosed):
            while True:
                while (item := self._outbox.next(self._frame_bytes)) is not None:
                    self._spoke_at = self._clock()
                    await self.socket.send(self._frame(*item))
                    self._news.set()
                self._news.set()
                self.kick.clear()
                await self.kick.wait()

    def _frame(self, offset: int, item: Item) -> str | bytes:
        if not isinstance(item, bytes):
            return serialize(item)
        return serialize(AudioMessage(content=item, offset=offset - self._base)) if self._base64 else item

    async def _stay(self) -> None:
        """While the app says nothing the session goes on."""
        while True:
            if (left := self._spoke_at + KEEPALIVE_SECONDS - self._clock()) > 0:
                await asyncio.sleep(left)
            else:
                await self.say(Keepalive())

    async def _watch(self) -> None:
        """Raises ConnectionLostError once nobody is there."""
        again = False
        while True:
            since = self.socket.waits_since
            patience = THROTTLED_SECONDS if self._throttled() else SILENT_SECONDS
            left = patience if since is None else since + patience - self._clock()
            if left <= 0 and again:
                raise ConnectionLostError(f"nothing came from the gateway for {patience:g} s")
            again = left <= 0
            await asyncio.sleep(LOOK_AGAIN_SECONDS if again else left)
