"""Certificates and keys in PEM files: whether they can be used is told before anybody is served."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


class BadPem(ValueError):
    """A file cannot be used: one line that names it."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Of the gateway's own socket."""

    certificate: Path
    """The chain: the server's own certificate comes first."""
    key: Path
    handshake_seconds: float
    """Who has not finished the handshake by then is dropped."""

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 and 1.3. Raises BadPem."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        load_pair(context, self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class ChannelTls:
    """To an upstream elsewhere."""

    authorities: Path | None
    certificate: Path | None
    key: Path | None


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """A certificate, and the key that fits it. Raises BadPem."""
    _look_into(certificate, "CERTIFICATE-----", "certificate")
    _look_into(key, "PRIVATE KEY-----", "private key")

    def encrypted() -> NoReturn:
        raise BadPem(f"the key in {str(key)!r} is encrypted: nobody is there to type its passphrase")

    try:
        context.load_cert_chain(certificate, key, password=encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadPem(f"the key in {str(key)!r} does not fit the certificate in {str(certificate)!r}") from error
        raise BadPem(f"{str(certificate)!r} with {str(key)!r}: {error.reason or error}") from error


def check_pair(certificate: Path, key: Path) -> None:
    """Raises BadPem."""
    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)


def check_authorities(path: Path) -> None:
    """Certificates of those who may issue others. Raises BadPem."""
    _look_into(path, "CERTIFICATE-----", "certificate")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise BadPem(f"{str(path)!r}: {error.reason or error}") from error


def _look_into(path: Path, mark: str, what: str) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadPem(f"{str(path)!r}: {error.strerror}") from error
    if mark.encode() not in text:
        raise BadPem(f"there is no {what} in PEM in {str(path)!r}")
