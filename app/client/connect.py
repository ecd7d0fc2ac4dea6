"""How a socket is opened, accepted and left; and since when the other side is silent."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.typing import DataLike, Subprotocol

from app.client.errors import (
    ConnectionLostError,
    GatewayError,
    TranscriberError,
    UnreachableError,
    lost,
    not_understood,
)
from app.core.protocol import (
    SUBPROTOCOL,
    Error,
    Resume,
    Resumed,
    ServerMessage,
    Start,
    Started,
    parse_server,
    serialize,
)

OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0
PING_SECONDS = 5.0
LEFT, REPLACED = 1000, 4000
"""Close codes: the session ends; it goes on over another connection."""


class Socket(ClientConnection):
    """Knows since when it waits. A pong may be stuck behind audio that the gateway has no room for: any byte counts."""

    waits_since: float | None = None
    """The first thing that was sent since something came."""

    async def send(self, message: Any, *, text: bool | None = None) -> None:
        self._ask()
        await super().send(message, text=text)

    async def ping(self, data: DataLike | None = None) -> Awaitable[float]:
        self._ask()
        return await super().ping(data)

    def data_received(self, data: bytes) -> None:
        self.waits_since = None
        super().data_received(data)

    def _ask(self) -> None:
        if self.waits_since is None:
            self.waits_since = self.loop.time()


Token = str | Callable[[], Awaitable[str]] | None
"""What a gateway asks for, or what gets one: that is called for each connection, so an expired one is no failure."""


async def open_socket(url: str, token: Token, first: Start | Resume) -> tuple[Socket, Started | Resumed]:
    """A socket, and the answer to its first message. Raises TranscriberError."""
    try:
        socket = await _connect(url, await _present(token))
    except GatewayError as error:
        error.retryable |= error.code == "token_expired" and callable(token)
        raise
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await socket.send(serialize(first))
            return socket, _answer(first, parse_server(await socket.recv()))
    except BaseException as exc:
        # a client that leaves a session ends it: only one that nobody has heard of may go
        await hang_up(socket, LEFT if isinstance(first, Start) else REPLACED)
        raise as_failure(exc) from exc


async def hang_up(socket: Socket, code: int) -> None:
    """Closes it in good order, where that is possible in `CLOSE_SECONDS`. Cancelling drops it at once."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await socket.close(code)
    except TimeoutError:
        pass  # a dead network
    finally:
        socket.transport.abort()


def as_failure(exc: BaseException) -> BaseException:
    """What went wrong with a socket, in the client's words."""
    match exc:
        case ConnectionClosed():
            return lost(exc)
        case TimeoutError():
            return ConnectionLostError(f"the gateway did not answer in {OPEN_SECONDS:.0f} s")
        case msgspec.DecodeError():
            return not_understood(exc)
    return exc


async def _present(token: Token) -> str | None:
    if not callable(token):
        return token
    try:
        return await token()
    except Exception as exc:  # the app's own code: whatever it is, there is no token now
        raise UnreachableError(f"there is no token: {exc}") from exc


async def _connect(url: str, token: str | None) -> Socket:
    parts = urlsplit(url)
    try:
        socket = await connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {token}"} if token else None,
            proxy=None if parts.hostname in {"localhost", "127.0.0.1", "::1"} else True,
            compression=None,
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=None,
            create_connection=Socket,
        )
    except InvalidStatus as exc:
        raise GatewayError(_refusal(exc.response), status=exc.response.status_code) from exc
    except (InvalidURI, InvalidProxy, InvalidHandshake, OSError) as exc:
        where = parts._replace(query="", fragment="").geturl()  # the query may hold a token
        raise UnreachableError(f"cannot reach {where}: {_reason(exc)}") from exc
    assert isinstance(socket, Socket)
    return socket


def _answer(first: Start | Resume, message: ServerMessage) -> Started | Resumed:
    match message:
        case Error():
            raise GatewayError(message)
        case Started() if isinstance(first, Start):
            return message
        case Resumed() if isinstance(first, Resume):
            return message
    said = "start" if isinstance(first, Start) else "resume"
    raise TranscriberError(f"the gateway answered `{said}` with {serialize(message)}")


def _reason(exc: Exception) -> str:
    match exc:
        case InvalidURI():
            return "this is no address of the form ws://host:port/path"
        case ConnectionRefusedError():
            return "connection refused"
        case TimeoutError():
            return f"no answer in {OPEN_SECONDS:.0f} s"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {exc.verify_message.rstrip('.')}"
        case ssl.SSLError():
            return f"it speaks no TLS that we understand ({exc.reason})"
        case OSError():
            return exc.strerror or str(exc)
    return f"what answers there speaks no WebSocket ({exc})"


class _RefusalBody(msgspec.Struct):
    error: Error


def _refusal(response: Response) -> Error:
    """The gateway's own words, or, where something in front of it answered, the bare status."""
    after = response.headers.get("Retry-After", "")
    retry_after_ms = int(after) * 1000 if after.isdecimal() else UNSET
    try:
        error = msgspec.json.decode(response.body or b"", type=_RefusalBody).error
    except msgspec.DecodeError:
        status = response.status_code
        return Error(
            code=f"http_{status}",
            message=f"the server refused the connection with HTTP {status} {response.reason_phrase}".rstrip(),
            retryable=status == 429 or status >= 500,
            retry_after_ms=retry_after_ms,
        )
    return msgspec.structs.replace(error, retry_after_ms=retry_after_ms) if error.retry_after_ms is UNSET else error
