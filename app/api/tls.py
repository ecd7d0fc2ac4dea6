"""TLS at the gateway's own socket: what uvicorn leaves open. It knows no time limits of a handshake, or of its end: the
loop that it runs on gets them.
"""

import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
import uvloop
from uvicorn.config import STARTUP_FAILURE

from app.tls import BadPem, ServerTls

CLOSE_SECONDS = 3.0
"""A peer that does not answer the end of TLS is left after so long."""
HSTS = ("Strict-Transport-Security", "max-age=31536000")
"""Browsers come back by TLS alone, for a year."""


class TlsLoop(uvloop.Loop):
    """Its own limits would be 60 s and 30 s: of a connection that costs 40 kB before a byte of HTTP is seen."""

    def __init__(self, handshake_seconds: float) -> None:
        super().__init__()
        self._limits = {"ssl_handshake_timeout": handshake_seconds, "ssl_shutdown_timeout": CLOSE_SECONDS}

    async def create_server(self, *args: Any, **more: Any) -> Any:
        create: Any = super().create_server
        return await create(*args, **more, **(self._limits if more.get("ssl") else {}))


class TlsConfig(uvicorn.Config):
    """uvicorn's, with `tls`: also in worker processes, which read certificate and key anew."""

    def __init__(self, *args: Any, tls: ServerTls | None, **more: Any) -> None:
        self.tls = tls
        if tls is not None:
            more |= {"ssl_context_factory": _context, "headers": [HSTS]}
        super().__init__(*args, **more)

    def get_loop_factory(self) -> Callable[[], Any] | None:
        return partial(TlsLoop, self.tls.handshake_seconds) if self.tls else super().get_loop_factory()


def _context(config: uvicorn.Config, _: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Ends a worker whose files have gone bad meanwhile; its supervisor keeps those that serve."""
    assert isinstance(config, TlsConfig) and config.tls
    try:
        return config.tls.context()
    except BadPem as error:
        sys.stderr.write(f"captions gateway: {error}\n")
        sys.exit(STARTUP_FAILURE)
