"""10,000 clients that nobody thought of: over WebSockets, in upgrades, over REST (tests/fuzz).

What should not be is told with the least of what shows it and the seed: `--seed SEED --only NAME` shows it again, as
far as the clock allows.
"""

import argparse
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from rich.console import Console
from rich.table import Table

from tests.fuzz.rest import requests_of_anybody, requests_with_credentials
from tests.fuzz.rounds import upgrades_by_hand, visits_of_strangers, visits_with_credentials

Kind = Callable[[int, Path, int], Counter[str]]
KINDS: dict[str, tuple[float, Kind]] = {
    "strangers": (0.35, lambda number, _, seed: visits_of_strangers(number, seed)),
    "credentials": (0.35, visits_with_credentials),
    "upgrades": (0.1, lambda number, _, seed: upgrades_by_hand(number, seed)),
    "rest": (0.1, requests_of_anybody),
    "rest with credentials": (0.1, requests_with_credentials),
}
"""Each with its part of the cases."""


def fuzz(cases: int, seed: int, kinds: list[str]) -> bool:
    """Prints the table; whether nothing was found."""
    table = Table(title=f"{cases} cases, seed {seed}", title_justify="left")
    table.add_column("kind")
    for column in ("cases", "seconds", "found"):
        table.add_column(column, justify="right")
    table.add_column("how they ended")
    good = True
    for name in kinds:
        part, kind = KINDS[name]
        number, began = round(cases * part), monotonic()
        with TemporaryDirectory() as folder:
            ends = _try(name, kind, number, Path(folder), seed)
        good = good and ends is not None
        how = ", ".join(f"{end} {count}" for end, count in (ends or Counter()).most_common())
        table.add_row(name, str(number), f"{monotonic() - began:.0f}", "nothing" if ends else "see above", how)
    Console(width=120).print(table)
    return good


def _try(name: str, kind: Kind, number: int, folder: Path, seed: int) -> Counter[str] | None:
    try:
        return kind(number, folder, seed)
    except Exception:
        print(f"{name}, seed {seed}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=KINDS, action="append", help="this kind; may be repeated")
    options = parser.parse_args()
    logging.disable(logging.INFO)  # two lines for each session
    return 0 if fuzz(options.cases, options.seed, options.only or list(KINDS)) else 1


if __name__ == "__main__":
    sys.exit(main())
