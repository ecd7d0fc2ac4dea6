"""`grpc.aio.Channel` over HTTP/2 in pure asyncio: one connection at a time to one address, anew when it is lost."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from app.http2.call import CallFailed, StreamCall
from app.http2.connection import Connection, StreamOver
from app.http2.headers import Metadata, Status, request_headers, unavailable

State = grpc.ChannelConnectivity

CONNECT_SECONDS = 20.0
"""For TCP, TLS and the server's first word, as gRPC's own."""

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]
Credentials = Callable[[], Awaitable[Metadata]]
"""What each call says of who it is."""


@dataclass(frozen=True, slots=True)
class Options:
    """Seconds."""

    keepalive: float = 30.0
    """So long a connection with streams may be silent."""
    keepalive_timeout: float = 10.0
    reconnect: float = 0.2
    """The wait after the first failure; each later one is longer by 1.6, as gRPC's."""
    max_reconnect: float = 2.0


class Channel(grpc.aio.Channel):
    """Connects when it is asked to. While it cannot, calls fail at once with UNAVAILABLE."""

    def __init__(
        self,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
        options: Options = Options(),
    ) -> None:
        """`address`: HOST:PORT. `tls`: with the ALPN protocol h2."""
        self._address = address
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._tls = tls
        self._credentials = credentials
        self._options = options
        self._state = State.IDLE
        self._changed = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        """That takes new streams."""
        self._open: set[Connection] = set()
        """And those that do not any more."""
        self._why = ""
        self._free = asyncio.Event()
        """A stream has ended."""
        self._unary_unary_interceptors: list[Any] = []
        """Google's generated transports add one that logs; it is not called."""

    # Calls --------------------------------------------------------------------------------------

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> "StreamStream":
        return StreamStream(self.open_stream, method, request_serializer, response_deserializer)

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> "UnaryUnary":
        return UnaryUnary(self.stream_stream(method, request_serializer, response_deserializer))

    def unary_stream(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def stream_unary(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def open_stream(self, call: StreamCall, method: str, metadata: Metadata) -> tuple[Connection, int]:
        """Raises CallFailed."""
        call.add_done_callback(lambda _: self._free.set())
        own = await self._own_metadata()
        while True:
            connection = await self._connected()
            headers = request_headers(
                scheme="https" if self._tls else "http",
                authority=self._address,
                path=method,
                timeout=call.time_remaining(),
                metadata=[*metadata, *own],
            )
            try:
                return connection, connection.open(headers, call)
            except StreamOver:
                continue  # it was left in this very moment

    async def _own_metadata(self) -> Metadata:
        if self._credentials is None:
            return ()
        try:
            return await self._credentials()
        except Exception as error:  # whatever a library of credentials raises
            status = Status(grpc.StatusCode.UNAVAILABLE, f"Getting metadata from plugin failed with error: {error}")
            raise CallFailed(status) from error

    async def _connected(self) -> Connection:
        """A connection with room for one stream more. Raises CallFailed."""
        while True:
            connection = self._connection
            if connection is not None and not connection.is_full:
                return connection
            if connection is not None:
                self._free.clear()
                await self._free.wait()
                continue
            self._connect()
            if self._state is State.TRANSIENT_FAILURE:
                raise CallFailed(unavailable(self._why))
            if self._state is State.SHUTDOWN:
                raise CallFailed(Status(grpc.StatusCode.CANCELLED, "the channel is closed"))
            await self.wait_for_state_change(self._state)

    # Its connection -----------------------------------------------------------------------------

    def get_state(self, try_to_connect: bool = False) -> State:
        state = self._state
        if try_to_connect:
            self._connect()
        return state

    async def wait_for_state_change(self, last_observed_state: State) -> None:
        while self._state is last_observed_state:
            self._changed.clear()
            await self._changed.wait()

    async def channel_ready(self) -> None:
        while (state := self.get_state(try_to_connect=True)) is not State.READY:
            await self.wait_for_state_change(state)

    def _set(self, state: State) -> None:
        if self._state is not State.SHUTDOWN:
            self._state = state
            self._changed.set()
            self._free.set()

    def _connect(self) -> None:
        if self._state is State.IDLE:
            self._set(State.CONNECTING)
            self._connecting = asyncio.create_task(self._try())

    async def _try(self) -> None:
        """Until there is a connection."""
        wait = self._options.reconnect
        while True:
            self._set(State.CONNECTING)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._try_once()
            except (OSError, TimeoutError) as error:
                self._why = f"failed to connect to {self._address}: {error or 'timeout'}"
                self._set(State.TRANSIENT_FAILURE)
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
                wait = min(1.6 * wait, self._options.max_reconnect)
            else:
                return

    async def _try_once(self) -> None:
        connection = Connection(
            keepalive=self._options.keepalive,
            patience=self._options.keepalive_timeout,
            leaves=self._left,
            lost=self._open.discard,
        )
        self._open.add(connection)
        name = self._host if self._tls else None
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection, self._host, self._port, ssl=self._tls, server_hostname=name
            )
            await connection.ready
        except BaseException:
            self._open.discard(connection)
            connection.drop()
            raise
        self._connection = connection
        self._set(State.READY)

    def _left(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None
            self._set(State.IDLE)

    async def close(self, grace: float | None = None) -> None:  # noqa: ARG002 - grpc.aio's
        """At once. Calls end with UNAVAILABLE."""
        self._set(State.SHUTDOWN)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        for connection in list(self._open):
            connection.close()

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class StreamStream(grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """Makes calls of one method."""

    def __init__(
        self,
        open_stream: Callable[[StreamCall, str, Metadata], Awaitable[tuple[Connection, int]]],
        method: str,
        serialize: Serializer | None,
        deserialize: Deserializer | None,
    ) -> None:
        self._open_stream = open_stream
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize

    def __call__(  # type: ignore[override]
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        **_: Any,
    ) -> StreamCall:
        """Of the other arguments of grpc.aio's none is for us: `wait_for_ready`, credentials and compression."""
        return StreamCall(
            lambda call: self._open_stream(call, self._method, metadata or ()),
            request_iterator,
            serialize=self._serialize,
            deserialize=self._deserialize,
            timeout=timeout,
        )


class UnaryUnary(grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """One request, one response. To be awaited; there is no call object."""

    def __init__(self, method: StreamStream) -> None:
        self._method = method

    async def __call__(  # type: ignore[override]
        self,
        request: Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - grpc.aio's
        metadata: Any = None,
        **_: Any,
    ) -> Any:
        async def once() -> AsyncIterator[Any]:
            yield request

        call = self._method(once(), timeout=timeout, metadata=metadata)
        response = await call.read()
        await call.read()
        return response
