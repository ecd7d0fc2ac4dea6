"""The proof that no word is lost to the network, or to ourselves: the same speech uninterrupted, and then through a
network that breaks every few seconds in every way, to gateways that are killed and restarted; the finals compared word
by word. Every second seed has legs of 8 s and faults of every kind upstream, too.
"""

import argparse
import asyncio
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from app.client import Transcriber
from bench.compared import EDITS, Compared, seeds
from bench.gateways import gateways
from bench.misfortunes import KINDS, NETWORK, Lines, World, draw
from bench.runs import CONFIG, Run, hear, speak, speech
from bench.transcription import Plan, emulator, settings, transcribe_elsewhere
from tests.flaky import flaky
from tests.redis_server import BINARY, RedisServer

LEG_SECONDS = 8.0
FAULTS = "faults"
"""The kind that is the upstream's."""
MORE_SECONDS = 900.0
"""Than the speech: by then a run is over, or will never be."""
WIDTH = 140
COLUMNS = (
    "run",
    "cuts",
    "kills",
    "restarts",
    "resumes",
    "streams",
    *EDITS,
    "gaps",
    "wrong",
    "late",
)


class RunFailed(Exception):
    """A run that did not begin, or come to its end: the message has all that befell it."""


@dataclass(frozen=True, slots=True)
class Journey:
    """A run, and what befell it."""

    run: Run
    world: World
    resumes: int


def planned(seed: int, minutes: float, kinds: list[str]) -> tuple[Plan, Lines]:
    """What befalls the upstream, and everything else."""
    lines = draw(seed, [kind for kind in kinds if kind != FAULTS], minutes * 60)
    if FAULTS in kinds and seed % 2:
        return Plan(f"seed {seed}, faults", minutes, 1, LEG_SECONDS, ("every-kind",), seed), lines
    return Plan(f"seed {seed}", minutes), lines


async def travel(plan: Plan, lines: Lines) -> Journey:
    """One run, with a recognizer, two gateways and a Redis of its own. Raises RunFailed."""
    notes: list[str] = []
    with TemporaryDirectory() as folder:
        try:
            async with _world(plan, Path(folder), notes) as world:
                async with asyncio.timeout(plan.minutes * 60 + MORE_SECONDS):
                    return await _go(plan, lines, world)
        except Exception as error:  # whatever it is: the others go on
            where = "".join(traceback.format_exception(error))
            raise RunFailed(f"{plan.name}: {where}{'; '.join(notes)}{_read(Path(folder))}") from error


@asynccontextmanager
async def _world(plan: Plan, folder: Path, notes: list[str]) -> AsyncIterator[World]:
    faults = [option for fault in plan.faults for option in ("--fault", fault)]
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(emulator("--seed", str(plan.seed), "--connection-faults", *faults))
        redis = stack.enter_context(RedisServer(folder / "redis", persistent=True))
        shared = {"GATEWAY_STORE": redis.url, "GATEWAY_LOG_LEVEL": "INFO"}
        running = await stack.enter_async_context(gateways("AB", settings(plan, address) | shared, folder))
        yield World(await stack.enter_async_context(flaky(*running)), running, redis, notes=notes)


def _read(folder: Path) -> str:
    return "".join(f"\n{log.name}: {log.read_text(errors='replace')}" for log in folder.glob("*.log"))


async def _go(plan: Plan, lines: Lines, world: World) -> Journey:
    audio = speech(plan.minutes, own=plan.own)
    async with Transcriber(f"ws://127.0.0.1:{world.network.port}/ws/transcribe", CONFIG) as transcriber:
        suffering = [asyncio.create_task(world.suffer(line)) for line in lines]
        try:
            run = await hear(transcriber, plan.name, lambda: speak(transcriber, audio, plan.speed))
        finally:
            for line in suffering:
                line.cancel()
            ends = await asyncio.gather(*suffering, return_exceptions=True)
    if broken := [end for end in ends if isinstance(end, Exception)]:
        raise broken[0]
    return Journey(run, world, transcriber.resumes)


async def prove(numbers: list[int], minutes: float, kinds: list[str], jobs: int) -> bool:
    """Prints the table; whether everything that must hold did."""
    turn = asyncio.Semaphore(jobs)

    async def uninterrupted() -> Run | None:
        """None where it has failed: nothing can be compared with it."""
        async with turn:
            try:
                async with asyncio.timeout(minutes * 60 + MORE_SECONDS):
                    return await transcribe_elsewhere(Plan("uninterrupted", minutes))
            except (RuntimeError, TimeoutError) as error:
                print(repr(error), file=sys.stderr, flush=True)
                return None

    async def compare(seed: int) -> tuple[Journey, Compared] | None:
        async with turn:
            try:
                journey = await travel(*planned(seed, minutes, kinds))
            except RunFailed as error:
                print(error, file=sys.stderr, flush=True)
                return None
        if (beside := await base) is None:
            return None
        compared = Compared.to(beside, journey.run, journey.world.wrong)
        _tell(journey, compared)
        return journey, compared

    base = asyncio.create_task(uninterrupted())
    results = await asyncio.gather(*[compare(seed) for seed in numbers])
    came = [result for result in results if result is not None]
    beside = await base
    if beside is None:
        return False
    Console(width=WIDTH).print(_table(f"{minutes:g} minutes of speech, {len(beside.words)} words", came))
    return len(came) == len(numbers) and all(compared.good for _, compared in came) and not beside.wrong()


def _tell(journey: Journey, compared: Compared) -> None:
    print("  ".join(_row(journey, compared)), file=sys.stderr, flush=True)
    if not compared.good:
        print(compared.edits.shown, *compared.wrong, *journey.world.notes, sep="; ", file=sys.stderr, flush=True)


def _table(title: str, came: list[tuple[Journey, Compared]]) -> Table:
    table = Table(title=title)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "run" else "right")
    for journey, compared in came:
        table.add_row(*_row(journey, compared))
    return table


def _row(journey: Journey, compared: Compared) -> list[str]:
    """A cell for each of `COLUMNS`."""
    befell, run = journey.world.counts, journey.run
    cuts = sum(befell[kind] for kind in NETWORK)
    counts = (
        cuts,
        befell["kill"],
        befell["rolling restart"],
        journey.resumes,
        run.streams,
        *compared.edits.counts,
        run.gaps,
        len(compared.wrong),
    )
    return [run.name, *map(str, counts), f"{run.late_seconds:.1f} s"]


def main() -> int:
    everything = (*KINDS, FAULTS)
    parser = argparse.ArgumentParser(prog="python -m bench.cuts", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seeds", type=seeds, default=seeds("50"), help="how many, or a range such as 3-5")
    parser.add_argument("--jobs", type=int, default=4, help="runs at the same time")
    parser.add_argument("--only", default=",".join(everything), help=f"some of {', '.join(everything)}")
    options = parser.parse_args()
    kinds = options.only.split(",")
    if unknown := set(kinds) - set(everything):
        parser.error(f"--only {', '.join(sorted(unknown))}: there is {', '.join(everything)}")
    if BINARY is None:
        parser.error("redis-server is not installed")
    return 0 if asyncio.run(prove(options.seeds, options.minutes, kinds, options.jobs)) else 1


if __name__ == "__main__":
    sys.exit(main())
