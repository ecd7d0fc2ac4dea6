"""A Speech-to-Text that is not Google's own: an emulator, or a service with the same API, in plaintext or with TLS."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from app.tls import ChannelTls


def connector(address: str, tls: ChannelTls | None, options: Sequence[tuple[str, Any]]) -> Callable[[], Any]:
    """What opens a channel to HOST:PORT. Reads the files of `tls`, once."""
    if tls is None:
        return lambda: grpc.aio.insecure_channel(address, options=options)
    authorities, key, certificate = (
        path.read_bytes() if path else None for path in (tls.authorities, tls.key, tls.certificate)
    )
    credentials = grpc.ssl_channel_credentials(authorities, key, certificate)
    return lambda: grpc.aio.secure_channel(address, credentials, options=options)
