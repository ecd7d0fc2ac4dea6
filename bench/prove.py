"""The proof that no word is lost and none stands twice: the same speech uninterrupted, and then with legs of 8 s, with
the upstream away for a minute, with faults of every kind, and with both; the finals compared word by word.

What is heard twice by a recognizer may come out differently where a leg was cut inside an utterance: such a word counts
as substituted. A word that is missing, or stands twice, is what must not be.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass

import jiwer
from rich.console import Console
from rich.table import Table

from bench.transcription import Plan, Run, transcribe_elsewhere

LEG_SECONDS = 8.0
DOWN_SECONDS = 60.0
MAX_SUBSTITUTED = 0.01
"""Part of all words."""
KINDS = ("legs", "down", "faults", "both")


@dataclass(frozen=True, slots=True)
class Edits:
    """What it takes to come from one transcript to another, in words."""

    deleted: int
    inserted: int
    substituted: int
    shown: str
    """Where."""

    @classmethod
    def between(cls, old: list[str], new: list[str]) -> "Edits":
        found = jiwer.process_words(" ".join(old), " ".join(new))
        changes = [
            f"{chunk.type}: {' '.join(old[chunk.ref_start_idx : chunk.ref_end_idx])!r} -> "
            f"{' '.join(new[chunk.hyp_start_idx : chunk.hyp_end_idx])!r}"
            for chunk in found.alignments[0]
            if chunk.type != "equal"
        ]
        return cls(found.deletions, found.insertions, found.substitutions, "; ".join(changes))


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

    async def compare(plan: Plan) -> tuple[Run, Edits, bool]:
        run, base = await transcribe(plan), await uninterrupted
        edits = Edits.between(base.words, run.words)
        wrong = run.wrong()
        few = edits.substituted <= MAX_SUBSTITUTED * len(base.words)
        good = not (edits.deleted or edits.inserted or run.gaps or wrong) and few
        Console(stderr=True).print(f"{plan.name}: {run.streams} streams, {edits}, {'; '.join(wrong) or 'in order'}")
        return run, edits, good

    results = await asyncio.gather(*[compare(plan) for plan in wanted])
    words = len((await uninterrupted).words)
    table = Table(title=f"{first.minutes:g} minutes of speech, {words} words, {first.speed:g}x real time")
    for column in ("run", "streams", "deleted", "inserted", "substituted", "gaps"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for run, edits, _ in results:
        counts = (run.streams, edits.deleted, edits.inserted, edits.substituted, run.gaps)
        table.add_row(run.name, *map(str, counts))
    Console().print(table)
    return all(good for _, _, good in results)


def _seeds(text: str) -> list[int]:
    """`20` is 1 to 20, `3-5` is 3, 4, 5."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else list(range(1, int(first) + 1))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prove", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=_seeds, default=_seeds("20"), help="how many, or a range such as 3-5")
    parser.add_argument("--speed", type=float, default=2, help="times real time; every limit shrinks with it")
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
