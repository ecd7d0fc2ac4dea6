"""API keys: a file with the name and the hash of each, read anew when it changes. The keys themselves are kept nowhere.

A key is 256 random bits, so one round of SHA-256 is enough: there is nothing to guess, and no dictionary of such keys.
"""

import hashlib
import secrets
from hmac import compare_digest
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from app.auth.watched import Watched
from app.core.errors import SessionError
from app.core.grant import Allowance, Bounds, Grant, Right

PREFIX = "cgk_"
NAME = r"^[A-Za-z0-9._-]{1,64}\Z"
Name = Annotated[str, Meta(pattern=NAME, description="1 to 64 letters, digits, dots, hyphens, underscores")]


class Key(Allowance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry. Names are the principals: `key:NAME`."""

    name: Name
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hexadecimal digits")]
    rights: frozenset[Right] = frozenset({"speak", "mint"})
    max_session_seconds: Annotated[float, Meta(gt=0)] | None = None
    language_codes: tuple[str, ...] | None = None

    @property
    def grant(self) -> Grant:
        allowance = Allowance(**{name: getattr(self, name) for name in Allowance.__struct_fields__})
        bounds = Bounds(max_session_seconds=self.max_session_seconds, language_codes=self.language_codes)
        return Grant(principal=f"key:{self.name}", rights=self.rights, allowance=allowance, bounds=bounds)


class _File(Struct, forbid_unknown_fields=True):
    keys: list[Key]


class ApiKeys:
    def __init__(self, path: Path) -> None:
        """Raises FileError."""
        self._file = Watched(path, _parse)

    def check(self, key: str) -> Grant:
        """Raises SessionError. Looks at every entry, and at all of its hash: how long it takes tells nothing."""
        digest = fingerprint(key)
        found = [entry for entry in self._file.newest() if compare_digest(entry.sha256, digest)]
        if not found:
            raise SessionError("unauthenticated", "this API key is not known, or not any more")
        return found[0].grant

    def of(self, principal: str) -> Grant | None:
        """What the principal has now; none where its key was taken away."""
        grants = [entry.grant for entry in self._file.newest()]
        return next((grant for grant in grants if grant.principal == principal), None)


def new_key(name: str) -> tuple[str, str]:
    """A key, and the entry of the file for it."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f'[[keys]]\nname = "{name}"\nsha256 = "{fingerprint(key)}"\n'


def fingerprint(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _parse(content: bytes) -> list[Key]:
    """Raises ValueError."""
    keys = msgspec.toml.decode(content, type=_File).keys
    for member in ("name", "sha256"):
        values = [getattr(key, member) for key in keys]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"{member} {twice[0]} stands there more than once")
    return keys
