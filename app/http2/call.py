"""One streaming call, as grpc.aio's own."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from app.http2.connection import Connection, StreamOver
from app.http2.headers import Headers, Status, metadata_of, refusal, status_of

log = logging.getLogger(__name__)

PREFIX_BYTES = 5
"""Of a message: whether it is compressed, and its length."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_UNREAD_BYTES = 256 * 1024
"""Of a message that is not whole yet: then the peer may send more of it."""
GIVE_BACK_BYTES = 8 * 1024
"""Of messages that were read: a small part of a connection's window, however many streams it has."""
OK = grpc.StatusCode.OK
_CANCELLED = Status(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")

Open = Callable[["StreamCall"], Awaitable[tuple[Connection, int]]]
"""Opens the stream of a call: its connection and its number there. Raises CallFailed."""


class CallFailed(Exception):
    """Before its stream was open."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.details)
        self.status = status


class StreamCall(grpc.aio.StreamStreamCall[Any, Any]):
    """It has a task that sends what `requests` gives, or nothing where there is none and `write` is used. Whoever reads
    gets what came before the end, then the end: nothing more where that was good, else AioRpcError; CancelledError
    where it was cancelled on this side. A reader that is cancelled cancels the call, as grpc.aio's."""

    def __init__(
        self,
        open_stream: Open,
        requests: AsyncIterable[Any] | None,
        *,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
        timeout: float | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._serialize = serialize
        self._deserialize = deserialize
        self._connection: Connection | None = None
        self._stream_id = 0
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._begun: asyncio.Future[grpc.aio.Metadata] = self._loop.create_future()
        """The first headers have come."""
        self._ended: asyncio.Future[Status] = self._loop.create_future()
        self._buffer = bytearray()
        """The beginning of a message."""
        self._messages: deque[bytes] = deque()
        self._unread = 0
        """Of the window, what is to be given back."""
        self._trailers: Status | None = None
        self._news = asyncio.Event()
        self._callbacks: list[Callable[[Any], None]] = []
        self._half_closed = False
        self._due = None if timeout is None else self._loop.time() + timeout
        self._deadline = None if timeout is None else self._loop.call_later(timeout, self._expire)
        self._sending = self._loop.create_task(self._send(open_stream, requests))

    # What the connection says -------------------------------------------------------------------

    def headers(self, headers: Headers) -> None:
        if error := refusal(headers):
            self._break(error)
            return
        if status := status_of(headers):  # the call has no more than this
            self._trailers = status
        if not self._begun.done():
            self._begun.set_result(metadata_of(headers))

    def data(self, data: bytes, counts: int) -> None:
        self._unread += counts
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= PREFIX_BYTES:
            size = int.from_bytes(buffer[at + 1 : at + PREFIX_BYTES])
            if buffer[at] or size > MAX_MESSAGE_BYTES:
                wrong = "it is compressed" if buffer[at] else f"it has {size} bytes, and may have {MAX_MESSAGE_BYTES}"
                self._break(Status(grpc.StatusCode.INTERNAL, f"a message cannot be read: {wrong}"))
                return
            end = at + PREFIX_BYTES + size
            if len(buffer) < end:
                break
            self._messages.append(bytes(buffer[at + PREFIX_BYTES : end]))
            at = end
        del buffer[:at]
        if self._messages:
            self._news.set()
        elif self._unread >= MAX_UNREAD_BYTES:
            self._give_back()

    def trailers(self, headers: Headers) -> None:
        self._trailers = status_of(headers)

    def over(self, status: Status | None) -> None:
        """The status that the server said counts, whatever came after it."""
        self._finish(self._trailers or status or Status(grpc.StatusCode.UNKNOWN, "the stream ended without a status"))

    # Its end ------------------------------------------------------------------------------------

    def _expire(self) -> None:
        self._break(Status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def _break(self, status: Status) -> None:
        """Ends it from this side."""
        if self._connection is not None:
            self._connection.reset(self._stream_id)
        self._finish(status)

    def _finish(self, status: Status) -> None:
        if self._ended.done():
            return
        self._ended.set_result(status)
        for waits, result in ((self._opened, None), (self._begun, grpc.aio.Metadata())):
            if not waits.done():
                waits.set_result(result)  # type: ignore[arg-type]
        self._give_back()
        if self._deadline is not None:
            self._deadline.cancel()
        self._sending.cancel()  # what the requests come from is released, too
        self._news.set()
        for callback in self._callbacks:
            callback(self)

    def _give_back(self) -> None:
        if self._unread and self._connection is not None:
            self._connection.consumed(self._stream_id, self._unread)
        self._unread = 0

    def _error(self, status: Status) -> grpc.aio.AioRpcError:
        return grpc.aio.AioRpcError(
            status.code,
            self._begun.result(),
            status.metadata,
            details=status.details,
            debug_error_string=status.details,
        )

    # What goes up -------------------------------------------------------------------------------

    async def _send(self, open_stream: Open, requests: AsyncIterable[Any] | None) -> None:
        """The outermost frame of its task."""
        try:
            self._connection, self._stream_id = await open_stream(self)
            self._opened.set_result(None)
            if requests is not None:
                async for request in requests:
                    await self._say(request)
                    del request  # else it is kept as long as the next one is awaited
                self._end_requests()
        except CallFailed as failed:
            self._finish(failed.status)
        except StreamOver:
            pass  # `over` was told why
        except Exception as error:
            log.exception("the requests of a call failed")
            self._break(Status(grpc.StatusCode.INTERNAL, f"the requests failed: {error!r}"))

    async def _say(self, request: Any) -> None:
        assert self._connection is not None
        message = self._serialize(request) if self._serialize is not None else request
        await self._connection.send(self._stream_id, b"\0" + len(message).to_bytes(4) + message)

    def _end_requests(self) -> None:
        if not self._half_closed and self._connection is not None:
            self._half_closed = True
            self._connection.half_close(self._stream_id)

    async def write(self, request: Any) -> None:
        await self.wait_for_connection()
        if self._half_closed:
            raise asyncio.InvalidStateError("nothing can be said after `done_writing`")
        try:
            await self._say(request)
        except StreamOver:
            raise self._error(self._ended.result()) from None

    async def done_writing(self) -> None:
        await self.wait_for_connection()
        self._end_requests()

    # What comes down ----------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF."""
        while not self._messages:
            if self._ended.done():
                self._raise_unless_ok()
                return grpc.aio.EOF
            self._news.clear()
            try:
                await self._news.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise
        message = self._messages.popleft()
        if not self._messages and self._unread >= GIVE_BACK_BYTES:
            self._give_back()
        return self._read(message)

    def _read(self, message: bytes) -> Any:
        if self._deserialize is None:
            return message
        try:
            return self._deserialize(message)
        except Exception:
            log.exception("a response could not be read")
            status = Status(grpc.StatusCode.INTERNAL, "Exception deserializing response!")
            self._break(status)
            raise self._error(status) from None

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def _raise_unless_ok(self) -> None:
        status = self._ended.result()
        if status is _CANCELLED:
            raise asyncio.CancelledError
        if status.code is not OK:
            raise self._error(status)

    # As any call of grpc.aio's ------------------------------------------------------------------

    async def wait_for_connection(self) -> None:
        """Until its stream is open. Raises AioRpcError where it is over before it was."""
        await asyncio.shield(self._opened)
        if self._ended.done():
            self._raise_unless_ok()

    def cancel(self) -> bool:
        if self._ended.done():
            return False
        self._messages.clear()
        self._break(_CANCELLED)
        return True

    def cancelled(self) -> bool:
        return self._ended.done() and self._ended.result().code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._ended.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._ended.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        return None if self._due is None else max(self._due - self._loop.time(), 0.0)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return await asyncio.shield(self._begun)

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return (await asyncio.shield(self._ended)).metadata

    async def code(self) -> grpc.StatusCode:
        return (await asyncio.shield(self._ended)).code

    async def details(self) -> str:
        return (await asyncio.shield(self._ended)).details
