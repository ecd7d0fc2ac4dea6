"""Processes beside a gateway: each says one line when it is ready, and runs until it is ended. Some can be asked more:
a line with a command, which they answer with one line of JSON.
"""

import asyncio
import json
import sys
from abc import ABC, abstractmethod
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

LINE_BYTES = 64 * 1024 * 1024
"""An answer may have thousands of delays."""


class Helper:
    """One that can be asked."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def said(self) -> str:
        """The next line. Raises ChildProcessError where it has ended."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise ChildProcessError("a helper has ended: see what it wrote to standard error")
        return line.decode().strip()

    async def ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        return json.loads(await self.said())


class Tool(ABC):
    """What such a process does."""

    @abstractmethod
    async def start(self) -> str:
        """Until it can be asked. Returns what it says first."""

    @abstractmethod
    async def obey(self, command: str) -> Any:
        """Returns the answer."""


async def serve_tool(tool: Tool) -> None:
    """In its process, until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(await tool.start(), flush=True)
    while command := (await reader.readline()).decode().strip():
        print(json.dumps(await tool.obey(command)), flush=True)


@asynccontextmanager
async def helper(module: str, *arguments: str) -> AsyncIterator[str]:
    """What it said."""
    async with asked(module, *arguments) as (_, said):
        yield said


@asynccontextmanager
async def asked(module: str, *arguments: str) -> AsyncIterator[tuple[Helper, str]]:
    """It, and what it said. Raises ChildProcessError where it has ended by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES
    )
    try:
        made = Helper(process)
        yield made, await made.said()
        if process.returncode is not None:
            raise ChildProcessError(f"{module} has ended: see what it wrote to standard error")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
