"""`python -m bench.speed`: see compare.py, and bench/README.md for what the figures mean."""

import argparse
import asyncio
from pathlib import Path

from rich.console import Console

from app.api.server import raise_file_limit
from bench.speed.compare import CANDIDATES, FLOOR, OURS, Scene, compare, table

ROUNDS, SECONDS = 3, 15.0


def there() -> list[str]:
    """The candidates that are installed."""
    return [name for name, (python, *_) in CANDIDATES.items() if Path(python).exists()]


def plans() -> list[tuple[Scene, list[str]]]:
    """Who takes part in which scene, by itself."""
    return [
        (Scene(50, 20), there()),
        (Scene(50, 100), there()),
        (Scene(200, 100), [OURS, FLOOR]),
        (Scene(400, 100), [OURS]),
    ]


async def show(wanted: list[tuple[Scene, list[str]]], rounds: int, seconds: float) -> None:
    raise_file_limit()  # child processes inherit it
    console = Console(width=150)
    for scene, names in wanted:
        runs = await compare(names, scene, rounds, seconds)
        console.print(table(runs))
        for wrong in runs.wrong[:5]:
            console.print(wrong, style="red")


async def main() -> None:
    """All scenes."""
    await show(plans(), ROUNDS, SECONDS)


def one() -> None:
    """The scene of the command line; all, where it names none."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("--only", help="candidates, with commas between them", default=",".join(there()))
    parser.add_argument("--sessions", type=int)
    parser.add_argument("--frame", type=int, default=20, help="milliseconds")
    parser.add_argument("--encoding", choices=("binary", "base64"), default="binary")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    names = options.only.split(",")
    if missing := [name for name in names if name not in there()]:
        parser.error(f"--only {', '.join(missing)}: there is {', '.join(there())}; the others: `make bench-peers`")
    wanted = plans()
    if options.sessions:
        wanted = [(Scene(options.sessions, options.frame, options.encoding), names)]
    asyncio.run(show(wanted, options.rounds, options.seconds))


if __name__ == "__main__":
    one()
