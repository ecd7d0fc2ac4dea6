"""The proof that no word is lost and none stands twice: the same speech uninterrupted, and then with legs of 8 s, with
the upstream away for a minute, with faults of every kind, and with both; the finals compared word by word. What is in
no final and in no gap must have been silence to the uninterrupted run, too.

What is heard twice by a recognizer may come out differently where a leg was cut inside an utterance: such a word counts
as substituted. A word that is missing, or stands twice, is what must not be.
"""

import argparse
import asyncio
import sys

from rich.console import Console
from rich.table import Table

from bench.compared import EDITS, Compared, seeds
from bench.runs import Run
from bench.transcription import Plan, transcribe_elsewhere

LEG_SECONDS = 8.0
DOWN_SECONDS = 60.0
KINDS = ("legs", "down", "faults", "both")
WIDTH = 130
COLUMNS = (
    "run",
    "streams",
    *EDITS,
    "gaps",
    "wrong",
    "silence",
    "wait",
    "at most",
    "late",
)


def plans(kinds: list[str], minutes: float, seeds: list[int], speed: float) -> list[Plan]:
    made = []
    if "legs" in kinds:
        made.append(Plan("legs of 8 s", minutes, speed, LEG_SECONDS))
    if "down" in kinds:
        made.append(Plan("upstream away for 60 s", minutes, speed, down_seconds=DOWN_SECONDS))
    for kind, legs in (("faults", None), ("both", LEG_SECONDS)):
        if kind in kinds:
            made += [Plan(f"{kind}, seed {seed}", minutes, speed, legs, ("every-kind",), seed) for seed in seeds]
    return made


async def prove(wanted: list[Plan], jobs: int) -> bool:
    """Prints the table; whether everything that must hold did."""
    first = wanted[0]
    turn = asyncio.Semaphore(jobs)

    async def transcribe(plan: Plan) -> Run:
        async with turn:
            return await transcribe_elsewhere(plan)

    uninterrupted = asyncio.create_task(transcribe(Plan("uninterrupted", first.minutes, first.speed)))

    async def compare(plan: Plan) -> Compared | None:
        try:
            run = await transcribe(plan)
        except RuntimeError as error:  # the others go on
            print(error, file=sys.stderr, flush=True)
            return None
        compared = Compared.to(await uninterrupted, run)
        print("  ".join(_row(compared)), compared.edits.shown, *compared.wrong, sep="; ", file=sys.stderr, flush=True)
        return compared

    results = await asyncio.gather(*[compare(plan) for plan in wanted])
    base = await uninterrupted
    table = Table(title=f"{first.minutes:g} minutes of speech, {len(base.words)} words, {first.speed:g}x real time")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "run" else "right")
    came = [compared for compared in results if compared is not None]
    for compared in [Compared.to(base, base), *came]:
        table.add_row(*_row(compared))
    Console(width=WIDTH).print(table)
    return len(came) == len(wanted) and all(compared.good for compared in came) and not base.wrong()


def _row(compared: Compared) -> list[str]:
    """A cell for each of `COLUMNS`."""
    run = compared.run
    counts = (run.streams, *compared.edits.counts, run.gaps, len(compared.wrong))
    seconds = (run.silence_ms / 1000, run.wait_seconds, run.longest_wait_seconds, run.late_seconds)
    return [run.name, *map(str, counts), *(f"{value:.1f} s" for value in seconds)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prove", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=seeds, default=seeds("20"), help="how many, or a range such as 3-5")
    parser.add_argument("--speed", type=float, default=1, help="times real time; every limit shrinks with it")
    parser.add_argument("--jobs", type=int, default=4, help="runs at the same time")
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}")
    options = parser.parse_args()
    kinds = options.only.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--only {', '.join(sorted(unknown))}: there is {', '.join(KINDS)}")
    wanted = plans(kinds, options.minutes, options.seeds, options.speed)
    return 0 if asyncio.run(prove(wanted, options.jobs)) else 1


if __name__ == "__main__":
    sys.exit(main())
