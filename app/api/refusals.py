"""What a peer is told that is refused below the application: in the shape of the protocol's `error`, as by it."""

import json
from email.utils import formatdate
from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.http11 import Response

from app.api.headers import SECURITY_HEADERS
from app.api.http import error_body
from app.core.errors import SessionError, elide
from app.core.protocol import max_text_bytes

MAX_PIECES = 256
"""Of one message: the parser counts their bytes, and so takes empty ones without end."""


def parser_errors(frame_bytes: int) -> dict[int, SessionError]:
    """By close code."""
    text_bytes = max_text_bytes(frame_bytes)
    limits = f"{frame_bytes} bytes of audio, {text_bytes} of text, {MAX_PIECES} pieces"
    return {
        1007: SessionError("bad_json", "a text frame must be UTF-8"),
        1009: SessionError("frame_too_large", f"the limits of one frame are {limits}"),
    }


def rejection(status: int, message: str) -> Response:
    """Of a request, or of an upgrade: the WebSocket library makes its own with it."""
    phrase = HTTPStatus(status).phrase
    body = json.dumps(error_body(status, elide(message.strip() or phrase, 200))).encode()
    headers = {
        "date": formatdate(usegmt=True),
        "connection": "close",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    return Response(int(status), phrase, Headers(headers | SECURITY_HEADERS), body)
