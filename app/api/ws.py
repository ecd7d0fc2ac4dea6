"""The WebSocket endpoint: FastAPI ends here. A refusal before the upgrade is a real HTTP status, except for browsers,
which cannot read one: they are accepted, told and closed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from fastapi import WebSocket
from fastapi.responses import JSONResponse
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.api.access import access_of, client_network
from app.api.http import error_body, refused
from app.core.errors import SessionError
from app.core.grant import Grant
from app.core.protocol import SUBPROTOCOL, error_message, serialize
from app.hub import Hub
from app.relay import Disconnected, clip

log = logging.getLogger(__name__)


class FastApiSocket:
    """A relay.Socket over an accepted FastAPI WebSocket."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._abort = websocket.scope["extensions"]["gateway.abort"]
        self._receive: Callable[[], Awaitable[Any]] = websocket.scope["extensions"]["gateway.receive"]
        self._send: Callable[[Sequence[str]], Awaitable[None]] = websocket.scope["extensions"]["gateway.send"]
        self._gather: Callable[[int], None] = websocket.scope["extensions"]["gateway.gather"]
        self._let_send: Callable[[], None] = websocket.scope["extensions"]["gateway.let_send"]
        self.gone: asyncio.Future[None] = websocket.scope["extensions"]["gateway.gone"]
        self._client_code: Callable[[], int | None] = websocket.scope["extensions"]["gateway.client_code"]
        """With which the client has closed it, or answered our close; none where it did neither."""

    async def receive(self) -> str | bytes:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise Disconnected(self._client_code())  # uvicorn names its own where the client never answered it
        data: str | bytes = message["bytes"] if message.get("bytes") is not None else message["text"]
        return data

    def gather(self, count: int) -> None:
        self._gather(count)

    async def send(self, *texts: str) -> None:
        try:
            await self._send(texts)
        except OSError as error:
            raise Disconnected from error

    async def close(self, code: int, reason: str, *, at_once: bool = False) -> None:
        if at_once:
            self._let_send()
        try:
            await self._websocket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise Disconnected from error

    def abort(self) -> None:
        self._abort()

    @property
    def client_code(self) -> int | None:
        return self._client_code()

    async def closed(self) -> bool:
        await asyncio.shield(self.gone)
        return self.client_code is not None


async def transcribe(websocket: WebSocket) -> None:
    """The protocol `stt.v1`: see docs/protocol.md."""
    hub: Hub = websocket.app.state.hub
    log.debug("an upgrade from %s, %s", client_network(websocket), websocket.scope["scheme"])
    try:
        _check_server(websocket)
        access = access_of(websocket)
        access.check_origin(websocket)
        grant = await access.grant(websocket, "speak")
    except SessionError as error:
        await _refuse_upgrade(websocket, error)
        return
    with hub.link(grant):
        await _serve(websocket, hub, grant)


async def _serve(websocket: WebSocket, hub: Hub, grant: Grant) -> None:
    try:
        hub.admit()
        await hub.knock(grant)
    except SessionError as error:
        await _refuse_upgrade(websocket, error)
        return
    await websocket.accept(subprotocol=_subprotocol(websocket))
    await hub.serve(FastApiSocket(websocket), grant)


async def elsewhere(websocket: WebSocket) -> None:
    """Another path; without a route it would be a 403 without a word."""
    body = error_body(404, "there is no WebSocket here: it is at /ws/transcribe")
    await websocket.send_denial_response(JSONResponse(body, 404))


def _check_server(websocket: WebSocket) -> None:
    if "gateway.abort" not in websocket.scope["extensions"]:
        raise SessionError(
            "internal", "the gateway is not set up: uvicorn needs --ws app.api.websocket:GatewayWebSocket"
        )


def _subprotocol(websocket: WebSocket) -> str | None:
    return SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None


async def _refuse_upgrade(websocket: WebSocket, error: SessionError) -> None:
    if "origin" in websocket.headers:
        await websocket.accept(subprotocol=_subprotocol(websocket))
        with suppress(WebSocketDisconnect, RuntimeError):
            await websocket.send_text(serialize(error_message(error)))
            await websocket.close(error.refusal.close_code, clip(error.message))
        return
    await websocket.send_denial_response(refused(error))


class Endpoint:
    """Without what FastAPI does for an endpoint's parameters: that costs each connection 8 kB as long as it lives."""

    def __init__(self, serve: Callable[[WebSocket], Awaitable[None]]) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(WebSocket(scope, receive, send))


routes = (
    WebSocketRoute("/ws/transcribe", Endpoint(transcribe), name="transcribe"),
    WebSocketRoute("/{path:path}", Endpoint(elsewhere), name="elsewhere"),
)
