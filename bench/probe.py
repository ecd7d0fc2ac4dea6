"""`python -m bench.probe`: a gateway as `python -m app` runs it, which also tells how late its event loop was.

`GET /stall` answers the worst since the last time it was asked.
"""

import asyncio
import gc
import time
from typing import Any

from app.api.server import GatewayServer, listen, uvicorn_config
from app.asgi import create
from app.settings import load_settings

TICK_SECONDS = 0.01


class Probe:
    """A timer that notes how late it is."""

    def __init__(self) -> None:
        self._late = 0.0
        self._busy = 0.0
        """Of the loop's own work between two ticks: what a stall is longer, the machine has given to somebody else."""
        self._collecting = 0.0
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None
        gc.callbacks.append(self._on_collection)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def report(self) -> dict[str, float]:
        """In milliseconds, since the last report."""
        said = {"stall": self._late, "busy": self._busy, "collection": self._collecting}
        self._late = self._busy = self._collecting = 0.0
        return {name: round(1000 * seconds, 1) for name, seconds in said.items()}

    async def _run(self) -> None:
        while True:
            began, worked = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_SECONDS)
            self._late = max(self._late, time.perf_counter() - began - TICK_SECONDS)
            self._busy = max(self._busy, time.thread_time() - worked)

    def _on_collection(self, phase: str, _: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._collecting = max(self._collecting, time.perf_counter() - self._began)


def main() -> None:
    settings = load_settings()
    app, probe = create(), Probe()

    @app.get("/stall")
    async def stall() -> dict[str, float]:
        return probe.report()

    config = uvicorn_config(
        app,
        ping_interval=settings.ping_interval_seconds,
        ping_timeout=settings.ping_timeout_seconds,
        trusted_proxies=settings.trusted_proxies,
    )
    serving = GatewayServer(config)
    serving.on_started = probe.start
    serving.run(sockets=[listen(settings.host, settings.port)])


if __name__ == "__main__":
    main()
