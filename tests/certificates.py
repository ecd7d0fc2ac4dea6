"""An authority of the tests' own, and what it issues, as PEM files."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path

    def settings(self, prefix: str = "tls") -> dict[str, Any]:
        return {f"{prefix}_certificate_file": self.certificate, f"{prefix}_key_file": self.key}


class Authority:
    """Its own certificate is `ca`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self._issued = 0
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str) -> Pair:
        """By default for this machine."""
        self._issued += 1
        pair = Pair(self._folder / f"{self._issued}.pem", self._folder / f"{self._issued}.key")
        self.write(pair, *names)
        return pair

    def write(self, pair: Pair, *names: str) -> None:
        """A new one, also where there was one before."""
        leaf = self._authority.issue_cert(*(names or ("127.0.0.1", "localhost")))
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        pair.key.write_bytes(leaf.private_key_pem.bytes())

    def trusted(self) -> ssl.SSLContext:
        """Of a client that trusts it, and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context
