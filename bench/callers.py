"""Clients that lose their connections and come back: plain ones, so that many fit into one process."""

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.runs import BYTES_PER_SECOND, FRAME
from tests.gateway import START

JITTER_SECONDS = 0.1
"""A client library waits up to so long before its first attempt."""
KEEPALIVE_SECONDS = 20.0


@dataclass
class Caller:
    """A client with one session."""

    url: str
    streams: bool
    sent: int = 0
    """Bytes, and how many the gateway says it has."""
    acked: int = 0
    last_event: int = 0
    resumed: bool = False
    wrong: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    """Of the upgrade."""
    _hello: dict[str, Any] = field(default_factory=dict)
    _socket: ClientConnection | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def begin(self) -> None:
        await self._open(START)

    async def resume(self) -> None:
        await asyncio.sleep(random.random() * JITTER_SECONDS)
        hello, sent, acked = self._hello, self.sent, self.acked
        asked = {name: hello[name] for name in ("session_id", "resume_token")}
        answer = await self._open({"type": "resume", "last_event": self.last_event, **asked})
        if answer["type"] != "resumed":
            self.wrong.append(f"resume was answered {answer}")
        elif not acked <= answer["offset"] <= sent:
            self.wrong.append(f"offset {answer['offset']}: sent {sent}, of which {acked} were acknowledged")
        else:
            self.resumed = True

    async def drop(self) -> None:
        """Without a word."""
        assert self._socket is not None
        self._socket.transport.abort()
        await self._rest()

    async def stop(self) -> None:
        """In good order; what was said must be all there."""
        assert self._socket is not None
        self._tasks[-1].cancel()
        await self._socket.send('{"type": "stop"}')
        with suppress(ConnectionClosed):
            await self._tasks[0]
        if self._hello.get("type") != "stopped" or self._hello["audio_ms"] != self.sent * 1000 // BYTES_PER_SECOND:
            self.wrong.append(f"{self.sent} bytes ended with {self._hello}")
        await self._rest()

    async def _open(self, first: dict[str, Any]) -> dict[str, Any]:
        self._socket = await connect(
            self.url,
            compression=None,
            open_timeout=60,
            ping_interval=None,
            proxy=None,
            additional_headers=self.headers,
        )
        await self._socket.send(json.dumps(first))
        answer: dict[str, Any] = json.loads(await self._socket.recv())
        self._hello |= answer
        self.sent = self.acked = answer.get("offset", 0)
        work = (self._hear(), self._speak()) if self.streams else (self._hear(), self._keep_alive())
        self._tasks = [asyncio.create_task(each) for each in work]
        return answer

    async def _rest(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hear(self) -> None:
        assert self._socket is not None
        with suppress(ConnectionClosed):
            while True:
                self._take(json.loads(await self._socket.recv()))

    def _take(self, message: dict[str, Any]) -> None:
        self.acked = message.get("received", self.acked)
        if message["type"] in {"stopped", "error"}:
            self._hello |= message
        if "event" in message:
            if message["event"] != self.last_event + 1:
                self.wrong.append(f"event {message['event']} after {self.last_event}")
            self.last_event = message["event"]

    async def _speak(self) -> None:
        assert self._socket is not None
        clock = asyncio.get_running_loop().time
        due = clock() + random.random() * 0.1
        frame = bytes(FRAME)
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(due - clock())
                due += 0.1
                self.sent += FRAME
                await self._socket.send(frame)

    async def _keep_alive(self) -> None:
        assert self._socket is not None
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(KEEPALIVE_SECONDS)
                await self._socket.send('{"type": "keepalive"}')
