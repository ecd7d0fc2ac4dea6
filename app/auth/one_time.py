"""One-time tokens: an app's own backend, which holds a key, makes one for each session of a device.

A token opens one session, or resumes one. After that it is good for one thing: to come back to that session, which
wants its resume token besides. What is kept of it is its hash.
"""

import hashlib
import secrets
from collections.abc import Callable

from msgspec import Struct, json
from msgspec.structs import replace

from app.auth.keys import ApiKeys
from app.core.errors import SessionError
from app.core.grant import Bounds, Grant, check_unused
from app.core.tolerant import decode
from app.store import Store, StoreAwayError

PREFIX = "cgt_"
LONGEST_SECONDS = 600
REMEMBERED_SECONDS = 3_600.0
"""So long after its end a token that was not used is told that it has expired, and not that it is unknown."""
AWAY_RETRY_MS = 1_000


class Ticket(Struct, frozen=True, kw_only=True):
    """What is kept of a token."""

    principal: str
    """Whose key made it."""
    bounds: Bounds
    expires_at: float
    """Seconds since 1970."""
    session_id: str | None = None
    """That it belongs to."""


class OneTimeTokens:
    def __init__(
        self, store: Store, keys: ApiKeys | None, *, session_seconds: float, wall_clock: Callable[[], float]
    ) -> None:
        """`session_seconds`: so long a session can last, and wait to be read."""
        self._store = store
        self._keys = keys
        self._session_seconds = session_seconds
        self._wall_clock = wall_clock

    async def mint(self, maker: Grant, bounds: Bounds, ttl_seconds: float) -> str:
        """For one session of `maker`, within its own bounds. Raises SessionError where the store is away."""
        token = PREFIX + secrets.token_urlsafe(32)
        ticket = Ticket(principal=maker.principal, bounds=bounds, expires_at=self._wall_clock() + ttl_seconds)
        await self._put(_key(_fingerprint(token)), ticket, ttl_seconds + REMEMBERED_SECONDS)
        return token

    async def check(self, token: str) -> Grant:
        """Raises SessionError."""
        mark = _fingerprint(token)
        ticket = await self._get(_used(mark)) or await self._get(_key(mark))
        maker = self._keys.of(ticket.principal) if ticket and self._keys else None
        if ticket is None or maker is None:
            raise SessionError("unauthenticated", "this one-time token is not known, or not any more")
        if ticket.session_id is None:
            self._check_time(ticket.expires_at)
        return replace(
            maker,
            rights=frozenset({"speak"}),
            bounds=ticket.bounds,
            ticket=mark,
            session_id=ticket.session_id,
            expires_at=ticket.expires_at,
        )

    async def redeem(self, grant: Grant, session_id: str) -> None:
        """From now on the token belongs to this session. Raises SessionError where it belongs to another one."""
        if grant.ticket is None or grant.session_id == session_id:
            return
        if grant.session_id is None:
            self._check_time(grant.expires_at)
        used = Ticket(principal=grant.principal, bounds=grant.bounds, expires_at=0, session_id=session_id)
        if not await self._put(_used(grant.ticket), used, self._session_seconds):
            check_unused(replace(grant, session_id=session_id))  # somebody was faster

    def _check_time(self, expires_at: float) -> None:
        if self._wall_clock() >= expires_at:
            raise SessionError("token_expired", "this one-time token has expired")

    async def _put(self, key: str, ticket: Ticket, seconds: float) -> bool:
        try:
            return await self._store.put(key, json.encode(ticket).decode(), seconds)
        except StoreAwayError as error:
            raise _away() from error

    async def _get(self, key: str) -> Ticket | None:
        try:
            text = await self._store.get(key)
        except StoreAwayError as error:
            raise _away() from error
        return None if text is None else decode(text, Ticket)


def _key(mark: str) -> str:
    return f"token:{mark}"


def _used(mark: str) -> str:
    return f"token:{mark}:used"


def _fingerprint(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _away() -> SessionError:
    text = "the store is away, which knows the one-time tokens"
    return SessionError("overloaded", text, retry_after_ms=AWAY_RETRY_MS)
