"""Who connects waits for a turn, says a whole request within its time and its size, or is told why not.

uvicorn itself bounds neither the time nor the size of a request. Connections that owe us one are counted; over the
limit, the one that has owed it longest makes room: newcomers come in, however many are half-open.
"""

import asyncio
import re
from collections import Counter, OrderedDict
from typing import Any

import httptools
from uvicorn.middleware.proxy_headers import _TrustedHosts
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.limits import ConnectionLimits
from app.api.refusals import rejection
from app.api.turnstile import Turnstile

ABORT_SECONDS = 3.0
"""A close that the peer does not answer ends in an abort after so long."""
MAX_HEADERS = 128
"""Of a request: each takes time, however short it is. As many as an upgrade may have."""
MAX_PIPELINED = 16
"""Requests that wait for the answer to the one before them."""
WIRE_PER_BODY = 2
"""Bytes on the wire for each of a body: what chunks and trailers may add."""
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


class RefusedError(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Door:
    """One for a server, which all of its connections share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: ConnectionLimits, trusted_proxies: Any) -> None:
        self.turnstile = Turnstile(loop, _TrustedHosts(trusted_proxies).__contains__, limits.waiting)
        self._limits = limits
        self._waiting: OrderedDict[DoorProtocol, None] = OrderedDict()
        """It is the peer's turn; who has waited longest comes first."""
        self._crowds: Counter[str] = Counter()
        """How many of them are from one address."""

    def has_room(self, address: str) -> bool:
        """Where nobody comes in but another makes room, an address with half of all places gets no more: nobody has to
        make room for it, and who comes again at once costs next to nothing."""
        limit = self._limits.waiting
        is_crowd = len(self._waiting) >= limit and self._crowds[address] >= max(1, limit // 2)
        return not is_crowd and self.turnstile.has_room(address)

    def wait(self, protocol: "DoorProtocol") -> None:
        """For its next request, or the rest of it."""
        if protocol not in self._waiting:
            self._waiting[protocol] = None
            self._crowds[protocol.address] += 1
        if len(self._waiting) > self._limits.waiting:
            longest = next(iter(self._waiting))
            self.leave(longest)
            longest.make_room()

    def leave(self, protocol: "DoorProtocol") -> None:
        """It has said its request, or is gone."""
        if protocol in self._waiting:
            del self._waiting[protocol]
            self._crowds[protocol.address] -= 1
            if not self._crowds[protocol.address]:
                del self._crowds[protocol.address]


class DoorProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which is also how a WebSocket begins."""

    is_in = False
    """Its request is heard; until the answer is over."""
    is_refused = False
    """What still comes is read and dropped."""
    _knocks = False
    _has_turn = False
    """The request that begins next has had its turn."""
    _timer: asyncio.TimerHandle | None = None
    _part = 0
    """Counts the parts of requests that are complete: head, body, head..."""
    _in_body = False
    _raw = 0
    """Bytes of a part that is not complete."""
    _size = 0
    """Of a part, as the parser has it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits: ConnectionLimits = self.app_state["limits"]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()
        self._door.wait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_refused:
            return
        if self.is_in:
            self._hear(data)
            return
        self._knocks = True
        self.transport.pause_reading()
        self._unset_keepalive_if_required()
        self._door.leave(self)
        self._door.turnstile.knock(self.address, self, data)

    def may_come(self, address: str) -> bool:
        return self._door.has_room(address)

    @property
    def address(self) -> str:
        """The peer's own: a proxy's, where there is one."""
        return self.client[0] if self.client else ""

    @property
    def is_gone(self) -> bool:
        return self.transport.is_closing()

    def come_in(self, data: bytes) -> None:
        self.is_in, self._has_turn, self._knocks = True, True, False
        self.transport.resume_reading()
        self._door.wait(self)
        self._hear(data)

    def make_room(self) -> None:
        """Others want to come in."""
        if not self.is_refused and (self.cycle is None or self._is_unanswered):
            self._leave_unanswered()
            limit = self._limits.waiting
            self._answer(503, f"over {limit} connections, the limit, owe a request, this one for the longest time")
        self.is_refused = True
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def handle_websocket_upgrade(self) -> None:
        self._expect_no_more()
        self._unset_keepalive_if_required()
        super().handle_websocket_upgrade()
        parser: Any = None
        self.parser = parser  # it knows this protocol, which knows it: garbage that only a full collection finds

    # The parser -------------------------------------------------------------------------------

    def _hear(self, data: bytes) -> None:
        """As uvicorn's, which answers in plain text, and logs a line for each bad request."""
        self._unset_keepalive_if_required()
        if not self._is_unanswered:
            self._expect()
        part = self._part
        try:
            self.parser.feed_data(data)
            if part == self._part:
                self._measure_raw(len(data))
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self._upgrade()
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RefusedError) else RefusedError(400, "this is no HTTP request"))
        except RefusedError as error:
            self._refuse(error)

    def _upgrade(self) -> None:
        """The target may be a whole URL (RFC 9112, 3.2.2)."""
        try:
            url = httptools.parse_url(self.url)
            self.url.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            self._refuse(RefusedError(400, "the request's target is no URL"))
            return
        self.url = (url.path or b"/") + (b"?" + url.query if url.query else b"")
        self.handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect()
        if not self._has_turn:
            self._door.turnstile.charge()
        self._has_turn = False

    def on_url(self, url: bytes) -> None:
        self._measure_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._measure_head(len(name) + len(value) + len(": \r\n"))
        if len(self.headers) >= MAX_HEADERS:
            raise RefusedError(431, f"a request has more headers than the limit of {MAX_HEADERS}")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._check_head()
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            raise RefusedError(429, f"more than {MAX_PIPELINED} requests wait for an answer")
        self._next_part(in_body=True)

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            raise RefusedError(505, f"HTTP/{version} is neither HTTP/1.0 nor HTTP/1.1")
        hosts = [value for name, value in self.headers if name == b"host"]
        if (len(hosts) != 1 and version == "1.1") or not all(_HOST.fullmatch(host) for host in hosts):
            raise RefusedError(400, "a request needs one Host header with the name of a host (RFC 9112, 3.2)")
        for name, value in self.headers:
            if name == b"content-length":
                self._measure_body(int(value))

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        self._measure_body(self._size)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._expect_no_more()
        self._next_part(in_body=False)
        if self.cycle is not None and not self._is_unanswered:  # uvicorn forgets a connection whose answer came first
            self._wait_for_more()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not (self.transport.is_closing() or self._in_body or self._is_unanswered):
            self._wait_for_more()

    def _wait_for_more(self) -> None:
        self.is_in = False
        self._door.wait(self)

    def _next_part(self, *, in_body: bool) -> None:
        self._part += 1
        self._in_body = in_body
        self._raw = self._size = 0

    def _measure_head(self, count: int) -> None:
        self._size += count
        limit = self._limits.head_bytes
        if self._size > limit:
            raise RefusedError(431, f"a request line and its headers are over the limit of {limit} bytes")

    def _measure_body(self, count: int) -> None:
        limit = self._limits.body_bytes
        if count > limit:
            raise RefusedError(413, f"a body is over the limit of {limit} bytes")

    def _measure_raw(self, count: int) -> None:
        """What the parser has not told yet, or never tells: a header without an end, what is between chunks."""
        self._raw += count
        if self._in_body:
            self._measure_body(self._raw // WIRE_PER_BODY)
        elif self._raw > self._limits.head_bytes:
            self._measure_head(self._raw)

    # The deadline, and the end ----------------------------------------------------------------

    @property
    def _is_unanswered(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self) -> None:
        """A whole request, from now on in its time."""
        if self._timer is None:
            self._timer = self.loop.call_later(self._limits.request_seconds, self._on_timeout)

    def _expect_no_more(self) -> None:
        self._door.leave(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self.is_refused:
            self.transport.abort()
        elif self._knocks:
            self._expect()  # it waits for us
        else:
            self._refuse(RefusedError(408, f"no whole request within {self._limits.request_seconds:g} s, the limit"))

    def _refuse(self, error: RefusedError) -> None:
        """Half-closes and goes on reading: to close while bytes still come is a reset, and nobody reads why."""
        if self._is_unanswered and (self.cycle.response_started or self.pipeline or not self._in_body):
            self.transport.abort()  # it would be taken for another request's answer
            return
        is_answered = self._in_body and not self._is_unanswered
        self._leave_unanswered()
        self.is_refused = True
        if self.transport.is_closing():
            return
        if not is_answered:
            self._answer(error.status, str(error))
        self.flow.resume_reading()
        half_close(self.transport)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(ABORT_SECONDS, self._on_timeout)

    def _leave_unanswered(self) -> None:
        """What the application still says is dropped."""
        if self._is_unanswered:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _answer(self, status: int, message: str) -> None:
        self.transport.write(rejection(status, message).serialize())

    @property
    def _door(self) -> Door:
        door: Door | None = getattr(self.server_state, "door", None)
        if door is None:
            door = Door(self.loop, self._limits, self.config.forwarded_allow_ips)
            self.server_state.door = door  # type: ignore[attr-defined]
        return door


def half_close(transport: asyncio.Transport) -> None:
    """Who calls this goes on reading. TLS knows no half-close, but its close does the same: it drops what still comes
    until the peer has closed, too."""
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()
