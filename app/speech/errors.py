"""From a failed call to what it means: the one table of Google's status codes.

OUT_OF_RANGE and INVALID_ARGUMENT are both "400" in google.api_core: only the gRPC status code tells them apart.
"""

import grpc
from google.api_core.exceptions import GoogleAPICallError

from app.core.errors import SessionError

_REJECTED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""The same request would fail again: the client, or the operator, has to change something."""

RETRY_AFTER_MS = 1000


def explain(error: BaseException) -> SessionError:
    """What the client is told when a leg ends with `error`. Google's own text is passed on."""
    if isinstance(error, GoogleAPICallError):
        code, text = error.grpc_status_code, error.message
    elif isinstance(error, grpc.aio.AioRpcError):
        code, text = error.code(), error.details()
    else:
        code, text = None, type(error).__name__
    named = f"Speech-to-Text: {code.name if code else 'INTERNAL'}: {text}"
    if code in _REJECTED:
        return SessionError("upstream_rejected", named)
    return SessionError("upstream_unavailable", named, retry_after_ms=RETRY_AFTER_MS)
