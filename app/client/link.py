"""The client's side of a socket: how it is opened, and what a refusal or a loss is called.

A gateway refuses twice over: before the upgrade with an HTTP status and a JSON body, after it with an `error` message.
Both become the same GatewayError.
"""

from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.typing import Subprotocol

from app.core.protocol import SUBPROTOCOL, Error

Socket = ClientConnection

OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0


class TranscriberError(Exception):
    """A session could not be opened, or has ended before its `stopped`."""


class UnreachableError(TranscriberError):
    """Nobody who speaks WebSocket answered at this address."""


class ConnectionLostError(TranscriberError):
    """The connection ended without a word about why."""


class GatewayError(TranscriberError):
    """The gateway's `error`: in a message, or as the body of a refused upgrade (then with its HTTP `status`)."""

    def __init__(self, error: Error, *, status: int | None = None) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.code = error.code
        self.message = error.message
        self.param = None if error.param is UNSET else error.param
        self.retryable = error.retryable
        self.retry_after_ms = None if error.retry_after_ms is UNSET else error.retry_after_ms
        self.status = status


async def open_socket(url: str, token: str | None) -> Socket:
    """Raises UnreachableError, GatewayError."""
    parts = urlsplit(url)
    try:
        return await connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {token}"} if token else None,
            proxy=None if parts.hostname in {"localhost", "127.0.0.1", "::1"} else True,
            compression=None,
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
        )
    except InvalidStatus as exc:
        raise GatewayError(_refusal(exc.response), status=exc.response.status_code) from exc
    except (InvalidURI, InvalidProxy, InvalidHandshake, OSError) as exc:
        where = parts._replace(query="", fragment="").geturl()  # the query may hold a token
        raise UnreachableError(f"cannot reach {where}: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    match exc:
        case InvalidURI():
            return "this is no address of the form ws://host:port/path"
        case ConnectionRefusedError():
            return "connection refused"
        case TimeoutError():
            return f"no answer in {OPEN_SECONDS:.0f} s"
        case OSError():
            return exc.strerror or str(exc)
    return f"what answers there speaks no WebSocket ({exc})"


class _RefusalBody(msgspec.Struct):
    error: Error


def _refusal(response: Response) -> Error:
    """The gateway's own words, or, where something in front of it answered, the bare status."""
    try:
        return msgspec.json.decode(response.body or b"", type=_RefusalBody).error
    except msgspec.DecodeError:
        status = response.status_code
        after = response.headers.get("Retry-After", "")
        return Error(
            code=f"http_{status}",
            message=f"the server refused the connection with HTTP {status} {response.reason_phrase}".rstrip(),
            retryable=status == 429 or status >= 500,
            retry_after_ms=int(after) * 1000 if after.isdecimal() else UNSET,
        )


def lost(exc: ConnectionClosed) -> ConnectionLostError:
    if exc.rcvd is None:
        return ConnectionLostError("the connection broke without a closing frame")
    return ConnectionLostError(f"the gateway closed the connection: {exc.rcvd.code} {exc.rcvd.reason}".rstrip())


def not_understood(exc: msgspec.DecodeError) -> TranscriberError:
    return TranscriberError(f"the gateway said something that {SUBPROTOCOL} does not know: {exc}")
