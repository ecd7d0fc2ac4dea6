"""One check behind every way to say who one is: which kind of credential it is, and whether it is good."""

from dataclasses import dataclass

from app.auth import keys, one_time
from app.auth.keys import ApiKeys
from app.auth.one_time import OneTimeTokens
from app.auth.signed import SignedTokens
from app.core.errors import SessionError
from app.core.grant import ANYBODY, Grant


@dataclass(frozen=True, slots=True)
class Credential:
    text: str
    in_url: bool = False
    """URLs are written down by proxies and browsers: only what is worth nothing a moment later may stand there."""

    def __repr__(self) -> str:
        return "Credential(...)"


class Authenticator:
    def __init__(
        self, api_keys: ApiKeys | None, signed_tokens: SignedTokens | None, one_time_tokens: OneTimeTokens
    ) -> None:
        self._api_keys = api_keys
        self._signed_tokens = signed_tokens
        self.one_time_tokens = one_time_tokens

    @property
    def asks(self) -> bool:
        """Whether anybody is asked who they are."""
        return self._api_keys is not None or self._signed_tokens is not None

    async def check(self, credential: Credential | None) -> Grant:
        """Raises SessionError."""
        if not self.asks:
            return ANYBODY
        if credential is None:
            raise SessionError(
                "unauthenticated",
                "a credential is missing: `Authorization: Bearer ...`, the subprotocol `bearer.TOKEN`, "
                "or ?token= with a one-time token",
            )
        if credential.text.startswith(one_time.PREFIX):
            return await self.one_time_tokens.check(credential.text)
        if credential.in_url:
            raise SessionError("unauthenticated", "only one-time tokens may stand in a URL")
        return await self._check_lasting(credential.text)

    async def _check_lasting(self, text: str) -> Grant:
        if self._api_keys is not None and text.startswith(keys.PREFIX):
            return self._api_keys.check(text)
        if self._signed_tokens is not None and text.count(".") == 2:
            return await self._signed_tokens.check(text)
        kinds = ["an API key (cgk_...)"] * bool(self._api_keys) + ["a signed token"] * bool(self._signed_tokens)
        raise SessionError("unauthenticated", f"this credential is neither a one-time token nor {' nor '.join(kinds)}")
