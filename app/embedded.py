"""The embedded emulator: `python -m app.emulator` as a child process that lives exactly as long as the gateway.

The child ends when its standard input does, so it does not outlive a gateway that was killed. One that dies is started
again on the same port.
"""

import asyncio
import logging
import sys
from contextlib import suppress

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""The models load in about 1.5 s on an idle core."""
RESTART_SECONDS = 1.0
STOP_SECONDS = 5.0


class EmulatorFailed(Exception):
    """The emulator did not start; its own output has the reason."""


class EmbeddedEmulator:
    """`start` returns the address to connect to."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._spawning: asyncio.Task[asyncio.subprocess.Process] | None = None
        """Goes to its end whatever becomes of who waits for it: a process that nobody knows would stay for ever."""

    async def start(self) -> str:
        """Waits until the emulator serves. Raises EmulatorFailed."""
        address = await self._launch(port=0)
        self._keeper = asyncio.create_task(self._keep(int(address.rpartition(":")[2])))
        return address

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._spawning is not None:
            self._process = await self._spawning
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                with suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    async def _launch(self, port: int) -> str:
        command = [sys.executable, "-m", "app.emulator", "--port", str(port), "--exit-with-stdin"]
        if self._workers:
            command += ["--workers", str(self._workers)]
        spawn = asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for the gateway, which ends its sessions first
        )
        self._spawning = asyncio.create_task(spawn)
        self._process = await asyncio.shield(self._spawning)
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                line = (await self._process.stdout.readline()).decode().strip()
        except TimeoutError:
            line = ""
        if not line.startswith("listening on "):
            with suppress(ProcessLookupError):
                self._process.kill()
            raise EmulatorFailed("the embedded emulator did not start (its own lines are above)")
        return line.removeprefix("listening on ")

    async def _keep(self, port: int) -> None:
        """Starts it again whenever it has ended, until it serves: one that does not has been killed."""
        while True:
            assert self._process is not None
            code = await self._process.wait()
            log.error("the embedded emulator ended with code %s: starting it again", code)
            await asyncio.sleep(RESTART_SECONDS)
            with suppress(EmulatorFailed, OSError):
                await self._launch(port)
