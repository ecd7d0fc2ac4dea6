"""Every failure a client can see. One class, because every caller does the same with it: tell the client and close.

    SessionError
      code        what happened, a word of the wire protocol       -> CODES
      message     the offending value and the limit, for a person
      param       the field at fault, where there is one

What differs from code to code stands in the table CODES: the close code, the HTTP status of the same refusal before
the upgrade, and whether it may help to try again.
"""

from typing import NamedTuple


class Refusal(NamedTuple):
    """How one error code ends a connection."""

    close_code: int
    http_status: int
    retryable: bool


CODES: dict[str, Refusal] = {
    "going_away": Refusal(1001, 503, True),
    "restarting": Refusal(1012, 503, True),
    "overloaded": Refusal(1013, 503, True),
    "upstream_unavailable": Refusal(1013, 503, True),
    "unsupported_frame": Refusal(1003, 400, False),
    "bad_json": Refusal(1007, 400, False),
    "frame_too_large": Refusal(1009, 413, False),
    "internal": Refusal(1011, 500, True),
    "invalid_config": Refusal(4400, 400, False),
    "bad_order": Refusal(4400, 400, False),
    "audio_hole": Refusal(4400, 400, False),
    "bad_audio": Refusal(4400, 400, False),
    "upstream_rejected": Refusal(4400, 400, False),
    "unauthenticated": Refusal(4401, 401, False),
    "token_expired": Refusal(4401, 401, False),
    "forbidden": Refusal(4403, 403, False),
    "origin_denied": Refusal(4403, 403, False),
    "session_unknown": Refusal(4404, 404, False),
    "session_ended": Refusal(4410, 410, False),
    "resume_window_expired": Refusal(4410, 410, False),
    "start_timeout": Refusal(4408, 408, True),
    "idle_timeout": Refusal(4408, 408, True),
    "slow_client": Refusal(4408, 408, True),
    "superseded": Refusal(4409, 409, False),
    "too_many_sessions": Refusal(4429, 429, True),
    "rate_limited": Refusal(4429, 429, True),
    "budget_exhausted": Refusal(4429, 429, True),
}
"""Close codes of the wire protocol `stt.v1` (docs/protocol.md, "Close codes")."""


PRIVATE_CODES = 4000
"""WebSocket close codes from here on are a protocol's own; those below say that the connection ends."""


class SessionError(Exception):
    """A session, or the attempt to open one, ends: `code` is a key of CODES."""

    def __init__(self, code: str, message: str, *, param: str | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_ms = retry_after_ms

    @property
    def refusal(self) -> Refusal:
        return CODES[self.code]

    @property
    def may_pass(self) -> bool:
        """The session can go on over another connection: its state is not at fault."""
        return self.refusal.retryable and self.refusal.close_code < PRIVATE_CODES


def invalid(param: str, value: object, allowed: str) -> SessionError:
    """A field of a client's message that cannot be taken: names the field, the value and what is allowed."""
    return SessionError("invalid_config", f"{param}: {shorten(value)} is not allowed: {allowed}", param=param)


def unknown(session_id: str) -> SessionError:
    """The same whether there is no such session, its token is another one, or it is somebody else's: nobody can find
    out by trying."""
    return SessionError(
        "session_unknown", f"session {elide(session_id, 64)!r} is not known here, or not with this token"
    )


def shorten(value: object) -> str:
    """`repr` of a client's value, short enough for a message."""
    return elide(repr(value))


def elide(text: str, limit: int = 80) -> str:
    """A client's word, short enough for a message."""
    return text if len(text) <= limit else text[:limit] + "..."


def own_fault() -> SessionError:
    """What went wrong is ours, and nobody else's business."""
    return SessionError("internal", "the gateway failed: its log has the reason")


def going_down(retry_after_ms: int | None = None) -> SessionError:
    """Not the session's end, where another gateway can go on with it."""
    return SessionError("restarting", "the gateway is shutting down", retry_after_ms=retry_after_ms)
