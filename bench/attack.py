"""One attacker at each limit in turn, beside 50 sessions that stream: what they notice of it.

Each row has a gateway of its own: three seconds without the attacker and three with it, three times. A session's delay
is from the frame that it sends to the final that covers it, which the upstream says at once. Of the three, the median
counts: the machine stands still at times, whoever is there. Exits 1 where the p99 with the attacker is more than twice
the one without (which counts as 5 ms at least, against noise), where a byte was lost or heard twice, or where the
gateway's memory did not come back.
"""

import argparse
import asyncio
import random
import resource
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import httpx
import uvloop
from rich.console import Console
from rich.table import Table
from websockets.exceptions import ConnectionClosed

from bench.attackers import WAYS
from bench.callers import Caller
from bench.gateways import GatewayProcess, gateways
from bench.helpers import helper
from bench.runs import FRAME
from tests.credentials import Keyring

SESSIONS = 50
ROUNDS = 3
PHASE_SECONDS = 3.0
SETTLE_SECONDS = 0.5
"""Between two phases, with nobody measured: the attacker has come, or what it left is read."""
MOST = 2.0
"""Times the p99 without the attacker."""
LEAST_P99_MS = 5.0
FREED_SECONDS = 40.0
"""In which memory comes back: what sessions leave is kept for ten of them."""
GROWTH_BYTES = 16 * 1024 * 1024
"""What Python's allocator may keep of the peaks of a row, compared with the level before it."""
SETTINGS = {
    "GATEWAY_LOG_LEVEL": "WARNING",
    "GATEWAY_RESUME_WINDOW_SECONDS": "5",
    "GATEWAY_RETENTION_SECONDS": "5",
}


@dataclass
class Speaker(Caller):
    """Notes when each frame was said, and when its final came."""

    delays: list[tuple[float, float]] = field(default_factory=list)
    """When it was said, and the seconds till it was heard."""
    _said: list[float] = field(default_factory=list)
    _heard: int = 0
    """Bytes of which the finals came."""

    def _take(self, message: dict[str, Any]) -> None:
        super()._take(message)
        if message["type"] == "gap":
            self.wrong.append(f"a gap: {message}")
        elif message["type"] == "final":
            self._take_final(message["text"])

    def _take_final(self, text: str) -> None:
        first, end = map(int, text.split("-"))
        if first != self._heard:
            self.wrong.append(f"heard {text} after {self._heard}")
        self._heard = end
        said = self._said[-(-end // FRAME) - 1]
        self.delays.append((said, perf_counter() - said))

    async def _speak(self) -> None:
        assert self._socket is not None
        clock = asyncio.get_running_loop().time
        due = clock() + random.random() * 0.1
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(due - clock())
                due += 0.1
                self.sent += FRAME
                self._said.append(perf_counter())
                await self._socket.send(bytes(FRAME))

    async def stop(self) -> None:
        await super().stop()
        if self._heard != self.sent:
            self.wrong.append(f"{self._heard} of {self.sent} bytes were heard")


class Phase(NamedTuple):
    """From when to when, and what the gateway did in it."""

    began: float
    ended: float
    busy: float
    """Its longest piece of work, in milliseconds of its own CPU time."""
    cpu: float
    """How much of a core it used, in percent."""


class Spread(NamedTuple):
    """Delays in milliseconds; of its phases the median."""

    p50: float
    p99: float
    busy: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """How it went."""

    name: str
    without: Spread
    beside: Spread
    wrong: list[str]
    before: int
    after: int
    """Bytes of memory."""

    @property
    def ratio(self) -> float:
        return self.beside.p99 / max(self.without.p99, LEAST_P99_MS)

    @property
    def good(self) -> bool:
        return self.ratio <= MOST and not self.wrong and self.after <= self.before + GROWTH_BYTES

    def cells(self) -> list[str]:
        delays = [f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in (*self.without, *self.beside)]
        memory = [f"{value / 1e6:.0f}" for value in (self.before, self.after)]
        return [self.name, *delays, f"{self.ratio:.1f}", str(len(self.wrong)), *memory, "" if self.good else "bad"]


COLUMNS = ("attacker", *("p50", "p99", "busy", "cpu") * 2, "ratio", "lost", "MB", "after", "")


@dataclass(frozen=True)
class Probed:
    """A gateway that tells how long its loop was busy (bench/probe.py)."""

    process: GatewayProcess
    http: httpx.AsyncClient

    async def busy(self) -> float:
        """The longest since the last time."""
        report: dict[str, float] = (await self.http.get(f"{self.process.url}/stall")).json()
        return report["busy"]


@asynccontextmanager
async def _gateway(ring: Keyring) -> AsyncIterator[Probed]:
    keys = {"GATEWAY_API_KEYS_FILE": str(ring.file)}
    async with helper("bench.upstream", str(FRAME)) as upstream:
        settings = SETTINGS | keys | {"GATEWAY_UPSTREAM": f"grpc://{upstream}"}
        command = (sys.executable, "-m", "bench.probe")
        async with gateways("A", settings, ring.folder, command) as started, httpx.AsyncClient(trust_env=False) as http:
            (process,) = started.values()
            yield Probed(process, http)


async def attack(name: str, gateway: Probed, ring: Keyring) -> Row:
    process = gateway.process
    await _stop(await _begin(process, ring))  # whatever is made once, is made
    before = process.memory
    speakers = await _begin(process, ring)
    phases: dict[bool, list[Phase]] = {False: [], True: []}
    for _ in range(ROUNDS):
        phases[False].append(await _phase(gateway))
        async with helper("bench.attackers", name, str(process.port), ring.keys["attacker"]):
            phases[True].append(await _phase(gateway))
    await asyncio.sleep(SETTLE_SECONDS)
    await _stop(speakers)
    without, beside = (_spread(speakers, phases[attacked]) for attacked in (False, True))
    wrong = [speaker.wrong[0] for speaker in speakers if speaker.wrong]
    return Row(name, without, beside, wrong, before, await _freed(process, before))


async def _begin(process: GatewayProcess, ring: Keyring) -> list[Speaker]:
    url = process.url.replace("http", "ws") + "/ws/transcribe"
    honest = {"Authorization": f"Bearer {ring.keys['app']}"}
    speakers = [Speaker(url, streams=True, headers=honest) for _ in range(SESSIONS)]
    await asyncio.gather(*[speaker.begin() for speaker in speakers])
    await asyncio.sleep(SETTLE_SECONDS)
    return speakers


async def _stop(speakers: list[Speaker]) -> None:
    await asyncio.gather(*[speaker.stop() for speaker in speakers])


async def _phase(gateway: Probed) -> Phase:
    await asyncio.sleep(SETTLE_SECONDS)
    await gateway.busy()
    began, used = perf_counter(), gateway.process.cpu_seconds
    await asyncio.sleep(PHASE_SECONDS)
    ended = perf_counter()
    cpu = 100 * (gateway.process.cpu_seconds - used) / (ended - began)
    return Phase(began, ended, await gateway.busy(), cpu)


def _spread(speakers: list[Speaker], phases: list[Phase]) -> Spread:
    """Of the frames that were said within these phases."""
    each = []
    for phase in phases:
        delays = [
            1000 * delay for speaker in speakers for said, delay in speaker.delays if phase.began <= said < phase.ended
        ]
        hundredths = statistics.quantiles(delays, n=100)
        each.append((hundredths[49], hundredths[98], phase.busy, phase.cpu))
    return Spread(*map(statistics.median, zip(*each, strict=True)))


async def _freed(gateway: GatewayProcess, before: int) -> int:
    """The memory at last: waits for it to come back."""
    deadline = asyncio.get_running_loop().time() + FREED_SECONDS
    while (memory := gateway.memory) > before + GROWTH_BYTES:
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.5)
    return memory


async def attack_all(names: list[str]) -> bool:
    table = Table(title=f"{SESSIONS} sessions beside one attacker, delays in ms", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    rows = []
    for name in names:
        with TemporaryDirectory() as folder:
            ring = Keyring(Path(folder))
            ring.add("attacker", "max_sessions = 4\nstarts_per_minute = 20\n")
            async with _gateway(ring) as gateway:
                rows.append(row := await attack(name, gateway, ring))
        print(*row.cells(), *row.wrong[:1], sep=" | ", file=sys.stderr, flush=True)
        table.add_row(*row.cells())
    Console(width=120).print(table)
    return all(row.good for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.attack", description=__doc__)
    parser.add_argument("--only", choices=WAYS, action="append", help="this attacker; may be repeated")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # child processes inherit it
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return 0 if runner.run(attack_all(options.only or list(WAYS))) else 1


if __name__ == "__main__":
    sys.exit(main())
