"""Gateways that are killed, drained and started again: processes, each on a port that it keeps."""

import asyncio
import os
import random
import resource
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from app.cli.demo import COMMAND, until_ready

READY_SECONDS = 180.0
"""Many start at once, on a machine that has other work."""
DRAIN_SECONDS = 60.0
"""After SIGTERM; then it is a failure."""
PORTS = range(20_000, 32_000)
"""Below those that the system gives to connections: nobody takes one while its gateway is away."""


class GatewayProcess:
    def __init__(self, name: str, settings: dict[str, str], log: Path, command: tuple[str, ...] = COMMAND) -> None:
        """`settings`: its environment, beside this process's own. `log`: what it writes, of all its lives."""
        self.name = name
        self.port = _free_port()
        self._command = command
        self._settings = settings | {"GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": str(self.port)}
        self._log = log
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> int:
        """Resident, in bytes."""
        assert self._process is not None
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    @property
    def cpu_seconds(self) -> float:
        """That it has used, in its code and in the system's."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def threads(self) -> int:
        assert self._process is not None
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    async def start(self) -> None:
        """Until it can serve. Raises GatewayNotReadyError."""
        with self._log.open("a+b") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=os.environ | self._settings, stdin=DEVNULL, stdout=log, stderr=log
            )
            await until_ready(self.url, self._process, log, lambda _: None, READY_SECONDS)

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def drain(self) -> None:
        """SIGTERM, until it has ended. Raises TimeoutError where it does not."""
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(DRAIN_SECONDS):
            await self._process.wait()

    async def stop(self) -> None:
        """However it is."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()


@asynccontextmanager
async def gateways(
    names: str, settings: dict[str, str], logs: Path, command: tuple[str, ...] = COMMAND
) -> AsyncIterator[dict[int, GatewayProcess]]:
    """One for each letter, by port; all can serve."""
    made = [GatewayProcess(name, settings, logs / f"{name}.log", command) for name in names]
    try:
        await asyncio.gather(*[gateway.start() for gateway in made])
        yield {gateway.port: gateway for gateway in made}
    finally:
        await asyncio.gather(*[gateway.stop() for gateway in made])


def roomy(upstream: str) -> dict[str, str]:
    """Settings of a gateway to that scripted upstream, with places for more sessions than anything here opens."""
    limits = dict.fromkeys(("MAX_SESSIONS", "UPSTREAM_STREAMS", "UPSTREAM_STARTS_PER_MINUTE"), "5000")
    return {"GATEWAY_UPSTREAM": f"grpc://{upstream}", **{f"GATEWAY_{name}": value for name, value in limits.items()}}


def _free_port() -> int:
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.choice(PORTS)))
            port: int = probe.getsockname()[1]
            return port
