"""Runs the gateway: `python -m app`, or `transcribe serve`."""

import sys

from fastapi import FastAPI
from uvicorn import Config
from uvicorn.supervisors import Multiprocess

from app.api.server import GatewayServer, listen, raise_file_limit, uvicorn_config
from app.garbage import collect_seldom
from app.logs import set_up_log
from app.settings import Settings, SettingsError, load_settings


def main() -> None:
    """Until SIGTERM or Ctrl-C. A wrong setting stops the start with one clear line and exit status 2."""
    try:
        settings = load_settings()
        run(settings)
    except SettingsError as error:
        sys.exit(_complain(str(error)))
    except OSError as error:
        sys.exit(_complain(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"))


def run(settings: Settings) -> None:
    raise_file_limit()
    if settings.workers > 1:
        _run_workers(settings)
        return
    from app.main import create_app  # noqa: PLC0415 - a wrong setting is told before seconds of imports

    set_up_log(settings.log_level)
    app = create_app(settings)
    listener = listen(settings.host, settings.port)
    collect_seldom()
    serving = GatewayServer(_config(app, settings))
    serving.on_started = lambda: _greet(settings, listener.getsockname()[1])
    serving.run(sockets=[listener])
    if not serving.started:
        sys.exit(1)


def _run_workers(settings: Settings) -> None:
    """uvicorn starts them, starts those again that die, and replaces them one by one at SIGHUP."""
    set_up_log(settings.log_level)
    listener = listen(settings.host, settings.port)
    _greet(settings, listener.getsockname()[1])
    Multiprocess(_config("app.asgi:create_worker", settings), sockets=[listener]).run()


def _config(app: FastAPI | str, settings: Settings) -> Config:
    return uvicorn_config(
        app,
        ping_interval=settings.ping_interval_seconds,
        ping_timeout=settings.ping_timeout_seconds,
        trusted_proxies=settings.trusted_proxies,
        tls=settings.tls,
        workers=settings.workers,
    )


def _greet(settings: Settings, port: int) -> None:
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    here = f"{'s' if settings.tls else ''}://{host}:{port}"
    print(f"captions gateway: http{here}  (upstream: {settings.upstream}, API {settings.speech_api})")
    token = " --token-file FILE" if settings.asks_who else ""
    print(f"  in a browser:            http{here}")
    print(f"  in a second terminal:    .venv/bin/transcribe sample --url ws{here}/ws/transcribe{token}")
    print("  Ctrl-C stops it", flush=True)


def _complain(message: str) -> int:
    print(f"captions gateway: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
