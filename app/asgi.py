"""The service for a worker process, of `GATEWAY_WORKERS` or of uvicorn's own command:

uvicorn --factory app.asgi:create --http app.api.door:DoorProtocol --ws app.api.websocket:GatewayWebSocket --workers 4
"""

import multiprocessing
import sys
from collections.abc import Callable

from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from app.api.server import raise_file_limit
from app.garbage import collect_seldom
from app.logs import set_up_log
from app.main import create_app
from app.settings import Settings, SettingsError, load_settings


def create() -> FastAPI:
    """For uvicorn's own command, which brings the socket and its TLS."""
    return _create(_check_uvicorns)


def create_worker() -> FastAPI:
    """For `GATEWAY_WORKERS`."""
    return _create(Settings.check_several_processes)


def _create(check: Callable[[Settings], None]) -> FastAPI:
    """A wrong setting ends the process with one clear line, and with it uvicorn's supervisor."""
    try:
        settings = load_settings()
        check(settings)
        set_up_log(settings.log_level)
        app = create_app(settings)
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"captions gateway: {error}\n")
        sys.exit(STARTUP_FAILURE)
    raise_file_limit()
    collect_seldom()
    return app


def _check_uvicorns(settings: Settings) -> None:
    """Raises ValueError; never serves in plaintext who has asked for TLS."""
    if settings.tls is not None:
        raise ValueError("uvicorn's own command takes --ssl-certfile and --ssl-keyfile, not GATEWAY_TLS_*")
    if multiprocessing.parent_process() is not None:
        settings.check_several_processes()
