"""A network that fails on demand: a TCP load balancer, without sticky sessions, whose connections can be ended in every
way that a network knows.

As nginx does with `proxy_next_upstream error http_503`, it asks the next gateway where one does not take a connection.
"""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Literal

HEAD_SECONDS = 10.0
"""For a request, and for a gateway's answer to it."""
DELIVER_SECONDS = 2.0
BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Way = Literal["up", "down"]


class Connection:
    """A client's, and the way on to a gateway."""

    def __init__(self, client: Streams, request: bytes) -> None:
        self.gateway: int | None = None
        """The port of the one that has taken it."""
        self.request = request
        self.opening = b""
        """What the client said before the gateway's first word: its first message."""
        self.silent = False
        """It carries nothing any more, and nobody is told."""
        self.cut_within: tuple[Way, float] | None = None
        """Of the next piece that way such a part comes through, and nothing after it."""
        self.cuts_before: bytes | None = None
        """It ends instead of carrying this to the client."""
        self.is_held = False
        """The client's first message is kept here, and its side ends."""
        self.before_answer: Callable[[], Awaitable[None]] | None = None
        """Awaited before the gateway's first word goes on to the client."""
        self._answered = asyncio.Event()
        self._client = client
        self._back: Streams | None = None

    @property
    def answered(self) -> bool:
        """The gateway has said something."""
        return self._answered.is_set()

    @property
    def token(self) -> str | None:
        """That the client has come with: none where it says `start`, or nothing."""
        if len(self.opening) < 2:
            return None
        size, at = self.opening[1] & 127, 2
        if size == 126:
            size, at = int.from_bytes(self.opening[2:4], "big"), 4
        mask, payload = self.opening[at : at + 4], self.opening[at + 4 : at + 4 + size]
        if len(payload) < size:
            return None
        message = json.loads(bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))
        token: str | None = message.get("resume_token")
        return token

    def reset(self) -> None:
        """RST to both sides."""
        for _, writer in self._sides():
            _reset(writer)

    def close(self) -> None:
        """FIN to both sides, after what is on its way."""
        for _, writer in self._sides():
            writer.close()

    def forget_client(self) -> None:
        """Half-open: the client's side is gone, the gateway is not told."""
        self.silent = True
        _reset(self._client[1])

    async def deliver(self) -> None:
        """What is held, unless its client said nothing, or its gateway has gone; waits for the answer, which nobody
        hears."""
        if self._back is not None and self.opening and self.silent and not self._back[1].is_closing():
            self._back[1].write(self.opening)
            with suppress(TimeoutError):
                async with asyncio.timeout(DELIVER_SECONDS):
                    await self._answered.wait()

    def stop_reading(self) -> None:
        """What the client writes goes nowhere, until nothing more fits in between."""
        transport: Any = self._client[1].transport
        transport.pause_reading()

    async def carry(self, back: Streams, answer: bytes) -> None:
        """Both ways, until both sides are gone. `answer`: the gateway's, to the request."""
        self._back = back
        self._client[1].write(answer)
        await asyncio.gather(self._pump("up", self._client[0], back[1]), self._pump("down", back[0], self._client[1]))

    def _sides(self) -> list[Streams]:
        return [self._client, self._back] if self._back else [self._client]

    async def _pump(self, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                if not self.answered:
                    await self._look(way, data)
                if self.silent:
                    continue
                if way == "down" and self.cuts_before and self.cuts_before in data:
                    self.reset()
                    return
                if self.cut_within and self.cut_within[0] == way:
                    sink.write(data[: int(len(data) * self.cut_within[1])])
                    self.close()
                    return
                sink.write(data)
                await sink.drain()
        with suppress(OSError, RuntimeError):
            if not self.silent:
                sink.write_eof()

    async def _look(self, way: Way, data: bytes) -> None:
        if way == "up":
            self.opening += data
            if self.is_held:
                self.forget_client()
            return
        self._answered.set()
        if self.before_answer:
            await self.before_answer()


class Flaky:
    """Between clients and gateways. `port` is where clients connect."""

    def __init__(self, *gateways: int) -> None:
        self.port = 0
        self.connections = 0
        """So many there were."""
        self.refuses = False
        """Connections are reset as soon as they come."""
        self.dark = False
        """Nothing passes on new connections, either."""
        self.holds_back = False
        """The next client's first message, whose connection ends: it comes when the one after it has been taken, just
        before that is answered."""
        self.taken: list[Connection] = []
        """Those that a gateway has taken, oldest first."""
        self.cuts_before: bytes | None = None
        """Connections to come end instead of carrying this to the client."""
        self._held: Connection | None = None
        self._gateways = list(gateways)
        self._open: set[Connection] = set()

    def leads_to(self, gateway: int) -> None:
        """Connections to come are for this one alone."""
        self._gateways = [gateway]

    async def until_it_carries(self) -> None:
        """Waits until a client and a gateway are speaking to each other."""
        while not any(connection.answered and not connection.silent for connection in self._open):
            await asyncio.sleep(0.05)

    def cut(self) -> None:
        """Resets every connection."""
        for connection in list(self._open):
            connection.reset()

    def close(self) -> None:
        """Every connection ends in good order, for TCP."""
        for connection in list(self._open):
            connection.close()

    def forget_clients(self) -> None:
        """Clients are gone, and the gateways are not told."""
        for connection in list(self._open):
            connection.forget_client()

    def go_silent(self) -> None:
        """The connections that are there carry nothing any more, and nobody is told."""
        for connection in self._open:
            connection.silent = True

    def stop_reading(self) -> None:
        """Nothing is taken from clients any more, and nobody is told."""
        for connection in self._open:
            connection.stop_reading()

    def cut_within(self, way: Way, part: float) -> None:
        """Such a part of the next piece comes through, and nothing after it."""
        for connection in self._open:
            connection.cut_within = (way, part)

    def cut_silent(self) -> None:
        """Resets those that carry nothing."""
        for connection in [connection for connection in self._open if connection.silent]:
            connection.reset()

    async def repeat(self, connection: Connection) -> str:
        """Says once more, to any gateway, what a client said first on a connection. Returns what is answered: the kind
        of the message, an error's code, or the status of a refused upgrade."""
        taken = await self._reach(connection.request)
        if taken is None:
            return "502"
        (reader, writer), answer, _ = taken
        try:
            if b" 101 " not in answer[:16]:
                return answer[9:12].decode()
            writer.write(connection.opening)
            async with asyncio.timeout(HEAD_SECONDS):
                message = json.loads(await _frame(reader))
            return str(message.get("code", message["type"]))
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return "nothing"
        finally:
            _reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuses:
            _reset(writer)
            return
        try:
            with suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                async with asyncio.timeout(HEAD_SECONDS):
                    request = await reader.readuntil(b"\r\n\r\n")
                await self._serve(Connection((reader, writer), request), writer)
        finally:
            _reset(writer)

    async def _serve(self, connection: Connection, writer: asyncio.StreamWriter) -> None:
        self._open.add(connection)
        try:
            await self._connect(connection, writer)
        finally:
            self._open.discard(connection)
            connection.reset()

    async def _connect(self, connection: Connection, writer: asyncio.StreamWriter) -> None:
        connection.silent, connection.cuts_before = self.dark, self.cuts_before
        taken = await self._reach(connection.request)
        if taken is None:
            writer.write(BAD_GATEWAY)
            writer.close()
            await writer.wait_closed()
            return
        back, answer, connection.gateway = taken
        self.taken.append(connection)
        if self._held is not None:
            connection.before_answer, self._held = self._held.deliver, None
        if self.holds_back:
            self.holds_back, connection.is_held, self._held = False, True, connection
        await connection.carry(back, b"" if connection.silent else answer)

    async def _reach(self, request: bytes) -> tuple[Streams, bytes, int] | None:
        """The first gateway whose answer is not 503, else the last one that has answered; whose turn it is begins."""
        found = None
        for port in list(self._gateways):
            self._gateways.append(self._gateways.pop(0))
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                back, answer = await _ask(port, request)
                if found:
                    _reset(found[0][1])
                found = back, answer, port
                if b" 503 " not in answer[:16]:
                    return found
        return found


async def _ask(port: int, request: bytes) -> tuple[Streams, bytes]:
    """A connection to a gateway, and its answer."""
    back = await asyncio.open_connection("127.0.0.1", port)
    try:
        back[1].write(request)
        async with asyncio.timeout(HEAD_SECONDS):
            return back, await back[0].readuntil(b"\r\n\r\n")
    except BaseException:
        _reset(back[1])
        raise


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """The payload of a server's frame."""
    size = (await reader.readexactly(2))[1]
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(size)


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST, whatever is on its way."""
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@asynccontextmanager
async def flaky(*gateways: int) -> AsyncIterator[Flaky]:
    """In front of gateways on these ports of this machine."""
    network = Flaky(*gateways)
    server = await asyncio.start_server(network.serve, "127.0.0.1", 0)
    network.port = server.sockets[0].getsockname()[1]
    try:
        yield network
    finally:
        network.cut()
        server.close()
        await server.wait_closed()
