"""The gateway as a process of its own: `python -m app`, started, watched and ended by a test."""

import asyncio
import os
import re
import select
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.gateway import Gateway

ROOT = Path(__file__).parent.parent
BOUND_SECONDS = 30.0


class Process:
    """`python -m app`, alone in its process group and in an empty folder."""

    def __init__(self, child: asyncio.subprocess.Process, folder: Path) -> None:
        self.child = child
        self.pid = child.pid
        self._log = folder / "stderr"

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    async def gateway(self) -> Gateway:
        """Waits until it serves."""
        assert self.child.stdout is not None
        line = (await self.child.stdout.readline()).decode()
        found = re.search(r":(\d+) ", line)
        assert found, line + self.log
        return Gateway(int(found.group(1)), hub=None)  # type: ignore[arg-type]

    async def ends(self) -> int:
        async with asyncio.timeout(BOUND_SECONDS):
            return await self.child.wait()

    def descendants(self) -> list[int]:
        """The process ids of its children, and of theirs."""
        found = [self.pid]
        for pid in found:
            with open(f"/proc/{pid}/task/{pid}/children") as children:
                found += map(int, children.read().split())
        return found[1:]


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as in app/settings.py; what is not the gateway's own is said in capitals."""
    return {name if name.isupper() else f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}


@asynccontextmanager
async def run_process(folder: Path, *command: str, **settings: Any) -> AsyncIterator[Process]:
    """`command`: what comes after `python -m`; by default the gateway alone."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with open(folder / "stderr", "wb") as log:  # noqa: ASYNC230 - a test's own file
        child = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", *(command or ["app"])],
            env=others | {"PYTHONPATH": str(ROOT), "GATEWAY_PORT": "0"} | environment(settings),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    process = Process(child, folder)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # workers, too
        await child.wait()
        assert child.stdout is not None
        await child.stdout.read()


def watch(pids: list[int]) -> list[int]:
    """As descriptors that become readable when the process ends."""
    return [os.pidfd_open(pid) for pid in pids]


async def all_end(watched: list[int]) -> bool:
    """Whether each of them ends in time."""
    deadline = asyncio.get_running_loop().time() + BOUND_SECONDS
    left = list(watched)
    while left and asyncio.get_running_loop().time() < deadline:
        ended, _, _ = select.select(left, [], [], 0)
        left = [descriptor for descriptor in left if descriptor not in ended]
        await asyncio.sleep(0.01)
    for descriptor in watched:
        os.close(descriptor)
    return not left
