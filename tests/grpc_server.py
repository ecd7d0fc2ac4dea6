"""A real gRPC server (grpc.aio's) with one method, `/test/Call`, that takes and gives bytes; and an HTTP/2 server by
hand, for what no gRPC server does of itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event

METHOD = "/test/Call"
Behaviour = Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]


async def echo(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


@asynccontextmanager
async def grpc_server(
    behaviour: Behaviour = echo,
    *,
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    """The server, and its address."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0), *options))
    handler: Any = grpc.stream_stream_rpc_method_handler(behaviour)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Call": handler}),))
    where = f"127.0.0.1:{port}"
    at = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    await server.start()
    try:
        yield server, f"127.0.0.1:{at}"
    finally:
        await server.stop(None)


class Http2Peer:
    """One connection of the server by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))

    async def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())
        await self._writer.drain()

    async def events(self) -> AsyncIterator[Event]:
        """Until the client goes."""
        self.h2.initiate_connection()
        await self.flush()
        while data := await self._reader.read(65_536):
            for event in self.h2.receive_data(data):
                yield event
            await self.flush()

    async def say(self, data: bytes) -> None:
        """Whatever it means."""
        self._writer.write(data)
        await self._writer.drain()

    async def still(self) -> None:
        """It hears, and says nothing more."""
        while await self._reader.read(65_536):
            pass


@asynccontextmanager
async def http2_server(talk: Callable[[Http2Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """Its address. `talk` is called for each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(Http2Peer(reader, writer))
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
