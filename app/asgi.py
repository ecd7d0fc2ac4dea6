"""The service for a worker process, of `GATEWAY_WORKERS` or of uvicorn's own command:

uvicorn --factory app.asgi:create --http app.api.door:DoorProtocol --ws app.api.server:GatewayWebSocket --workers 4
"""

import multiprocessing
import sys

from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from app.api.server import raise_file_limit
from app.garbage import collect_seldom
from app.logs import set_up_log
from app.main import create_app
from app.settings import SettingsError, load_settings


def create() -> FastAPI:
    """A wrong setting ends the process with one clear line, and with it uvicorn's supervisor."""
    try:
        settings = load_settings()
        if multiprocessing.parent_process() is not None:
            settings.check_several_processes()
        set_up_log(settings.log_level)
        app = create_app(settings)
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"captions gateway: {error}\n")
        sys.exit(STARTUP_FAILURE)
    raise_file_limit()
    collect_seldom()
    return app
