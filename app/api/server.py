"""uvicorn, set up for this service: its socket, its WebSocket protocol class, its log.

The protocol class extends uvicorn's where experiments showed it wanting (uvicorn is pinned for that): a client that
pushes a file through TCP's back-pressure is alive although its pongs are stuck behind the audio; a socket that cannot
be closed is aborted; a frame that the parser refuses is answered with our `error` before the close; what a peer can
make it hold is bounded.
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from app.api.door import DoorProtocol
from app.core.errors import SessionError
from app.core.protocol import MAX_FRAME_BYTES, MAX_TEXT_BYTES, error_message, serialize

ABORT_SECONDS = 3.0
"""A close that the peer does not answer ends in an abort after so long."""
GRACE_SECONDS = 10
LOOK_AGAIN_SECONDS = 0.05
"""After a stall of ours a timer comes before what the peer said in time: it is read within this."""
MAX_PIECES = 256
"""Of one message: the parser counts their bytes, and so takes empty ones without end."""
MAX_UNREAD_BYTES = 1024 * 1024
"""Pongs do not wait for a peer that never reads."""
_PARSER_ERRORS = {
    1007: SessionError("bad_json", "a text frame must be UTF-8"),
    1009: SessionError(
        "frame_too_large",
        f"the limits of one frame are {MAX_FRAME_BYTES} bytes of audio, {MAX_TEXT_BYTES} of text, {MAX_PIECES} pieces",
    ),
}


class GatewayWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    heard_at = 0.0
    looked_again = False
    """For the pong of this ping."""
    failed = False
    """The peer broke the WebSocket protocol: what still comes is read and dropped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gone = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        if self.failed:
            return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._fail()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: Any = self.scope["extensions"]
            extensions |= {
                "gateway.abort": self.transport.abort,
                "gateway.let_send": self.writable.set,  # however much waits for the peer
                "gateway.gone": self.gone,
                "gateway.client_code": lambda: self.conn.close_rcvd and self.conn.close_rcvd.code,
            }

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < MAX_PIECES:
            super().handle_cont(event)
        elif not self.failed:
            self.conn.fail(1009, f"more than {MAX_PIECES} pieces")
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    def send_keepalive_ping(self) -> None:
        self.looked_again = False
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        if self.heard_at > self.ping_sent_at or self.read_paused:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        if not self.looked_again:
            self.looked_again = True
            self.pong_timer = self.loop.call_later(LOOK_AGAIN_SECONDS, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1011, "reason": "keepalive ping timeout"})
        self._abort_later()

    def handle_parser_exception(self) -> None:
        close = self.conn.close_sent
        if close is not None and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
            if error := _PARSER_ERRORS.get(close.code):
                told = Frame(Opcode.TEXT, serialize(error_message(error)).encode())
                self.transport.write(told.serialize(mask=False))
        self._fail()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self._abort_later()
        elif message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # else uvicorn logs a refusal as an error of the application

    def _fail(self) -> None:
        """Half-closes and goes on reading: to close while bytes still come is a reset, and nobody reads why."""
        self.failed = self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._abort_later()

    def _abort_later(self) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(ABORT_SECONDS, self.transport.abort)


def listen(host: str, port: int) -> socket.socket:
    """Small buffers: what the kernel holds is audio that nobody has acknowledged, and captions that nobody has read."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio's own loop sets TCP_NODELAY only where the protocol is named; without it a caption waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024)
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 16 * 1024)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)
    listener.bind((host, port))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


class GatewayServer(uvicorn.Server):
    """Calls `on_started` once it serves."""

    on_started: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.on_started is not None:
            self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn closes every WebSocket at once, without a word: the sessions are told first."""
        if (close := getattr(self.config.app.state, "close", None)) is not None:  # type: ignore[union-attr]
            await close()
        await super().shutdown(sockets)


def uvicorn_config(
    app: FastAPI | str, *, ping_interval: float, ping_timeout: float, trusted_proxies: str, workers: int = 1
) -> uvicorn.Config:
    """`app`: the service, or the name of what makes it, for workers that are processes of their own."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=workers,
        loop="uvloop",
        http=DoorProtocol,
        ws=GatewayWebSocket,
        ws_max_size=MAX_TEXT_BYTES,
        ws_ping_interval=ping_interval,
        ws_ping_timeout=ping_timeout,
        ws_per_message_deflate=False,
        forwarded_allow_ips=trusted_proxies,
        timeout_graceful_shutdown=GRACE_SECONDS,
        access_log=False,
        server_header=False,
        log_config=None,
    )
