"""The page's client (app/web/client.js) under Node: a child process that takes commands and tells what it hears."""

import asyncio
import base64
import json
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tests.gateway import START
from tests.test_seams import numbers

NODE = shutil.which("node")
CLIENT = Path(__file__).parent.parent / "app" / "web" / "client.js"
HARNESS = Path(__file__).parent / "node_client.mjs"


class NodeClient:
    """One client. `heard` is every call of its handlers: the name, and with what."""

    def __init__(self, process: Process) -> None:
        self.heard: list[tuple[str, list[Any]]] = []
        self._process = process
        self._ids = count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._news = asyncio.Condition()
        self._over = False

    async def call(self, method: str, *args: Any) -> Any:
        """Waits for the promise that it returns."""
        return await self.begin(method, *args)

    def begin(self, method: str, *args: Any) -> "asyncio.Future[Any]":
        """Does not wait; calls are made in this order."""
        values = [{"base64": base64.b64encode(arg).decode()} if isinstance(arg, bytes) else arg for arg in args]
        return self._say(method=method, args=values)

    async def get(self, name: str) -> Any:
        return await self._say(get=name)

    async def until(self, condition: Callable[[], object]) -> None:
        """Looks after each thing that it heard; a test's own time limit bounds it."""
        async with self._news:
            await self._news.wait_for(lambda: condition() or self._over)
        assert condition(), f"node has ended; the last it heard: {self.heard[-5:]}"

    async def hear(self, kind: str, times: int = 1) -> Any:
        """Waits for so many messages of this kind; returns that one."""
        await self.until(lambda: len(self.told(kind)) >= times)
        return self.told(kind)[times - 1]

    def told(self, kind: str) -> list[Any]:
        """The messages of this kind; of `held`, whether it was."""
        return [values[0] for name, values in self.heard if name == kind]

    @property
    def states(self) -> list[str]:
        return [values[0] for name, values in self.heard if name == "state"]

    @property
    def samples(self) -> list[int]:
        """Those that the finals name."""
        return [n for final in self.told("final") for n in numbers(final["text"])]

    def _say(self, **command: Any) -> "asyncio.Future[Any]":
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **command}).encode() + b"\n")
        return self._answers[number]

    async def read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "on" in message:
                self.heard.append((message["on"], message["values"]))
            else:
                self._answers.pop(message["id"]).set_result(message["value"])
            async with self._news:
                self._news.notify_all()
        self._over = True
        async with self._news:
            self._news.notify_all()


@asynccontextmanager
async def node_client(url: str, folder: Path, **options: Any) -> AsyncIterator[NodeClient]:
    """`options` as in the constructor. The session is the one of tests/gateway.py."""
    assert NODE is not None
    module = folder / "client.mjs"  # a name that says that it is a module, as its media type does in a browser
    module.write_bytes(CLIENT.read_bytes())
    process = await asyncio.create_subprocess_exec(
        NODE, str(HARNESS), str(module), stdin=PIPE, stdout=PIPE, limit=2**20
    )
    client = NodeClient(process)
    reading = asyncio.create_task(client.read())
    start = {name: value for name, value in START.items() if name != "type"}
    try:
        await client._say(options={"url": url, "start": start, **options})
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading
