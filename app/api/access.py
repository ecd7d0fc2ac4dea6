"""Who may come in: where the credential stands in a request, whether the page that asks may, and who fails too often.

A browser sends `Origin`, and cannot set `Authorization` on a WebSocket: for it the subprotocol pair
`["stt.v1", "bearer.TOKEN"]` is there, and only `stt.v1` is echoed.
"""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.requests import HTTPConnection

from app.addresses import is_loopback, network_of
from app.auth.authenticator import Authenticator, Credential
from app.core.errors import SessionError, elide
from app.core.grant import Grant, Right

BEARER = "bearer."
SCHEME = "bearer"
DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Access:
    def __init__(
        self,
        authenticator: Authenticator,
        *,
        origins: Sequence[str],
        open_routes: Sequence[str],
        failures_per_minute: int,
        loopback_only: bool,
    ) -> None:
        """`origins`: of pages elsewhere that may connect, or `*`. `open_routes`: those that ask nobody who they are.
        `loopback_only`: nobody is asked, and nobody said that this is meant to be so."""
        self.authenticator = authenticator
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._open_routes = frozenset(open_routes)
        self._loopback_only = loopback_only
        self._failures = RateLimitItemPerMinute(failures_per_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def grant(self, connection: HTTPConnection, right: Right) -> Grant:
        """What who asks may do. Raises SessionError: without this right, too."""
        self._check_loopback(connection)
        try:
            grant = await self.authenticator.check(_credential(connection))
        except SessionError as error:
            if error.refusal.http_status == 401:
                await self._count_failure(connection)
            raise
        if right not in grant.rights:
            raise SessionError("forbidden", f"this credential may not {right}: it may {_listed(grant.rights)}")
        return grant

    async def check_route(self, connection: HTTPConnection, route: str) -> None:
        """For what is about the service, not about a session. Raises SessionError."""
        if route not in self._open_routes:
            await self.grant(connection, "operate")

    def check_origin(self, connection: HTTPConnection) -> None:
        """A page may connect to where it came from, or where it is allowed to. Raises SessionError."""
        origin = connection.headers.get("origin")
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return
        scheme = origin.partition(":")[0]  # who ends the TLS in front of us is not asked: it may not have said so
        if _place(origin) is None or _place(origin) != _place(f"{scheme}://{connection.headers.get('host', '')}"):
            raise SessionError(
                "origin_denied",
                f"a page of {elide(origin)!r} may not connect here: GATEWAY_ALLOWED_ORIGINS does not name it",
            )

    async def _count_failure(self, connection: HTTPConnection) -> None:
        """Raises SessionError instead of the failure where there were too many: only who fails is refused."""
        if not await self._limiter.hit(self._failures, client_network(connection)):
            raise SessionError(
                "rate_limited",
                f"over {self._failures.amount} credentials from this address were refused within a minute, the limit",
                retry_after_ms=60_000,
            )

    def _check_loopback(self, connection: HTTPConnection) -> None:
        """uvicorn's own command may listen anywhere, and settings know nothing of it."""
        server = connection.scope.get("server")
        if self._loopback_only and server and not is_loopback(server[0]):
            raise SessionError(
                "forbidden",
                f"no authentication is configured, so only loopback addresses are served, not {server[0]}: "
                "GATEWAY_API_KEYS_FILE, GATEWAY_JWT_..., or GATEWAY_AUTH=none where everybody may",
            )


def access_of(connection: HTTPConnection) -> Access:
    access: Access = connection.app.state.access
    return access


Bearer = Annotated[object, Security(HTTPBearer(auto_error=False, description="API key, signed or one-time token"))]
"""For the OpenAPI document alone: `Access` looks for itself."""


async def asks_for_config(request: Request) -> None:
    await access_of(request).check_route(request, "config")


async def asks_for_metrics(request: Request, _: Bearer) -> None:
    await access_of(request).check_route(request, "metrics")


async def asks_for_docs(request: Request) -> None:
    await access_of(request).check_route(request, "docs")


async def speaker(request: Request, _: Bearer) -> Grant:
    return await access_of(request).grant(request, "speak")


async def maker(request: Request, _: Bearer) -> Grant:
    return await access_of(request).grant(request, "mint")


def _credential(connection: HTTPConnection) -> Credential | None:
    """The one that was presented. Raises SessionError where there are several."""
    found = [Credential(text, in_url=True) for text in connection.query_params.getlist("token")]
    for header in connection.headers.getlist("authorization"):
        scheme, _, text = header.strip().partition(" ")
        if scheme.lower() != SCHEME or not text.strip():
            raise SessionError("unauthenticated", "the Authorization header must be `Bearer TOKEN`")
        found.append(Credential(text.strip()))
    offered = connection.scope.get("subprotocols", [])
    found += [Credential(name.removeprefix(BEARER)) for name in offered if name.startswith(BEARER)]
    if len(found) > 1:
        raise SessionError("unauthenticated", f"{len(found)} credentials were presented: one is allowed")
    return found[0] if found else None


def _place(origin: str) -> tuple[str, int] | None:
    """Host and port, as they are compared; none for what names no place, such as `null`."""
    try:
        parts = urlsplit(origin)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def client_network(connection: HTTPConnection) -> str:
    """Of the client: behind a trusted proxy the one that it names."""
    return network_of(connection.client.host if connection.client else "")


def _listed(rights: frozenset[Right]) -> str:
    return ", ".join(sorted(rights)) or "nothing"
