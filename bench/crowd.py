"""How many at a time the embedded emulator keeps up with: the sample recording in so many sessions at real time, each
begun a moment after the one before, through one gateway. One more should cost all of them a little, and none a lot.
"""

import argparse
import asyncio
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.cli.demo import own_gateway
from app.cli.wav import open_wav
from app.emulator.models import sample_recording
from bench.latency import Waits, measure

COUNTS = (1, 8, 9, 12, 14, 16, 20)
APART_SECONDS = 0.73
"""No two are at the same place of an utterance."""


async def crowd(count: int, recording: Path) -> list[Waits]:
    """What each of them waited."""

    async def one(url: str, number: int) -> Waits:
        await asyncio.sleep(number * APART_SECONDS)
        with open_wav(recording) as wav:
            return await measure(url, wav)

    async with own_gateway(lambda _: None) as base:
        url = f"{base.replace('http', 'ws', 1)}/ws/transcribe"
        return await asyncio.gather(*[one(url, number) for number in range(count)])


def row(count: int, waits: list[Waits]) -> list[str]:
    finals = [second for each in waits for second in each.finals]
    first = [second for each in waits for second in each.first_interims]
    slowest = max(statistics.median(each.finals) for each in waits)
    interims = [each.interims for each in waits]
    return [
        str(count),
        f"{statistics.median(first):.2f}",
        f"{statistics.median(finals):.2f}",
        f"{slowest:.2f}",
        f"{max(finals):.2f}",
        f"{statistics.median(interims):.0f}",
        str(min(interims)),
        str(min(len(each.finals) for each in waits)),
    ]


async def run(counts: list[int]) -> None:
    recording = sample_recording()
    if recording is None:
        raise SystemExit("crowd: the sample recording is not installed")
    table = Table(title="Sessions at real time on one emulator, seconds", title_justify="left")
    names = ("sessions", "first interim", "final", "slowest's", "worst", "interims", "fewest", "finals, fewest")
    for name in names:
        table.add_column(name, justify="right")
    for count in counts:
        table.add_row(*row(count, await crowd(count, recording)))
    Console(width=110).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description=__doc__)
    parser.add_argument("counts", type=int, nargs="*", default=COUNTS, help="how many sessions")
    asyncio.run(run(list(parser.parse_args().counts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
