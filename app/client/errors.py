"""What can go wrong with a session, in the client's words, and what follows from it.

A gateway refuses twice over: before the upgrade with an HTTP status and a JSON body, after it with an `error` message.
Both become the same GatewayError.
"""

import msgspec
from msgspec import UNSET
from websockets.exceptions import ConnectionClosed

from app.core.protocol import SUBPROTOCOL, Error

GONE, GONE_CLOSES = {"session_unknown", "session_ended", "resume_window_expired"}, {4404, 4410}
LEAVING, LEAVING_CLOSES = {"restarting", "going_away"}, {1001, 1012}
FOR_GOOD_CLOSES = {1003, 1007, 1009, 4400, 4401, 4403, 4409}
"""docs/protocol.md, "Close codes": to try again would not help."""
BUDGET_WAIT_SECONDS = 60.0
"""A budget that is renewed later than this is the end of a transcription: nobody waits for next month."""


class TranscriberError(Exception):
    """A session could not be opened, or has ended before its `stopped`."""


class UnreachableError(TranscriberError):
    """Nobody who speaks WebSocket answered at this address."""


class ConnectionLostError(TranscriberError):
    """The connection ended without a word about why. `code`: of the gateway's closing frame, if there was one."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class EventsMissingError(ConnectionLostError):
    """The gateway has skipped a durable event: what it has said since cannot be trusted."""

    def __init__(self, after: int, event: int) -> None:
        super().__init__(f"the gateway failed: after event {after} it has said event {event}")
        self.after = after


class SessionEndedError(ConnectionLostError):
    """The gateway has ended the session in good order, though nobody had asked for it."""

    def __init__(self) -> None:
        super().__init__("the gateway has ended the session: a new one goes on")


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


def lost(exc: ConnectionClosed) -> ConnectionLostError:
    if exc.rcvd is None:
        return ConnectionLostError("the connection broke without a closing frame")
    code, reason = exc.rcvd.code, exc.rcvd.reason
    return ConnectionLostError(f"the gateway closed the connection: {code} {reason}".rstrip(), code)


def not_understood(exc: msgspec.DecodeError) -> TranscriberError:
    return TranscriberError(f"the gateway said something that {SUBPROTOCOL} does not know: {exc}")


def is_gone(failure: TranscriberError) -> bool:
    """The gateway does not have the session, or not as much of it as its client."""
    match failure:
        case GatewayError():
            return failure.code in GONE or (failure.code, failure.param) == ("invalid_config", "last_event")
        case ConnectionLostError():
            return failure.code in GONE_CLOSES
    return False


def is_for_good(failure: TranscriberError) -> bool:
    """To try again would not help."""
    match failure:
        case _ if is_gone(failure) or isinstance(failure, UnreachableError):
            return False
        case GatewayError(code="budget_exhausted"):
            return not 0 < retry_after(failure) <= BUDGET_WAIT_SECONDS
        case GatewayError():
            # where there was a gateway a moment ago, a 404 of somebody else's means that it is being replaced
            return not failure.retryable and failure.code != "http_404"
        case ConnectionLostError():
            return failure.code in FOR_GOOD_CLOSES
    return True


def is_superseded(failure: TranscriberError) -> bool:
    """Another connection has resumed the session."""
    match failure:
        case GatewayError():
            return failure.code == "superseded"
        case ConnectionLostError():
            return failure.code == 4409
    return False


def is_leaving(failure: TranscriberError) -> bool:
    """The gateway itself goes away."""
    match failure:
        case GatewayError():
            return failure.code in LEAVING
        case ConnectionLostError():
            return failure.code in LEAVING_CLOSES
    return False


def as_lost(failure: TranscriberError) -> TranscriberError:
    """Of a connection that there was."""
    return ConnectionLostError(str(failure)) if isinstance(failure, UnreachableError) else failure


def retry_after(failure: TranscriberError) -> float:
    """In seconds; 0 where nobody asked for more."""
    if isinstance(failure, GatewayError) and failure.retry_after_ms:
        return failure.retry_after_ms / 1000
    return 0.0


def may_have_been_heard(failure: TranscriberError) -> bool:
    """What an attempt said may still be obeyed, also where the gateway has answered that it cannot now: its store may
    be late. Not where there was no connection, or the answer was clear."""
    refused = isinstance(failure, GatewayError) and failure.status is not None
    return not (refused or is_gone(failure) or isinstance(failure, UnreachableError))
