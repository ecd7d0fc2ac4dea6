"""From a failed call to what it means: the one table of Google's status codes and texts.

OUT_OF_RANGE and INVALID_ARGUMENT are both "400" in google.api_core: only the gRPC status code tells them apart.
docs/upstream-errors.md is this table for people; a test compares the two.
"""

from dataclasses import dataclass
from enum import Enum

import grpc
from google.api_core.exceptions import GoogleAPICallError

from app.core.errors import SessionError, own_fault
from app.speech.pool import NoPlace

Code = grpc.StatusCode
RETRY_AFTER_MS = 1000


class OwnFault(Exception):
    """Not Google's: the gateway failed over what it was told, and has logged why."""


class Verdict(Enum):
    """What follows from a leg's end. The value is what docs/upstream-errors.md says."""

    AT_ONCE = "next leg at once"
    LATER = "next leg after a backoff"
    FATAL = "the session ends: `upstream_rejected`"


MEANING: dict[Code, Verdict] = {
    Code.OK: Verdict.AT_ONCE,  # a clean end that nobody asked for
    Code.OUT_OF_RANGE: Verdict.AT_ONCE,  # v1: 305 seconds, or no audio for 10
    Code.ABORTED: Verdict.AT_ONCE,  # v2: the same two
    Code.DEADLINE_EXCEEDED: Verdict.AT_ONCE,  # our own bound on a leg
    Code.UNAVAILABLE: Verdict.LATER,
    Code.INTERNAL: Verdict.LATER,
    Code.RESOURCE_EXHAUSTED: Verdict.LATER,
    Code.UNKNOWN: Verdict.LATER,
    Code.CANCELLED: Verdict.LATER,
    Code.DATA_LOSS: Verdict.LATER,
    Code.ALREADY_EXISTS: Verdict.LATER,
    Code.INVALID_ARGUMENT: Verdict.FATAL,
    Code.FAILED_PRECONDITION: Verdict.FATAL,
    Code.NOT_FOUND: Verdict.FATAL,
    Code.PERMISSION_DENIED: Verdict.FATAL,
    Code.UNAUTHENTICATED: Verdict.FATAL,
    Code.UNIMPLEMENTED: Verdict.FATAL,
}
BY_TEXT: dict[tuple[Code, str], Verdict] = {
    # grpc.aio's own, for a status that met a write on its way: the next leg, which holds its audio, sees the true one
    (Code.INTERNAL, "Internal error from Core"): Verdict.AT_ONCE,
    (Code.OUT_OF_RANGE, "Audio data is being streamed too fast."): Verdict.LATER,
}
"""Where the code alone does not say it: the text's beginning decides."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a leg ended, and what follows."""

    code: Code
    text: str
    verdict: Verdict
    ours: str | None = None
    """The word for clients where it is not the upstream that failed."""

    def as_error(self) -> SessionError:
        """What the client is told when the session cannot go on. Google's own text is passed on."""
        if self.ours:
            return SessionError(self.ours, self.text, retry_after_ms=RETRY_AFTER_MS)
        named = f"Speech-to-Text: {self.code.name}: {self.text}"
        if self.verdict is Verdict.FATAL:
            return SessionError("upstream_rejected", named)
        return SessionError("upstream_unavailable", named, retry_after_ms=RETRY_AFTER_MS)


def explain(error: BaseException | None) -> Ending:
    """`None`: the call ended well, though nobody had asked it to."""
    match error:
        case None:
            code, text = Code.OK, "the stream was ended unasked"
        case GoogleAPICallError():
            code, text = error.grpc_status_code or Code.UNKNOWN, str(error.message)
        case grpc.aio.AioRpcError():
            code, text = error.code(), error.details() or ""
        case OwnFault():
            ours = own_fault()
            return Ending(Code.INTERNAL, ours.message, Verdict.FATAL, ours.code)
        case NoPlace():
            return Ending(Code.RESOURCE_EXHAUSTED, str(error), Verdict.LATER, "overloaded")
        case TimeoutError():
            code, text = Code.DEADLINE_EXCEEDED, str(error)
        case _:
            code, text = Code.UNKNOWN, f"{type(error).__name__}: {error}"
    return Ending(code, text, _verdict(code, text))


def _verdict(code: Code, text: str) -> Verdict:
    for (its_code, beginning), verdict in BY_TEXT.items():
        if code is its_code and text.startswith(beginning):
            return verdict
    return MEANING.get(code, Verdict.LATER)
