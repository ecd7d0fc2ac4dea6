"""One HTTP/2 connection: http2/protocol.py says what the bytes mean, this what is done about it."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from app.http2.headers import Headers, Status, reset_status, unavailable
from app.http2.protocol import Http2

CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
STREAM_WINDOW_BYTES = 1024 * 1024
"""The peer may send so much that nobody has read."""
CLOSE_SECONDS = 1.0
"""For our last words."""


class Stream(Protocol):
    """What a call is told of its stream."""

    def headers(self, headers: Headers) -> None: ...

    def data(self, data: bytes, counts: int) -> None:
        """`counts`: as so many bytes of the window, which `Connection.consumed` gives back."""

    def trailers(self, headers: Headers) -> None: ...

    def over(self, status: Status | None) -> None:
        """Nothing more will come. Without a status the peer has ended it in good order."""


class StreamOver(Exception):
    """Nothing can be sent on it any more: its call was told why."""


class Connection(asyncio.Protocol):
    """`ready` is done when the peer has said its settings, or failed."""

    def __init__(
        self,
        *,
        keepalive: float,
        patience: float,
        leaves: Callable[["Connection"], None],
        lost: Callable[["Connection"], None],
    ) -> None:
        """`keepalive`: so many seconds after it has heard anything it asks whether anybody is there; it waits
        `patience` seconds for an answer. `leaves` is called once no new stream may be opened any more, `lost` at the
        very end."""
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._keepalive = keepalive
        self._patience = patience
        self._leaves = leaves
        self._lost = lost
        self._h2 = Http2(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._streams: dict[int, Stream] = {}
        self._transport: Any = None
        self._room = asyncio.Event()
        """Set whenever there may be room for what waits."""
        self._writable = True
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._asked_at: float | None = None
        """When it has asked whether anybody is there; none once anything was heard."""
        self._left = False
        self._flushing = False
        """It is due in this turn of the loop."""
        self._over = False
        """Nothing can be written any more; a transport of uvloop's does not say so of itself."""

        self._takes: dict[type[Event], Callable[[Any], None]] = {
            RemoteSettingsChanged: self._settings,
            ResponseReceived: self._headers,
            DataReceived: self._data,
            TrailersReceived: self._trailers,
            StreamEnded: self._ended,
            StreamReset: self._was_reset,
            WindowUpdated: self._window,
            ConnectionTerminated: self._goaway,
        }

    # What asyncio says --------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._fail("the server does not speak HTTP/2: it took no ALPN protocol of ours")
            return
        self._heard_at = self._loop.time()
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES, SettingCodes.ENABLE_PUSH: 0})
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES)
        self._flush()
        self._watch = self._loop.call_later(self._keepalive, self._look)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._asked_at = None
        try:
            events = self._h2.receive_data(data)
        except ProtocolError as error:
            self._flush()
            self._fail(f"the server broke HTTP/2: {error}")
            return
        for event in events:
            if (take := self._takes.get(type(event))) is not None:
                take(event)
        self._flush()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._let_go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc}" if exc else "the server closed the connection")
        self._lost(self)

    # What the peer says -------------------------------------------------------------------------

    def _settings(self, _: RemoteSettingsChanged) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
        self._let_go_on()

    def _headers(self, event: ResponseReceived) -> None:
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.headers(event.headers)

    def _data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            self.consumed(event.stream_id, event.flow_controlled_length)
        else:
            stream.data(event.data, event.flow_controlled_length)

    def _trailers(self, event: TrailersReceived) -> None:
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.trailers(event.headers)

    def _ended(self, event: StreamEnded) -> None:
        self._end(event.stream_id, None)

    def _was_reset(self, event: StreamReset) -> None:
        self._end(event.stream_id, reset_status(event.error_code))

    def _window(self, _: WindowUpdated) -> None:
        self._let_go_on()

    def _goaway(self, event: ConnectionTerminated) -> None:
        """Streams that it has not seen never began; the others go on."""
        self._leave()
        for stream_id in [number for number in self._streams if number > (event.last_stream_id or 0)]:
            self._end(stream_id, unavailable("the server takes no more streams on this connection (GOAWAY)"))

    # What calls ask for -------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """The peer takes no more streams at the same time."""
        return len(self._streams) >= self._h2.remote_settings.max_concurrent_streams

    def open(self, headers: Headers, stream: Stream) -> int:
        """Its number. Raises StreamOver where no new one may be opened."""
        if self._left:
            raise StreamOver
        try:
            number = self._h2.get_next_available_stream_id()
        except ProtocolError as error:  # after a thousand million of them
            self._leave()
            raise StreamOver from error
        self._h2.send_headers(number, headers)
        self._streams[number] = stream
        self._flush()
        return number

    async def send(self, stream_id: int, data: bytes) -> None:
        """Waits while the peer does not read. Raises StreamOver."""
        at = 0
        while at < len(data):
            room = self._room_for(stream_id)
            if room > 0:
                self._h2.send_at_once(stream_id, data[at : at + room] if at or room < len(data) else data)
                self._flush_soon()
                at += room
            else:
                self._room.clear()
                await self._room.wait()

    def _room_for(self, stream_id: int) -> int:
        """Bytes that may be sent now."""
        if stream_id not in self._streams:
            raise StreamOver
        return self._h2.room(stream_id) if self._writable else 0

    def half_close(self, stream_id: int) -> None:
        """Nothing more will be sent."""
        if stream_id in self._streams:
            self._h2.end_stream(stream_id)
            self._flush()

    def reset(self, stream_id: int) -> None:
        """The call is over, whatever the peer still says; it is not told."""
        if self._streams.pop(stream_id, None) is not None:
            self._reset(stream_id, ErrorCodes.CANCEL)
            self._let_go_on()
            self._close_if_done()

    def consumed(self, stream_id: int, count: int) -> None:
        """The peer may send so many bytes more."""
        if not self._over:
            self._h2.acknowledge_received_data(count, stream_id)
            self._flush()

    def close(self) -> None:
        """Calls are told."""
        self._tell_all("the channel was closed")
        self._leave()

    def drop(self) -> None:
        """It never was one: nobody asks for `ready` any more."""
        self.ready.cancel()
        self._left = True
        if self._transport is not None:
            self._fail("the connection was not made")

    # ------------------------------------------------------------------------------------------

    def _end(self, stream_id: int, status: Status | None) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        if status is None:
            self._reset(stream_id, ErrorCodes.NO_ERROR)  # where the server ended first, our side is open still
        stream.over(status)
        self._let_go_on()
        self._close_if_done()

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        state = self._h2.streams.get(stream_id)
        if state is not None and not state.closed:
            self._h2.reset_stream(stream_id, code)
            self._flush()

    def _let_go_on(self) -> None:
        self._room.set()

    def _flush_soon(self) -> None:
        """With all that is said in this turn of the loop: each write is a call of the system's, and a packet."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if (data := self._h2.data_to_send()) and not self._over:
            self._transport.write(data)

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            self._leaves(self)
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._left and not self._streams:
            self._stop_watching()
            if not self._over:
                self._h2.close_connection()
                self._flush()
                self._over = True
                self._transport.close()
                self._loop.call_later(CLOSE_SECONDS, self._transport.abort)

    def _fail(self, why: str) -> None:
        """Nothing can be said any more."""
        self._tell_all(why)
        if not self._left:
            self._left = True
            self._leaves(self)
        self._stop_watching()
        self._over = True
        self._transport.abort()

    def _tell_all(self, why: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(why))
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.over(unavailable(why))
        self._let_go_on()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        """A dead peer would not be noticed otherwise. As gRPC's own it asks only while there are streams."""
        now = self._loop.time()
        if self._asked_at is not None:
            self._fail(f"the server did not answer a ping within {self._patience:g} s")
            return
        due = (self._heard_at if self._streams else now) + self._keepalive
        if due <= now:
            self._asked_at = now
            self._h2.ping(b"alive?\0\0")
            self._flush()
            due = now + self._patience
        self._watch = self._loop.call_at(due, self._look)
