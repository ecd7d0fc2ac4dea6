"""uvicorn, set up for this service: its socket, its WebSocket protocol class, its log.

The protocol class extends uvicorn's where experiments showed it wanting (uvicorn is pinned for that): a client that
pushes a file through TCP's back-pressure is alive although its pongs are stuck behind the audio; a socket that cannot
be closed is aborted; a frame that the parser refuses is answered with our `error` before the close.
"""

import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from app.core.errors import SessionError
from app.core.protocol import MAX_FRAME_BYTES, MAX_TEXT_BYTES, error_message, serialize

ABORT_SECONDS = 3.0
"""A close that the peer does not answer ends in an abort after so long."""
GRACE_SECONDS = 10
_PARSER_ERRORS = {
    1007: SessionError("bad_json", "a text frame must be UTF-8"),
    1009: SessionError(
        "frame_too_large", f"the limits are {MAX_FRAME_BYTES} bytes of audio and {MAX_TEXT_BYTES} of text in one frame"
    ),
}


class GatewayWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    heard_at = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        super().data_received(data)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"]["gateway.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]

    def keepalive_timeout(self) -> None:
        if self.heard_at > self.ping_sent_at or self.read_paused:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1011, "reason": "keepalive ping timeout"})
        self.loop.call_later(ABORT_SECONDS, self.transport.abort)

    def handle_parser_exception(self) -> None:
        close = self.conn.close_sent
        error = _PARSER_ERRORS.get(close.code) if close else None
        if error is not None and self.handshake_complete and not self.close_sent:
            told = Frame(Opcode.TEXT, serialize(error_message(error)).encode())
            self.transport.write(told.serialize(mask=False))
        super().handle_parser_exception()
        self.loop.call_later(ABORT_SECONDS, self.transport.abort)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self.loop.call_later(ABORT_SECONDS, self.transport.abort)
        elif message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # else uvicorn logs a refusal as an error of the application


def listen(host: str, port: int) -> socket.socket:
    """Small buffers: what the kernel holds is audio that nobody has acknowledged, and captions that nobody has read."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
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


def server(
    app: FastAPI, *, ping_interval: float, ping_timeout: float, trusted_proxies: str, log_level: str
) -> GatewayServer:
    """`server(...).run(sockets=[listen(...)])` serves until SIGTERM."""
    _set_up_log(log_level)
    return GatewayServer(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
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
    )


def _set_up_log(level: str) -> None:
    """uvicorn and websockets stay at WARNING: below it they log query strings, and at DEBUG the messages."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("uvicorn", "uvicorn.error", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
