"""Measures: `python -m bench` everything there is, `python -m bench latency` one thing."""

import asyncio
import sys

from bench import latency
from bench.speed import __main__ as speed

BENCHES = {"latency": latency.main, "speed": speed.main}


def main(names: list[str]) -> None:
    if unknown := [name for name in names if name not in BENCHES]:
        sys.exit(f"bench: no such thing as {', '.join(unknown)}: there is {', '.join(BENCHES)}")
    for name in names or BENCHES:
        asyncio.run(BENCHES[name]())


if __name__ == "__main__":
    main(sys.argv[1:])
