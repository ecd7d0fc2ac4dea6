"""A gateway on a free port inside the test's own event loop, and a bare client that speaks JSON to it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.api.server import GatewayServer, listen, uvicorn_config
from app.hub import Hub
from app.logs import set_up_log
from app.main import create_app
from app.settings import Settings

START: dict[str, Any] = {
    "type": "start",
    "audio": {"encoding": "LINEAR16", "sample_rate_hertz": 16000},
    "language_codes": ["en-US"],
}


@dataclass
class Gateway:
    port: int
    hub: Hub
    tls: bool = False

    @property
    def url(self) -> str:
        return f"ws{'s' * self.tls}://127.0.0.1:{self.port}/ws/transcribe"

    @property
    def http(self) -> str:
        return f"http{'s' * self.tls}://127.0.0.1:{self.port}"

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(self.http + path)

    async def until_no_session(self) -> None:
        """Waits for the last session to end; a test's own time limit bounds it."""
        while self.hub.sessions:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def run_gateway(**settings: Any) -> AsyncIterator[Gateway]:
    """`settings` as in app/settings.py; the environment's are ignored. Audio goes upstream as fast as it can, and a
    session ends with its socket."""
    fast = {"upstream_speed": 1000.0, "max_messages_per_second": 1_000_000, "max_control_messages_per_second": 1e6}
    defaults = fast | {"host": "127.0.0.1", "port": 0, "resume_window_seconds": 0.0}
    chosen = Settings.model_validate(defaults | settings)
    app = create_app(chosen)
    listener = listen(chosen.host, chosen.port)
    set_up_log("INFO")
    config = uvicorn_config(
        app,
        ping_interval=chosen.ping_interval_seconds,
        ping_timeout=chosen.ping_timeout_seconds,
        trusted_proxies=chosen.trusted_proxies,
        tls=chosen.tls,
    )
    uvicorn = GatewayServer(config)
    serving = asyncio.create_task(uvicorn.serve(sockets=[listener]))
    while not uvicorn.started:
        assert not serving.done(), "the gateway did not start"
        await asyncio.sleep(0.005)
    try:
        yield Gateway(listener.getsockname()[1], app.state.hub, chosen.tls is not None)
    finally:
        uvicorn.should_exit = True
        await serving
        listener.close()


class Client:
    """One WebSocket; keeps every message it got."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []

    @classmethod
    @asynccontextmanager
    async def connect(cls, gateway: Gateway, **more: Any) -> AsyncIterator[Self]:
        async with connect(gateway.url, compression=None, max_queue=None, **more) as socket:
            yield cls(socket)

    async def say(self, *messages: dict[str, Any] | bytes | str) -> None:
        for message in messages:
            await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of this kind; the ones before it are kept in `messages`."""
        while True:
            message: dict[str, Any] = json.loads(await self.socket.recv())
            self.messages.append(message)
            if message["type"] == kind:
                return message

    async def hear_one(self) -> dict[str, Any]:
        """The next message, whatever it is."""
        self.messages.append(json.loads(await self.socket.recv()))
        return self.messages[-1]

    async def hear_all(self) -> list[dict[str, Any]]:
        """Everything until the gateway closes."""
        try:
            while True:
                self.messages.append(json.loads(await self.socket.recv()))
        except ConnectionClosed:
            return self.messages

    async def drop(self) -> None:
        """The network is gone: no close frame, and nothing more is read."""
        self.socket.transport.abort()
        await self.socket.wait_closed()

    def heard(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    @property
    def close_code(self) -> int | None:
        return self.socket.close_code


async def transcribe(gateway: Gateway, *frames: bytes | dict[str, Any], **start: Any) -> list[dict[str, Any]]:
    """A whole session: start, frames, stop. Returns everything the gateway said."""
    async with Client.connect(gateway) as client:
        listening = asyncio.create_task(client.hear_all())
        await client.say(START | start, *frames, {"type": "stop"})
        return await listening
