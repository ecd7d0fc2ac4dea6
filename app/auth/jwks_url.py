"""The public keys of who signs tokens, behind a URL.

They are fetched when they are first needed, and again when they are old or a token names one that is not there: so a
new key is known as soon as it is used. While the URL does not answer those that are known go on.
"""

import asyncio
import logging
from collections.abc import Callable

import httpx
import jwt

from app.auth.jwks import find, parse_key_set
from app.core.errors import SessionError

log = logging.getLogger(__name__)

OLD_SECONDS = 600.0
"""So long a key that was taken away may still be good."""
AGAIN_SECONDS = 10.0
"""Between two fetches: a token with an id of its own invention must not be one for each try."""
FETCH_SECONDS = 5.0
KNOWN_SECONDS = 1.0
"""Who has a key that was good the last time waits no longer for a URL that does not answer."""
MAX_BYTES = 262_144


class KeyUrl:
    def __init__(self, url: str, client: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._url = url
        self._client = client
        self._clock = clock
        self._keys: list[jwt.PyJWK] | None = None
        self._tried_at = self._fetched_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        """One for all who wait."""

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        """Raises SessionError `overloaded` where no keys could be fetched yet."""
        is_known = find(self._keys or [], key_id) is not None
        if (self._is_old or not is_known) and (fetching := self._fetch_if_due()):
            await asyncio.wait([fetching], timeout=KNOWN_SECONDS if is_known else FETCH_SECONDS)
        if self._keys is None:
            text = "the keys that signed tokens are checked with cannot be fetched now"
            raise SessionError("overloaded", text, retry_after_ms=round(AGAIN_SECONDS * 1000))
        return find(self._keys, key_id)

    @property
    def _is_old(self) -> bool:
        return self._clock() - self._fetched_at >= OLD_SECONDS

    def _fetch_if_due(self) -> asyncio.Task[None] | None:
        if self._fetching is None and self._clock() - self._tried_at >= AGAIN_SECONDS:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch_all())
        return self._fetching

    async def _fetch_all(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._keys = parse_key_set(await self._fetch())
            self._fetched_at = self._tried_at
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            log.warning("the key set for signed tokens could not be fetched: %s", error or type(error).__name__)
        finally:
            self._fetching = None

    async def _fetch(self) -> bytes:
        content = b""
        async with self._client.stream("GET", self._url) as response:
            response.raise_for_status()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MAX_BYTES:
                    raise ValueError(f"it is over {MAX_BYTES} bytes")
        return content
