"""Six hours of one session in compressed time: memory stays flat, and nothing is left at the end.

Gateway, scripted upstream and client share this process, so that what any of them leaked would be seen. Every four
bytes of the audio must come back named once, in order, at their time (tests/hours.py).
"""

import argparse
import asyncio
import logging
import os
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from tests.gateway import Gateway, run_gateway
from tests.hours import kept_bytes, kept_events, limits, live_long, tasks, until_nothing_is_left, upstream_of_hours
from tests.upstream import ScriptedUpstream

HALF_HOUR = 1800
FAILURES = 1 / 600
"""Of streams, in a second of audio."""
MAX_GROWTH_MB = 6.0
"""Of the process, after the first half hour."""
SETTLE_SECONDS = 30.0
"""For the last tasks to end."""


Row = tuple[float, float, int, float, int]
"""A cell for each of `COLUMNS`."""
COLUMNS = ("hours", "memory MB", "tasks", "audio kept, at most s", "events kept, at most")


@dataclass
class Log:
    """What is looked at all the time, a row for each half hour."""

    gateway: Gateway
    rows: list[Row] = field(default_factory=list)
    _kept: int = 0
    _events: int = 0

    def look(self, seconds: float) -> None:
        self._kept = max(self._kept, kept_bytes(self.gateway))
        self._events = max(self._events, kept_events(self.gateway))
        if seconds >= HALF_HOUR * (len(self.rows) + 1):
            self.rows.append((seconds / 3600, resident_mb(), tasks().total(), self._kept / 32_000, self._events))
            print(*_cells(self.rows[-1]), sep="  ", file=sys.stderr, flush=True)
            self._kept = self._events = 0

    @property
    def growth_mb(self) -> float:
        """From the first half hour to the worst of the others."""
        return max(row[1] for row in self.rows) - self.rows[0][1]


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


async def live(hours: float, speed: float) -> bool:
    """Prints the table; whether everything that must hold did."""
    console = Console(width=100)
    async with ScriptedUpstream() as upstream:
        upstream.script = upstream_of_hours(upstream, speed, FAILURES)
        async with run_gateway(
            upstream=f"grpc://{upstream.address}", max_session_seconds=86_400, **limits(speed)
        ) as gateway:
            await live_long(gateway, 60, speed, lambda _: None)
            before, log, earlier = tasks(), Log(gateway), await _legs(gateway)
            witness, stopped = await live_long(gateway, hours * 3600, speed, log.look)
            left = await _left(before, upstream)
            legs = await _legs(gateway) - earlier
    console.print(_table(log))
    ends = ", ".join(f"{count} {code}" for code, count in legs.most_common())
    console.print(
        f"{witness.finals} finals, {stopped['upstream_streams']} streams: {ends}; every four bytes named once"
    )
    console.print(f"grown by {log.growth_mb:.1f} MB after the first half hour; left at the end: {left or 'nothing'}")
    return not left and log.growth_mb <= MAX_GROWTH_MB


async def _left(before: Counter[str], upstream: ScriptedUpstream) -> str:
    """Tasks and calls that do not end."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECONDS):
            await until_nothing_is_left(before, upstream)
    return ", ".join([*(tasks() - before).elements(), *["a call"] * len(upstream.calls)])


async def _legs(gateway: Gateway) -> Counter[str]:
    """Streams that ended, by status."""
    page = (await gateway.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return Counter({s.labels["code"]: int(s.value) for s in samples if s.name == "gateway_legs_total"})


def _table(log: Log) -> Table:
    table = Table(title="One session")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in log.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    hours, memory, running, kept, events = row
    return [f"{hours:.1f}", f"{memory:.1f}", str(running), f"{kept:.0f}", str(events)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hours", description=__doc__)
    parser.add_argument("--hours", type=float, default=6, help="at least 1")
    parser.add_argument("--speed", type=float, default=60, help="times real time; every limit shrinks with it")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return 0 if runner.run(live(options.hours, options.speed)) else 1


if __name__ == "__main__":
    sys.exit(main())
