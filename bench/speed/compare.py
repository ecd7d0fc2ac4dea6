"""Gateways side by side: what a second of audio costs each of them, and how long they keep what passes through.

They take turns (A B A B), each time as a new process, with a scripted upstream and a load generator in processes of
their own. Only figures of one such comparison mean anything beside each other.
"""

import asyncio
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.table import Table

from bench.gateways import GatewayProcess, gateways, roomy
from bench.helpers import Helper, asked
from tests.credentials import Keyring
from tests.upstream import BYTES_PER_SECOND

OURS, OURS_CORE, FLOOR = "gateway", "gateway-core", "floor"
HERE, PEERS = (sys.executable, "-m"), (".venv-peers/bin/python", "-m")
CANDIDATES = {
    OURS: (*HERE, "app"),
    OURS_CORE: (*HERE, "app"),
    FLOOR: (*HERE, "bench.speed.floor"),
    "naive": (*HERE, "bench.speed.naive"),
    "threaded": (*HERE, "bench.speed.threaded"),
    "livekit": (*PEERS, "bench.speed.peers.livekit"),
    "pipecat": (*PEERS, "bench.speed.peers.pipecat"),
    "pure": (*PEERS, "bench.speed.peers.pure"),
}
"""The command of each; the last three are there after `make bench-peers`."""
OWN_SETTINGS = {OURS_CORE: {"GATEWAY_GRPC": "core"}}
WANTED = {
    (FLOOR, 20): 1.25,
    ("naive", 20): 0.65,
    ("threaded", 20): 0.35,
    ("livekit", 20): 0.5,
    ("pipecat", 20): 0.35,
    (FLOOR, 100): 1.3,
    ("threaded", 100): 0.55,
    ("livekit", 100): 0.8,
    ("pipecat", 100): 0.6,
}
"""Our CPU time to that of another, at most, with frames of so many milliseconds."""
SETTLE_SECONDS = 3.0
"""After all have begun to speak."""


@dataclass(frozen=True)
class Scene:
    """Who speaks."""

    sessions: int
    frame_ms: int
    encoding: str = "binary"

    def __str__(self) -> str:
        return f"{self.sessions} sessions, {self.encoding} frames of {self.frame_ms} ms"


class Run(NamedTuple):
    """One candidate, once. Delays in milliseconds."""

    cpu_ms: float
    """Of the process, for each second of audio."""
    up_p50: float
    up_p99: float
    """From a frame's leaving to its coming upstream; of frames that were gathered the last one's."""
    down_p50: float
    down_p99: float
    """From a caption's leaving upstream to its coming."""
    session_kb: float
    """Memory that the sessions have taken, each."""
    threads: int
    lost: int
    repeated: int
    """Frames."""
    late_p99: float
    """Of the load generator: what is slow then is not the gateway."""


@dataclass
class Runs:
    """Of all rounds."""

    scene: Scene
    of: dict[str, list[Run]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def median(self, name: str) -> Run:
        """But of the frames that were lost, or came twice, all."""
        made = Run(*(statistics.median(values) for values in zip(*self.of[name], strict=True)))
        lost, repeated = (
            sum(counts) for counts in zip(*((run.lost, run.repeated) for run in self.of[name]), strict=True)
        )
        return made._replace(lost=lost, repeated=repeated)

    def ratio(self, name: str, to: str) -> float:
        """CPU time of one to another's, the median of the rounds, each of which is a pair."""
        pairs = zip(self.of[name], self.of[to], strict=True)
        return statistics.median(one.cpu_ms / other.cpu_ms for one, other in pairs)


async def run(name: str, scene: Scene, seconds: float) -> tuple[Run, list[str]]:
    """One candidate, once; and what went wrong."""
    frame_bytes = BYTES_PER_SECOND * scene.frame_ms // 1000
    with TemporaryDirectory() as folder:
        ring = Keyring(Path(folder))
        async with asked("bench.speed.upstream", str(frame_bytes)) as (upstream, address):
            settings = _settings(address, ring) | OWN_SETTINGS.get(name, {})
            async with gateways("A", settings, ring.folder, CANDIDATES[name]) as made:
                (gateway,) = made.values()
                before = gateway.memory
                speakers = (str(gateway.port), str(scene.sessions), str(scene.frame_ms), scene.encoding)
                async with asked("bench.speed.load", *speakers, ring.keys["app"]) as (load, _):
                    await asyncio.sleep(SETTLE_SECONDS)
                    cpu_ms = await _measure(gateway, upstream, load, seconds)
                    heard, said = await upstream.ask("report"), await load.ask("report")
                    memory, threads = gateway.memory, gateway.threads
                    await load.ask("stop")
    up, down = _milliseconds(heard["delays"]), _milliseconds(said["delays"])
    measured = Run(
        cpu_ms=cpu_ms / (heard["frames"] * scene.frame_ms / 1000),
        up_p50=up[49],
        up_p99=up[98],
        down_p50=down[49],
        down_p99=down[98],
        session_kb=(memory - before) / scene.sessions / 1000,
        threads=threads,
        lost=heard["lost"],
        repeated=heard["repeated"],
        late_p99=_milliseconds(said["late"])[98],
    )
    return measured, said["wrong"]


def _settings(upstream: str, ring: Keyring) -> dict[str, str]:
    """Everything on, as by default."""
    return roomy(upstream) | {
        "GATEWAY_API_KEYS_FILE": str(ring.file),
        "LOGURU_LEVEL": "WARNING",  # Pipecat's
    }


async def _measure(gateway: GatewayProcess, upstream: Helper, load: Helper, seconds: float) -> float:
    """Milliseconds of CPU time that it took."""
    await asyncio.gather(upstream.ask("begin"), load.ask("begin"))
    used = gateway.cpu_seconds
    await asyncio.sleep(seconds)
    return 1000 * (gateway.cpu_seconds - used)


def _milliseconds(nanoseconds: list[int]) -> list[float]:
    """The 99 values that part them into hundredths."""
    return [value / 1e6 for value in statistics.quantiles(nanoseconds, n=100)]


async def compare(names: Iterable[str], scene: Scene, rounds: int, seconds: float) -> Runs:
    runs = Runs(scene)
    for _ in range(rounds):
        for name in names:
            measured, wrong = await run(name, scene, seconds)
            runs.of.setdefault(name, []).append(measured)
            runs.wrong += wrong
            print(scene, name, *(f"{value:.1f}" for value in measured), *wrong[:1], sep=" | ", file=sys.stderr)
    return runs


COLUMNS = (
    "CPU ms/s",
    "x floor",
    "ours is",
    "wanted",
    "sessions/core",
    "up p50",
    "p99",
    "down p50",
    "p99",
    "kB",
    "threads",
    "lost",
    "twice",
)


def table(runs: Runs) -> Table:
    """Medians. `ours is`: our CPU time to its own."""
    made = Table(title=str(runs.scene), title_justify="left")
    made.add_column("")
    for column in COLUMNS:
        made.add_column(column, justify="right")
    for name in runs.of:
        it = runs.median(name)
        floor, ours = (runs.ratio(*pair) if pair[0] in runs.of and pair[1] in runs.of else None for pair in pairs(name))
        wanted = WANTED.get((name, runs.scene.frame_ms)) if runs.scene.sessions == 50 else None
        ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in (floor, ours, wanted)]
        delays = [f"{ms:.1f}" for ms in (it.up_p50, it.up_p99, it.down_p50, it.down_p99)]
        counts = [f"{count:.0f}" for count in (it.session_kb, it.threads, it.lost, it.repeated)]
        made.add_row(name, f"{it.cpu_ms:.2f}", *ratios, f"{1000 / it.cpu_ms:.0f}", *delays, *counts)
    return made


def pairs(name: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (name, FLOOR), (OURS, name)
