"""How long the event loop stands still while many speak: sessions at real time in frames of 20 ms, on one gateway
process with everything on, with a scripted upstream and a load generator in processes of their own.

`in time`: how much of what was to be said came upstream meanwhile; less than all is more than the machine carries.
Exits 1 where the gateway's own work took longer than 50 ms between two ticks of a timer.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from rich.console import Console
from rich.table import Table

from app.api.server import raise_file_limit
from bench.gateways import gateways, roomy
from bench.helpers import asked
from tests.credentials import Keyring
from tests.upstream import BYTES_PER_SECOND

COUNTS = (50, 100, 200)
FRAME_MS = 20
SETTLE_SECONDS = 5.0
SECONDS = 20.0
MAX_BUSY_MS = 50.0
COLUMNS = ("sessions", "of a core", "in time", "longest stall", "busy", "collecting", "lost", "twice")


async def measure(sessions: int) -> tuple[float, list[str]]:
    """The most CPU time between two ticks, in milliseconds; and the row."""
    frame_bytes = BYTES_PER_SECOND * FRAME_MS // 1000
    with TemporaryDirectory() as folder:
        ring = Keyring(Path(folder))
        async with asked("bench.speed.upstream", str(frame_bytes)) as (upstream, address):
            settings = roomy(address) | {"GATEWAY_API_KEYS_FILE": str(ring.file)}
            command = (sys.executable, "-m", "bench.probe")
            async with gateways("A", settings, ring.folder, command) as made, httpx.AsyncClient(timeout=60) as http:
                (gateway,) = made.values()
                speakers = (str(gateway.port), str(sessions), str(FRAME_MS), "binary")
                async with asked("bench.speed.load", *speakers, ring.keys["app"]) as (load, _):
                    await asyncio.sleep(SETTLE_SECONDS)
                    await http.get(f"{gateway.url}/stall")
                    await asyncio.gather(upstream.ask("begin"), load.ask("begin"))
                    used = gateway.cpu_seconds
                    await asyncio.sleep(SECONDS)
                    used = gateway.cpu_seconds - used
                    stood = (await http.get(f"{gateway.url}/stall")).json()
                    heard = await upstream.ask("report")
                    await load.ask("stop")
    times = [f"{stood[name]:.0f} ms" for name in ("stall", "busy", "collection")]
    spoken = heard["frames"] * FRAME_MS / 1000 / SECONDS / sessions
    counts = [str(heard["lost"]), str(heard["repeated"])]
    return stood["busy"], [str(sessions), f"{used / SECONDS:.0%}", f"{spoken:.0%}", *times, *counts]


async def run(counts: list[int]) -> bool:
    table = Table(title=f"Frames of {FRAME_MS} ms at real time", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    good = True
    for count in counts:
        busy, row = await measure(count)
        good = good and busy <= MAX_BUSY_MS
        table.add_row(*row)
    Console(width=110).print(table)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.stalls", description=__doc__)
    parser.add_argument("counts", type=int, nargs="*", default=COUNTS, help="how many sessions")
    options = parser.parse_args()
    raise_file_limit()  # child processes inherit it
    return 0 if asyncio.run(run(list(options.counts))) else 1


if __name__ == "__main__":
    sys.exit(main())
