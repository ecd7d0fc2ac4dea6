"""Everybody comes back at once: many sessions on one gateway lose their connections in the same moment and resume.

None may be lost, and the gateway's event loop may not stand still meanwhile: who is streaming would notice.
"""

import argparse
import asyncio
import json
import random
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvloop
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.gateways import gateways
from bench.runs import BYTES_PER_SECOND, FRAME

START = {
    "type": "start",
    "audio": {"encoding": "LINEAR16", "sample_rate_hertz": 16000},
    "language_codes": ["en-US"],
}
STEADY_SECONDS = 10.0
"""Before the storm, and after it."""
BACK_SECONDS = 10.0
MAX_STALL_MS = 100.0
JITTER_SECONDS = 0.1
"""A client library waits up to so long before its first attempt."""
AT_A_TIME = 20
"""Sessions that are opened."""
KEEPALIVE_SECONDS = 20.0
OPEN_FILES = 20_000


@dataclass
class Caller:
    """A client with one session."""

    url: str
    streams: bool
    sent: int = 0
    acked: int = 0
    last_event: int = 0
    resumed: bool = False
    wrong: list[str] = field(default_factory=list)
    _hello: dict[str, Any] = field(default_factory=dict)
    _socket: ClientConnection | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def begin(self) -> None:
        await self._open(START)

    async def resume(self) -> None:
        await asyncio.sleep(random.random() * JITTER_SECONDS)
        hello = self._hello
        asked = {name: hello[name] for name in ("session_id", "resume_token")}
        answer = await self._open({"type": "resume", "last_event": self.last_event, **asked})
        if answer["type"] != "resumed":
            self.wrong.append(f"resume was answered {answer}")
        elif not self.acked <= answer["offset"] <= self.sent:
            self.wrong.append(f"offset {answer['offset']}: sent {self.sent}, of which {self.acked} were acknowledged")
        else:
            self.resumed = True

    async def drop(self) -> None:
        """Without a word."""
        assert self._socket is not None
        self._socket.transport.abort()
        await self._rest()

    async def stop(self) -> None:
        """In good order; what was said must be all there."""
        assert self._socket is not None
        self._tasks[-1].cancel()
        await self._socket.send('{"type": "stop"}')
        with suppress(ConnectionClosed):
            await self._tasks[0]
        if self._hello.get("type") != "stopped" or self._hello["audio_ms"] != self.sent * 1000 // BYTES_PER_SECOND:
            self.wrong.append(f"{self.sent} bytes ended with {self._hello}")
        await self._rest()

    async def _open(self, first: dict[str, Any]) -> dict[str, Any]:
        self._socket = await connect(self.url, compression=None, open_timeout=60, ping_interval=None, proxy=None)
        await self._socket.send(json.dumps(first))
        answer: dict[str, Any] = json.loads(await self._socket.recv())
        self._hello |= answer
        self.sent = self.acked = answer.get("offset", 0)
        work = (self._hear(), self._speak()) if self.streams else (self._hear(), self._keep_alive())
        self._tasks = [asyncio.create_task(each) for each in work]
        return answer

    async def _rest(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hear(self) -> None:
        assert self._socket is not None
        with suppress(ConnectionClosed):
            while True:
                self._take(json.loads(await self._socket.recv()))

    def _take(self, message: dict[str, Any]) -> None:
        self.acked = message.get("received", self.acked)
        if message["type"] in {"stopped", "error"}:
            self._hello |= message
        if "event" in message:
            if message["event"] != self.last_event + 1:
                self.wrong.append(f"event {message['event']} after {self.last_event}")
            self.last_event = message["event"]

    async def _speak(self) -> None:
        assert self._socket is not None
        clock = asyncio.get_running_loop().time
        due = clock() + random.random() * 0.1
        frame = bytes(FRAME)
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(due - clock())
                due += 0.1
                self.sent += FRAME
                await self._socket.send(frame)

    async def _keep_alive(self) -> None:
        assert self._socket is not None
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(KEEPALIVE_SECONDS)
                await self._socket.send('{"type": "keepalive"}')


@dataclass(frozen=True, slots=True)
class Weather:
    """How it went."""

    resumed: int
    lost: int
    seconds: float
    """Until the last one was back."""
    calm: dict[str, float]
    storm: dict[str, float]

    @property
    def good(self) -> bool:
        return not self.lost and self.seconds <= BACK_SECONDS and self.storm["stall"] <= MAX_STALL_MS

    def cells(self) -> dict[str, str]:
        return {
            "resumed": str(self.resumed),
            "lost": str(self.lost),
            "last one back": f"{self.seconds:.1f} s",
            "longest stall": f"{self.storm['stall']:.0f} ms",
            "busy in it": f"{self.storm['busy']:.0f} ms",
            "collecting": f"{self.storm['collection']:.0f} ms",
            "stall before": f"{self.calm['stall']:.0f} ms",
        }


async def storm(idle: int, streaming: int) -> Weather:
    clock = asyncio.get_running_loop().time
    async with _gateway() as (url, stall):
        callers = [Caller(url, streams=number < streaming) for number in range(idle + streaming)]
        random.shuffle(callers)
        await _some_at_a_time(caller.begin() for caller in callers)
        await stall()
        await asyncio.sleep(STEADY_SECONDS)
        calm = await stall()
        await asyncio.gather(*[caller.drop() for caller in callers])
        began = clock()
        await asyncio.gather(*[caller.resume() for caller in callers])
        seconds = clock() - began
        await asyncio.sleep(STEADY_SECONDS)
        stormy = await stall()
        await _some_at_a_time(caller.stop() for caller in callers)
    for wrong in [caller.wrong[0] for caller in callers if caller.wrong]:
        print(wrong, file=sys.stderr)
    resumed = sum(caller.resumed for caller in callers)
    lost = sum(bool(caller.wrong) or not caller.resumed for caller in callers)
    return Weather(resumed, lost, seconds, calm, stormy)


@asynccontextmanager
async def _gateway() -> AsyncIterator[tuple[str, Callable[[], Awaitable[dict[str, float]]]]]:
    """Where to call it, and how long it stood still since that was asked last."""
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory()))
        settings = _settings(await stack.enter_async_context(_upstream()))
        command = (sys.executable, "-m", "bench.probe")
        (gateway,) = (await stack.enter_async_context(gateways("A", settings, logs, command))).values()
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=60))

        async def stall() -> dict[str, float]:
            report: dict[str, float] = (await http.get(f"{gateway.url}/stall")).json()
            return report

        yield gateway.url.replace("http", "ws") + "/ws/transcribe", stall


async def _some_at_a_time(work: Iterable[Coroutine[None, None, None]]) -> None:
    turn = asyncio.Semaphore(AT_A_TIME)

    async def one(each: Coroutine[None, None, None]) -> None:
        async with turn:
            await each

    await asyncio.gather(*[one(each) for each in work])


def _settings(upstream: str) -> dict[str, str]:
    return {"GATEWAY_UPSTREAM": f"grpc://{upstream}", "GATEWAY_MAX_SESSIONS": "5000", "GATEWAY_LOG_LEVEL": "WARNING"}


@asynccontextmanager
async def _upstream() -> AsyncIterator[str]:
    """In a process of its own."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.upstream", stdout=pipe)
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


def _raise_open_files() -> None:
    """A child process inherits it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, most), most))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description=__doc__)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--streaming", type=int, default=200)
    options = parser.parse_args()
    _raise_open_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        weather = runner.run(storm(options.idle, options.streaming))
    table = Table(
        title=f"{options.idle} idle and {options.streaming} streaming sessions lose their connections at once"
    )
    for column in weather.cells():
        table.add_column(column, justify="right")
    table.add_row(*weather.cells().values())
    Console(width=110).print(table)
    return 0 if weather.good else 1


if __name__ == "__main__":
    sys.exit(main())
