"""TLS at the gateway's own socket: what uvicorn leaves open."""

import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.api.acceptor import AcceptingLoop
from app.tls import BadPem, ServerTls

HSTS = ("Strict-Transport-Security", "max-age=31536000")
"""Browsers come back by TLS alone, for a year."""


class TlsConfig(uvicorn.Config):
    """uvicorn's, with `tls`: also in worker processes, which read certificate and key anew."""

    def __init__(self, *args: Any, tls: ServerTls | None, **more: Any) -> None:
        self.tls = tls
        if tls is not None:
            more |= {"ssl_context_factory": _context, "headers": [HSTS]}
        super().__init__(*args, **more)

    def get_loop_factory(self) -> Callable[[], Any]:
        return partial(AcceptingLoop, self.tls.handshake_seconds if self.tls else None)


def _context(config: uvicorn.Config, _: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Ends a worker whose files have gone bad meanwhile; its supervisor keeps those that serve."""
    assert isinstance(config, TlsConfig) and config.tls
    try:
        return config.tls.context()
    except BadPem as error:
        sys.stderr.write(f"captions gateway: {error}\n")
        sys.exit(STARTUP_FAILURE)
