"""A network that fails on demand: a TCP proxy whose connections can be cut, or go silent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any


class Flaky:
    """Between a client and a gateway. `port` is where the client connects."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.connections = 0
        """So many there were."""
        self.refuses = False
        self.cuts_before: bytes | None = None
        """A connection that would carry this to the client ends instead."""
        self.dark = False
        """Connections that come carry nothing, and nobody is told."""
        self.target = target
        """The gateway's port, for connections to come."""
        self._open: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._silent: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Resets every connection."""
        for pair in list(self._open.items()):
            for writer in pair:
                writer.transport.abort()

    def go_silent(self) -> None:
        """The connections that are there carry nothing any more, and nobody is told."""
        self._silent |= self._open.keys()

    def stop_reading(self) -> None:
        """The connections that are there take nothing from their clients any more."""
        for writer in self._open:
            transport: Any = writer.transport
            transport.pause_reading()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuses:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._open[writer] = back
        if self.dark:
            self._silent.add(writer)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, back, writer))
                pumps.create_task(self._pump(there, writer, writer))
        finally:
            del self._open[writer]
            self._silent.discard(writer)
            for end in (writer, back):
                end.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, connection: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                if sink is connection and self.cuts_before and self.cuts_before in data:
                    sink.transport.abort()
                    return
                if connection not in self._silent:
                    sink.write(data)
                    await sink.drain()
        with suppress(OSError, RuntimeError):
            sink.write_eof()


@asynccontextmanager
async def flaky(target: int) -> AsyncIterator[Flaky]:
    proxy = Flaky(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        proxy.cut()
        server.close()
        await server.wait_closed()
