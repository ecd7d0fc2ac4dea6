"""The same upstreams without gRPC's C core: elsewhere.py's and Google over HTTP/2 in pure asyncio."""

import ssl
from collections.abc import Callable

import certifi

from app.http2.channel import Channel, Options
from app.speech.credentials import GoogleAccess, endpoint
from app.speech.pool import CHANNEL_OPTIONS
from app.tls import ChannelTls, load_pair

_MS = dict(CHANNEL_OPTIONS)
_OPTIONS = Options(
    keepalive=_MS["grpc.keepalive_time_ms"] / 1000,
    keepalive_timeout=_MS["grpc.keepalive_timeout_ms"] / 1000,
    reconnect=_MS["grpc.initial_reconnect_backoff_ms"] / 1000,
    max_reconnect=_MS["grpc.max_reconnect_backoff_ms"] / 1000,
)
"""As with the C core."""


def elsewhere(address: str, tls: ChannelTls | None) -> Callable[[], Channel]:
    """What opens a channel to HOST:PORT. Reads the files of `tls`, once. Raises BadPem."""
    context = None if tls is None else _context(tls)
    return lambda: Channel(address, tls=context, options=_OPTIONS)


def google(access: GoogleAccess, location: str) -> Callable[[], Channel]:
    """What opens a channel to the region's endpoint, with credentials that sign themselves."""
    context = _context(ChannelTls(None, None, None))
    credentials = access.authorization
    return lambda: Channel(endpoint(location), tls=context, credentials=credentials, options=_OPTIONS)


def _context(tls: ChannelTls) -> ssl.SSLContext:
    """TLS 1.2 and 1.3, for HTTP/2 alone."""
    context = ssl.create_default_context(cafile=tls.authorities or certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if tls.certificate is not None and tls.key is not None:
        load_pair(context, tls.certificate, tls.key)
    return context
