"""Random lives of sessions over real sockets and real gRPC: how many, and what befell them (tests/lives.py).

A life that went wrong is named with its seed: `--first SEED --lives 1` shows it again, as far as the clock allows.
"""

import argparse
import asyncio
import logging
import sys
from time import monotonic
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from tests.lives import LIMITS, live_all

COLUMNS = ("lives with", "lives", "wrong", "audio s", "streams", "seconds")


async def live(seeds: range) -> bool:
    """Prints the table; whether every sample was heard once."""
    table = Table(title="Every sample heard once, in order", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    good = True
    for name, limits in LIMITS.items():
        began = monotonic()
        lives = await live_all(seeds, limits)
        wrong = [life for life in lives if isinstance(life, AssertionError)]
        for life in wrong:
            print(f"{name}: {life}", file=sys.stderr, flush=True)
        stopped = [life for life in lives if not isinstance(life, AssertionError)]
        table.add_row(name, str(len(lives)), str(len(wrong)), *_sums(stopped), f"{monotonic() - began:.0f}")
        good = good and not wrong
    Console().print(table)
    return good


def _sums(stopped: list[dict[str, Any]]) -> tuple[str, str]:
    seconds = sum(life["audio_ms"] for life in stopped) / 1000
    return f"{seconds:.0f}", str(sum(life["upstream_streams"] for life in stopped))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lives", description=__doc__)
    parser.add_argument("--lives", type=int, default=1000, help="of each kind")
    parser.add_argument("--first", type=int, default=1000, help="the first seed")
    options = parser.parse_args()
    logging.disable(logging.INFO)  # two lines for each
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return 0 if runner.run(live(range(options.first, options.first + options.lives))) else 1


if __name__ == "__main__":
    sys.exit(main())
