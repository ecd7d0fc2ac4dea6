"""A gateway of one's own for a while: a child process on a free port of this machine, stopped at the end.

The child has a process group of its own, so that Ctrl-C reaches the one who talks to it and not the gateway: it lives
until the last captions have come.
"""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from tempfile import TemporaryFile
from typing import IO

import httpx

READY_SECONDS = 60.0
POLL_SECONDS = 0.2
STOP_SECONDS = 15.0
LOG_TAIL_LINES = 15
NOT_LISTENING = "it does not listen yet"
COMMAND = (sys.executable, "-m", "app")


class GatewayNotReadyError(Exception):
    """The gateway ended, or was not ready in time; the message says so and shows the end of its log."""


@asynccontextmanager
async def own_gateway(say: Callable[[str], None], command: tuple[str, ...] = COMMAND) -> AsyncIterator[str]:
    """Yields the base URL, http://127.0.0.1:port, once `/readyz` answers 200. `say` hears what is waited for.

    Raises GatewayNotReadyError.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, "GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)},
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            say(f"starting a gateway on {url}, waiting until it can serve")
            await until_ready(url, process, log, say)
            yield url
        finally:
            await _stop(process)


async def until_ready(
    url: str, process: Process, log: IO[bytes], say: Callable[[str], None], seconds: float = READY_SECONDS
) -> None:
    """Until `/readyz` answers 200. Raises GatewayNotReadyError."""
    heard = NOT_LISTENING  # at first that is no news
    try:
        async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False) as http:
            while (answer := await _ask(http, url)) != "ready":
                if process.returncode is not None:
                    raise GatewayNotReadyError(f"the gateway ended with code {process.returncode}{_tail(log)}")
                if answer != heard:
                    heard = answer
                    say(f"not ready yet: {answer}")
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise GatewayNotReadyError(f"the gateway was not ready in {seconds:.0f} s ({heard}){_tail(log)}") from None


async def _ask(http: httpx.AsyncClient, url: str) -> str:
    try:
        answer = await http.get(f"{url}/readyz")
    except httpx.TransportError:
        return NOT_LISTENING
    return "ready" if answer.status_code == 200 else f"/readyz says {answer.status_code} {answer.text.strip()}"


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever is left, and its recognizers with it
        await process.wait()


def _free_port() -> int:
    """Free now. That it still is when the child binds it is likely, not certain."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "".join(f"\n  {line}" for line in lines)
