"""The headers that every HTTP response has, whoever wrote it: the application, or what is below it.

What is no page may load nothing and be shown nowhere; a page says its own Content-Security-Policy.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_RAW = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_STARTS = {"http.response.start", "websocket.http.response.start"}


class SecureResponses:
    """Pure ASGI, around everything: also what an exception ends in has them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_securely(message: Message) -> None:
            if message["type"] in _STARTS:
                own = list(message.get("headers", ()))
                names = {name.lower() for name, _ in own}
                message["headers"] = own + [header for header in _RAW if header[0] not in names]
            await send(message)

        await self._app(scope, receive, send if scope["type"] == "lifespan" else send_securely)
