"""Who connects comes in a few at a time. A handshake takes the loop a millisecond: when many clients come back at once,
those that are speaking would wait until the last one is in.
"""

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

AT_A_TIME = 10
"""In one turn of the loop."""


class Door:
    """One for a server, which all of its connections share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[DoorProtocol, bytes]] = deque()

    def knock(self, protocol: "DoorProtocol", data: bytes) -> None:
        """`data` is what it has said so far. It is let in on the next turn, or on a later one."""
        if not self._waiting:
            self._loop.call_soon(self._let_in)
        self._waiting.append((protocol, data))

    def _let_in(self) -> None:
        for _ in range(min(AT_A_TIME, len(self._waiting))):
            protocol, data = self._waiting.popleft()
            protocol.come_in(data)
        if self._waiting:
            self._loop.call_soon(self._let_in)


class DoorProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which is also how a WebSocket begins."""

    is_in = False

    def data_received(self, data: bytes) -> None:
        if self.is_in:
            super().data_received(data)
            return
        self.transport.pause_reading()
        self._door.knock(self, data)

    def come_in(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.is_in = True
        self.transport.resume_reading()
        super().data_received(data)

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        parser: Any = None
        self.parser = parser  # it knows this protocol, which knows it: garbage that only a full collection finds

    @property
    def _door(self) -> Door:
        door: Door | None = getattr(self.server_state, "door", None)
        if door is None:
            door = Door(self.loop)
            self.server_state.door = door  # type: ignore[attr-defined]
        return door
