"""Everybody comes back at once: many sessions on one gateway lose their connections in the same moment and resume.

None may be lost, and the gateway's event loop may not stand still meanwhile: who is streaming would notice.
"""

import argparse
import asyncio
import random
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import uvloop
from rich.console import Console
from rich.table import Table

from bench.callers import Caller
from bench.gateways import gateways, roomy
from bench.helpers import helper

STEADY_SECONDS = 10.0
"""Before the storm, and after it."""
BACK_SECONDS = 10.0
MAX_STALL_MS = 100.0
AT_A_TIME = 20
"""Sessions that are opened."""
OPEN_FILES = 20_000


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
        upstream = await stack.enter_async_context(helper("bench.upstream"))
        settings = roomy(upstream) | {"GATEWAY_LOG_LEVEL": "WARNING"}
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
