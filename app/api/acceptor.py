"""Connections are accepted a few at a time. asyncio's own server takes all that the kernel has, thousands in one turn
of the loop, each with its TLS handshake. Here they wait in the kernel, where they cost nothing.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvloop

from app.api.turns import Turns

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.002
AT_A_TIME = 4
EXHAUSTED_SECONDS = 1.0
"""Without a free file descriptor it is no use to try again sooner."""
CLOSE_SECONDS = 3.0
"""A peer that does not answer the end of TLS is left after so long."""
_UNTRUE = (BlockingIOError, InterruptedError, ConnectionAbortedError)
"""Nobody was there after all, or not any more."""


class Newcomer(asyncio.Protocol):
    """A connection that is about to be."""

    def may_come(self, address: str) -> bool:
        """From there: it is closed else, before it has cost much."""
        raise NotImplementedError


class AcceptingLoop(uvloop.Loop):
    """The loop of uvicorn, wherever it makes its own: of a worker, too."""

    def __init__(self, handshake_seconds: float | None) -> None:
        """uvloop's own limit would be 60 s: of a connection that costs 40 kB before a byte of HTTP is seen."""
        super().__init__()
        self._limits = {"ssl_handshake_timeout": handshake_seconds, "ssl_shutdown_timeout": CLOSE_SECONDS}

    async def create_server(self, *args: Any, **more: Any) -> Any:
        """As uvicorn asks for it: `sock` listens already."""
        (protocol,) = args
        tls = {"ssl": more["ssl"], **self._limits} if more["ssl"] else {}
        return Acceptor(self, more["sock"], protocol, tls)


class Acceptor:
    """Of one listening socket; what uvicorn wants of an asyncio server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        protocol: Callable[[], Newcomer],
        tls: dict[str, Any],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._protocol = protocol
        self._tls = tls
        self._turns = Turns(self._loop, IDLE_SECONDS, self._accept)
        self._coming: set[asyncio.Task[None]] = set()
        self._spare: Newcomer | None = None
        """Of a connection that was closed at once: to make one costs more than all the rest of it."""
        self._closed = False
        self._exhausted = False
        """It was told."""
        self._listen()

    def close(self) -> None:
        """The socket is the caller's to close."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        self._turns.close()

    async def wait_closed(self) -> None:
        for task in self._coming:
            task.cancel()
        await asyncio.gather(*self._coming, return_exceptions=True)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._on_ready)

    def _on_ready(self) -> None:
        self._loop.remove_reader(self._listener)
        self._turns.ask()

    def _accept(self) -> bool:
        """Whether there may be more."""
        try:
            for _ in range(AT_A_TIME):
                self._come(*self._listener.accept())
        except _UNTRUE:
            self._listen()
            return False
        except OSError as error:
            if not self._exhausted:
                log.error("nobody can be accepted: %s", error)
            self._exhausted = True
            self._loop.call_later(EXHAUSTED_SECONDS, self._listen)
            return False
        self._exhausted = False
        return True

    def _come(self, peer: socket.socket, address: Any) -> None:
        protocol, self._spare = self._spare or self._protocol(), None
        if not protocol.may_come(address[0]):
            self._spare = protocol
            peer.close()
            return
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connect(peer, protocol))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _connect(self, peer: socket.socket, protocol: Newcomer) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, peer, **self._tls)
        except (OSError, TimeoutError) as error:  # also of TLS: a peer that speaks none, or does not answer
            peer.close()
            log.debug("a connection came to nothing: %s", error)
