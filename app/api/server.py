"""uvicorn, set up for this service: its socket, its protocol classes, its log."""

import resource
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from app.api.door import DoorProtocol
from app.api.tls import TlsConfig
from app.api.websocket import GatewayWebSocket
from app.tls import ServerTls

GRACE_SECONDS = 10
WORKER_SECONDS = 30
"""A worker takes seconds to start; at SIGHUP one that takes longer than this has failed, and the old ones stay."""
MAX_FILES = 1024 * 1024
"""Where the hard limit is higher still, or there is none."""


def raise_file_limit() -> None:
    """Each connection takes a descriptor, and the usual soft limit, 1024, is for who cannot take more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


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
    app: FastAPI | str,
    *,
    ping_interval: float,
    ping_timeout: float,
    trusted_proxies: str,
    tls: ServerTls | None = None,
    workers: int = 1,
) -> uvicorn.Config:
    """`app`: the service, or the name of what makes it, for workers that are processes of their own."""
    return TlsConfig(
        app,
        tls=tls,
        factory=isinstance(app, str),
        workers=workers,
        loop="uvloop",
        http=DoorProtocol,
        ws=GatewayWebSocket,
        ws_ping_interval=ping_interval,
        ws_ping_timeout=ping_timeout,
        ws_per_message_deflate=False,
        forwarded_allow_ips=trusted_proxies,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=WORKER_SECONDS,
        access_log=False,
        server_header=False,
        log_config=None,
    )
