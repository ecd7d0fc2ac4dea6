"""Signed tokens (JWT): HS256 with a secret, RS256 and ES256 with a set of keys (JWKS). The subject is who answers for
what is done with one.
"""

from typing import Annotated, Any, Protocol

import jwt
import msgspec
from msgspec import Meta, Struct

from app.core.errors import SessionError
from app.core.grant import Bounds, Grant
from app.core.protocol import LanguageCode

LEEWAY_SECONDS = 10
"""What two clocks may differ by."""
SHORTEST_SECRET = 32
"""Bytes: RFC 7518, 3.2."""
PUBLIC_KEY_ALGORITHMS = ("RS256", "ES256")


class PublicKeys(Protocol):
    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        """The one with this id; without an id the only one. Raises SessionError where they cannot be had now."""


class Claims(Struct, frozen=True, kw_only=True):
    """What is read of a token; the registered ones are checked before."""

    sub: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\x20-\x7e]*\Z")]
    max_session_seconds: Annotated[float, Meta(gt=0)] | None = None
    budget_seconds: Annotated[int, Meta(ge=1)] | None = None
    language_codes: Annotated[tuple[LanguageCode, ...], Meta(min_length=1)] | None = None


class SignedTokens:
    def __init__(self, *, secret: str | None, keys: PublicKeys | None, audience: str, issuer: str | None) -> None:
        self._secret = secret
        self._keys = keys
        self._audience = audience
        self._issuer = issuer

    async def check(self, token: str) -> Grant:
        """Raises SessionError."""
        algorithm, key = await self._key_for(token)
        try:
            payload: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "aud", "sub"]},
            )
            claims = msgspec.convert(payload, Claims)
        except jwt.ExpiredSignatureError:
            raise SessionError("token_expired", "this signed token has expired") from None
        except (jwt.PyJWTError, msgspec.ValidationError) as error:
            raise _refused(str(error)) from error
        bounds = Bounds(**{name: getattr(claims, name) for name in Bounds.__struct_fields__})
        return Grant(principal=f"user:{claims.sub}", bounds=bounds)

    async def _key_for(self, token: str) -> tuple[str, Any]:
        """The algorithm is one that this gateway is set up for, with the key that belongs to it: never one that the
        token chose for a key of another kind."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise _refused(str(error)) from error
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secret is not None:
            return algorithm, self._secret
        if algorithm in PUBLIC_KEY_ALGORITHMS and self._keys is not None:
            key = await self._keys.key(header.get("kid"))
            if key is not None and key.algorithm_name == algorithm:
                return algorithm, key
            raise _refused("its key is not known here")
        allowed = [*(["HS256"] if self._secret else []), *(PUBLIC_KEY_ALGORITHMS if self._keys else [])]
        raise _refused(f"its algorithm is none of {', '.join(allowed)}")


def _refused(why: str) -> SessionError:
    return SessionError("unauthenticated", f"this signed token is not accepted: {why}")
