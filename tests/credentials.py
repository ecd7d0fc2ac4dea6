"""Credentials of every kind, in every state: what a gateway is set up with, and what is presented to it."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from app.auth.keys import new_key

SECRET = "a secret of thirty-two bytes or more"
AUDIENCE = "captions"
HOUR = 3600


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """To make one takes a while."""
    assert name
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    assert name
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Keyring:
    """Files in `folder`; `settings` are those of a gateway that takes what this makes."""

    folder: Path
    keys: dict[str, str] = field(default_factory=dict)
    _entries: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add("app")
        self.add("other")
        self.add("ops", 'rights = ["operate"]')
        public_rsa = RSAAlgorithm.to_jwk(rsa_key("ours").public_key(), as_dict=True) | {"kid": "r", "alg": "RS256"}
        public_ec = ECAlgorithm.to_jwk(ec_key("ours").public_key(), as_dict=True) | {"kid": "e", "alg": "ES256"}
        self.jwks.write_text(json.dumps({"keys": [public_rsa, public_ec]}))

    @property
    def jwks(self) -> Path:
        return self.folder / "jwks.json"

    @property
    def file(self) -> Path:
        return self.folder / "keys.toml"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "api_keys_file": self.file,
            "jwt_secret": SECRET,
            "jwt_jwks": str(self.jwks),
            "jwt_audience": AUDIENCE,
        }

    def add(self, name: str, more: str = "") -> str:
        """A new API key with this name, in place of an old one."""
        self.keys[name], entry = new_key(name)
        self._entries[name] = f"{entry}{more}\n"
        self._write()
        return self.keys[name]

    def revoke(self, name: str) -> None:
        del self._entries[name]
        self._write()

    def signed(self, algorithm: str = "HS256", *, key: Any = None, key_id: str | None = None, **claims: Any) -> str:
        """A token that is good for an hour, but for what is said otherwise; a claim that is None is left out."""
        usual: dict[str, tuple[Any, str | None]] = {
            "HS256": (SECRET, None),
            "RS256": (rsa_key("ours"), "r"),
            "ES256": (ec_key("ours"), "e"),
        }
        usual_key, usual_id = usual.get(algorithm, (None, None))
        payload = {"sub": "somebody", "aud": AUDIENCE, "exp": int(time.time()) + HOUR} | claims
        headers = {"kid": key_id or usual_id} if key_id or usual_id else None
        left = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode(left, key or usual_key, algorithm=algorithm, headers=headers)

    def _write(self) -> None:
        """In one step, as an operator should."""
        new = self.file.with_suffix(".new")
        new.write_text("\n".join(self._entries.values()))
        new.replace(self.file)
