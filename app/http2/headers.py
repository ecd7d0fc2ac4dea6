"""What gRPC says in HTTP/2 headers, and what their statuses mean (grpc's PROTOCOL-HTTP2.md, statuscodes.md and
http-grpc-status-mapping.md).
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import grpc
from h2.errors import ErrorCodes

Header = tuple[bytes, bytes]
Headers = list[Header]
Metadata = Iterable[tuple[str, str | bytes]]

USER_AGENT = b"grpc-python-asyncio-h2/1"
MAX_TIMEOUT_MS = 99_999_999
"""`grpc-timeout` has eight digits."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_OF_HTTP = {
    "400": grpc.StatusCode.INTERNAL,
    "401": grpc.StatusCode.UNAUTHENTICATED,
    "403": grpc.StatusCode.PERMISSION_DENIED,
    "404": grpc.StatusCode.UNIMPLEMENTED,
    "429": grpc.StatusCode.UNAVAILABLE,
    "502": grpc.StatusCode.UNAVAILABLE,
    "503": grpc.StatusCode.UNAVAILABLE,
    "504": grpc.StatusCode.UNAVAILABLE,
}
_OF_RESET = {
    ErrorCodes.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    ErrorCodes.CANCEL: grpc.StatusCode.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended."""

    code: grpc.StatusCode
    details: str = ""
    metadata: grpc.aio.Metadata = field(default_factory=grpc.aio.Metadata)
    """The trailing one."""


def request_headers(*, scheme: str, authority: str, path: str, timeout: float | None, metadata: Metadata) -> Headers:
    """`timeout`: seconds."""
    headers = [
        (b":method", b"POST"),
        (b":scheme", scheme.encode()),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", USER_AGENT),
    ]
    if timeout is not None:
        headers.append((b"grpc-timeout", b"%dm" % min(max(round(1000 * timeout), 1), MAX_TIMEOUT_MS)))
    return [*headers, *((key.lower().encode(), _value(key, value)) for key, value in metadata)]


def _value(key: str, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return base64.b64encode(raw).rstrip(b"=") if key.lower().endswith("-bin") else raw


def metadata_of(headers: Headers) -> grpc.aio.Metadata:
    """What is the application's of it."""
    found: list[tuple[str, Any]] = []
    for raw_key, raw in headers:
        key = raw_key.decode()
        if key.startswith(":") or key in {"grpc-status", "grpc-message", "content-type"}:
            continue
        if key.endswith("-bin"):
            found += [(key, base64.b64decode(part + b"=" * (-len(part) % 4))) for part in raw.split(b",")]
        else:
            found.append((key, raw.decode(errors="replace")))
    return grpc.aio.Metadata(*found)


def refusal(headers: Headers) -> Status | None:
    """Where the first headers are no gRPC server's: it was a proxy that answered, perhaps."""
    said = dict(headers)
    http = said.get(b":status", b"").decode()
    if http != "200":
        return Status(
            _OF_HTTP.get(http, grpc.StatusCode.UNKNOWN),
            f"Received http2 header with status: {http}",
            metadata_of(headers),
        )
    kind = said.get(b"content-type", b"").decode(errors="replace")
    if not kind.startswith("application/grpc"):
        return Status(grpc.StatusCode.UNKNOWN, f"the answer is not gRPC's: content-type {kind!r}", metadata_of(headers))
    return None


def status_of(headers: Headers) -> Status | None:
    """What the trailers say; none where there is no `grpc-status` in them."""
    said = dict(headers)
    number = said.get(b"grpc-status")
    if number is None:
        return None
    code = _CODES.get(int(number), grpc.StatusCode.UNKNOWN) if number.isdigit() else grpc.StatusCode.UNKNOWN
    text = unquote(said.get(b"grpc-message", b"").decode(errors="replace"), errors="replace")
    return Status(code, text, metadata_of(headers))


def reset_status(error_code: int) -> Status:
    """The peer has reset the stream."""
    code = next((code for known, code in _OF_RESET.items() if known == error_code), grpc.StatusCode.INTERNAL)
    return Status(code, f"Received RST_STREAM with error code {error_code}")


def unavailable(why: str) -> Status:
    return Status(grpc.StatusCode.UNAVAILABLE, why)
