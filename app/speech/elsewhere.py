"""A Speech-to-Text that is not Google's own: an emulator, or a service with the same API, in plaintext or with TLS."""

import ssl
from collections.abc import Callable, Sequence
from typing import Any

import certifi
import grpc

from app.http2.channel import Channel
from app.tls import ChannelTls, load_pair


def pure_connector(address: str, tls: ChannelTls | None) -> Callable[[], Channel]:
    """As `connector`, without gRPC's C core. Raises BadPem."""
    context = None if tls is None else http2_context(tls)
    return lambda: Channel(address, tls=context)


def http2_context(tls: ChannelTls) -> ssl.SSLContext:
    """TLS 1.2 and 1.3, for HTTP/2 alone. Raises BadPem."""
    context = ssl.create_default_context(cafile=tls.authorities or certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if tls.certificate is not None and tls.key is not None:
        load_pair(context, tls.certificate, tls.key)
    return context


def connector(address: str, tls: ChannelTls | None, options: Sequence[tuple[str, Any]]) -> Callable[[], Any]:
    """What opens a channel to HOST:PORT. Reads the files of `tls`, once."""
    if tls is None:
        return lambda: grpc.aio.insecure_channel(address, options=options)
    authorities, key, certificate = (
        path.read_bytes() if path else None for path in (tls.authorities, tls.key, tls.certificate)
    )
    credentials = grpc.ssl_channel_credentials(authorities, key, certificate)
    return lambda: grpc.aio.secure_channel(address, credentials, options=options)
