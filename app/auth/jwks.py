"""The public keys of who signs tokens: a set of them (RFC 7517), in a file (jwks_url.py: behind a URL)."""

from pathlib import Path

import jwt

from app.auth.watched import Watched


class KeyFile:
    def __init__(self, path: Path) -> None:
        """Raises FileError."""
        self._file = Watched(path, parse_key_set)

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        return find(self._file.newest(), key_id)


def parse_key_set(content: bytes) -> list[jwt.PyJWK]:
    """Raises ValueError."""
    try:
        return jwt.PyJWKSet.from_json(content.decode()).keys
    except (jwt.PyJWTError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"this is no JSON Web Key Set: {error}") from error


def find(keys: list[jwt.PyJWK], key_id: str | None) -> jwt.PyJWK | None:
    if key_id is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.key_id == key_id), None)
