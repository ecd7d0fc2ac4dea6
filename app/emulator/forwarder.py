"""A forwarder in front of the gRPC port, for what befalls whole connections: reset, blackhole, GOAWAY, nobody there.

It is there only when such faults are wanted. gRPC offers none of them, so this speaks the one thing of HTTP/2 that it
needs: where a frame ends, to put a GOAWAY between two of the server's.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterable

READ = 1 << 16  # bytes
LINGER_NOT = struct.pack("ii", 1, 0)  # to close is to reset
HEADERS, GOAWAY, CONTINUATION = 1, 7, 9  # types of frames
END_HEADERS = 4  # a flag
FRAME_HEADER = 9  # bytes
EVERY_STREAM = 0x7FFFFFFF  # "the last stream that is served", where all are


def goaway_frame(text: bytes = b"session_timed_out") -> bytes:
    """NO_ERROR: what is under way may finish, the next call needs another connection. The text is Google's."""
    payload = struct.pack(">II", EVERY_STREAM, 0) + text
    return len(payload).to_bytes(3, "big") + bytes([GOAWAY, 0]) + bytes(4) + payload


class FrameEnds:
    """Follows the frames of one direction: where another may be put in."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0  # bytes of the frame's payload
        self._open = True  # the next frame must be the one that is due: the settings, the rest of a header block

    @property
    def clean(self) -> bool:
        """Whether everything that went by ended here."""
        return not (self._header or self._left or self._open)

    def feed(self, data: bytes) -> int | None:
        """The first clean end in `data` (an index), if there is one."""
        first = None
        at = 0
        while at < len(data):
            step = self._step(data, at)
            at += step
            if first is None and self.clean:
                first = at
        return first

    def _step(self, data: bytes, at: int) -> int:
        if self._left:
            step = min(self._left, len(data) - at)
            self._left -= step
            return step
        piece = data[at : at + FRAME_HEADER - len(self._header)]
        self._header += piece
        if len(self._header) == FRAME_HEADER:
            self._begin(bytes(self._header))
            self._header.clear()
        return len(piece)

    def _begin(self, header: bytes) -> None:
        self._left = int.from_bytes(header[:3], "big")
        self._open = header[3] in (HEADERS, CONTINUATION) and not header[4] & END_HEADERS


class Link:
    """A client's connection and ours behind it."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._ends = FrameEnds()
        self._goaway = False  # one is due
        self._lost = False  # nothing arrives any more, for ever
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Until either side ends."""
        directions = [
            asyncio.create_task(self._carry(self._from_client, self._to_server, bytes)),
            asyncio.create_task(self._carry(self._from_server, self._to_client, self._with_goaway)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.wait(directions)
            self.lift()
            self._to_client.close()
            self._to_server.close()

    def reset(self) -> None:
        """The client sees `connection reset by peer`; so do we, behind it."""
        for writer in (self._to_client, self._to_server):
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            writer.transport.abort()

    def blackhole(self, seconds: float | None) -> None:
        """Nothing arrives any more, either way, and neither side is told. What waits so long goes on afterwards."""
        if seconds is None:
            self._lost = True
            return
        self.lift()
        self._flowing.clear()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._flowing.set)

    def lift(self) -> None:
        """End a blackhole that would end by itself."""
        if self._timer:
            self._timer.cancel()
        self._flowing.set()

    def goaway(self) -> None:
        if self._ends.clean and self._flowing.is_set() and not self._lost:
            self._to_client.write(goaway_frame())
        else:
            self._goaway = True

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shaped: Callable[[bytes], bytes]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ):
                await self._flowing.wait()
                if not self._lost:
                    writer.write(shaped(data))
                    await writer.drain()

    def _with_goaway(self, data: bytes) -> bytes:
        end = self._ends.feed(data)
        if not self._goaway or end is None:
            return data
        self._goaway = False
        return data[:end] + goaway_frame() + data[end:]


class Forwarder:
    """`await start()` gives the port that clients use. A link is known by the address at which the server sees it."""

    def __init__(self, host: str, port: int, backend: int) -> None:
        self._host = host
        self._port = port
        self._backend = backend
        self._server: asyncio.Server | None = None
        self._links: dict[int, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Raises OSError: the address is not free."""
        await self._listen()
        return self._port

    async def stop(self) -> None:
        self._close()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def link(self, peer: str) -> Link | None:
        """Of a call's `context.peer()`."""
        return self._links.get(_port(peer))

    def links(self, but: str | None = None) -> list[Link]:
        """All, or all but one peer's."""
        spared = _port(but) if but else None
        return [link for port, link in self._links.items() if port != spared]

    def down(self, seconds: float, links: Iterable[Link]) -> None:
        """These are reset, and nobody is there for so long."""
        for link in links:
            link.reset()
        if self._server:
            self._close()
            self._own(asyncio.create_task(self._come_back(seconds)))

    def lift(self) -> None:
        for link in self._links.values():
            link.lift()

    async def _come_back(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def _close(self) -> None:
        if self._server:
            self._server.close()
        self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Not a coroutine: asyncio would log the cancelling of its task as an error."""
        self._own(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind = await asyncio.open_connection("127.0.0.1", self._backend)
        except OSError:
            writer.close()
            return
        port = behind[1].get_extra_info("sockname")[1]
        self._links[port] = link = Link((reader, writer), behind)
        try:
            await link.run()
        finally:
            del self._links[port]

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _port(peer: str) -> int:
    """`ipv4:127.0.0.1:40000`"""
    return int(peer.rpartition(":")[2])
