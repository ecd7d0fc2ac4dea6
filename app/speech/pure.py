"""The same upstreams without gRPC's C core: elsewhere.py's and Google over HTTP/2 in pure asyncio."""

import ssl
from collections.abc import Callable

import certifi

from app.http2.channel import Channel
from app.speech.credentials import GoogleAccess, endpoint
from app.tls import ChannelTls, load_pair


def elsewhere(address: str, tls: ChannelTls | None) -> Callable[[], Channel]:
    """What opens a channel to HOST:PORT. Reads the files of `tls`, once. Raises BadPem."""
    context = None if tls is None else _context(tls)
    return lambda: Channel(address, tls=context)


def google(access: GoogleAccess, location: str) -> Callable[[], Channel]:
    """What opens a channel to the region's endpoint, with credentials that sign themselves."""
    context = _context(ChannelTls(None, None, None))
    return lambda: Channel(endpoint(location), tls=context, credentials=access.authorization)


def _context(tls: ChannelTls) -> ssl.SSLContext:
    """TLS 1.2 and 1.3, for HTTP/2 alone."""
    context = ssl.create_default_context(cafile=tls.authorities or certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if tls.certificate is not None and tls.key is not None:
        load_pair(context, tls.certificate, tls.key)
    return context
