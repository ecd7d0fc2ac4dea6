"""The proof that no word is lost and none stands twice: the same speech, uninterrupted and then with legs of 8 s, with
faults of every kind, and with both; the finals compared word by word.

What is heard twice by a recognizer may come out differently where a leg was cut inside an utterance: such a word counts
as substituted. A word that is missing, or stands twice, is what must not be.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import jiwer
from rich.console import Console
from rich.table import Table

from app.cli.demo import own_gateway
from app.client import Audio, SessionConfig, Transcriber
from app.core.protocol import Final, GapEvent, Stopped
from tests.speech_files import normal, sample, shared_recordings

RATE = 16_000
PAUSE = bytes(RATE)  # half a second of silence between recordings
LEG_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Run:
    """One transcription of the speech, and what has to hold in it."""

    name: str
    words: list[str]
    finals: list[Final]
    gaps: int
    stopped: Stopped

    def check_order(self) -> None:
        """Events without a hole, no overlap in time."""
        assert self.stopped.event == len(self.finals) + self.gaps + 1, "an event number is missing"
        assert all(before.end_ms <= after.start_ms for before, after in pairwise(self.finals)), "finals overlap"


@dataclass(frozen=True, slots=True)
class Edits:
    """What it takes to come from one transcript to another, in words."""

    deleted: int
    inserted: int
    substituted: int

    @classmethod
    def between(cls, old: list[str], new: list[str]) -> "Edits":
        found = jiwer.process_words(" ".join(old), " ".join(new))
        return cls(found.deletions, found.insertions, found.substitutions)


def speech(minutes: float) -> bytes:
    """16 kHz LINEAR16: the shared recordings joined, or the recognizer's own over and over."""
    recordings = [r for r in shared_recordings() if r.rate == RATE and r.readable]
    if not recordings and (own := sample()):
        recordings = [own]
    joined = bytearray()
    while len(joined) < minutes * 60 * RATE * 2:
        for recording in recordings:
            joined += _at_16_khz(*recording.pcm()) + PAUSE
    return bytes(joined[: int(minutes * 60 * RATE) * 2])


def _at_16_khz(rate: int, pcm: bytes) -> bytes:
    if rate == RATE:
        return pcm
    import numpy as np  # noqa: PLC0415
    import soxr  # noqa: PLC0415

    return bytes(soxr.resample(np.frombuffer(pcm, np.int16), rate, RATE).astype(np.int16).tobytes())


@asynccontextmanager
async def emulator(*options: str) -> AsyncIterator[str]:
    """An emulator of its own, with faults; yields HOST:PORT."""
    command = [sys.executable, "-m", "app.emulator", "--port", "0", "--exit-with-stdin", *options]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode().strip()
        assert line.startswith("listening on "), "the emulator did not start"
        yield line.removeprefix("listening on ")
    finally:
        process.stdin.close()
        await process.wait()


async def transcribe(name: str, audio: bytes, speed: float, *, legs: bool, faults: tuple[str, ...] = ()) -> Run:
    """One run through an emulator and a gateway of its own."""
    limits = {}
    if legs:
        limits = {"LEG_SOFT_LIMIT_SECONDS": 0.5 * LEG_SECONDS / speed, "LEG_HARD_LIMIT_SECONDS": LEG_SECONDS / speed}
    async with emulator(*faults) as address:
        os.environ |= {"GATEWAY_UPSTREAM": f"grpc://{address}", "GATEWAY_UPSTREAM_SPEED": str(2 * speed)}
        os.environ |= {f"GATEWAY_{limit}": str(value) for limit, value in limits.items()}
        try:
            async with own_gateway(lambda _: None) as base:
                return await _through(name, base.replace("http", "ws") + "/ws/transcribe", audio, speed)
        finally:
            for limit in limits:
                del os.environ[f"GATEWAY_{limit}"]


async def _through(name: str, url: str, audio: bytes, speed: float) -> Run:
    config = SessionConfig(audio=Audio("LINEAR16", RATE), language_codes=["en-US"], interim_results=True)
    finals: list[Final] = []
    gaps = 0
    async with Transcriber(url, config) as transcriber:
        sending = asyncio.create_task(_send(transcriber, audio, speed))
        async for message in transcriber.messages():
            match message:
                case Final():
                    finals.append(message)
                case GapEvent():
                    gaps += 1
                case Stopped():
                    stopped = message
        await sending
    words = normal(" ".join(final.text for final in finals)).split()
    return Run(name, words, finals, gaps, stopped)


async def _send(transcriber: Transcriber, audio: bytes, speed: float) -> None:
    """At `speed` times real time."""
    clock = asyncio.get_running_loop().time
    began, frame = clock(), RATE // 5
    for at in range(0, len(audio), frame):
        await asyncio.sleep(began + at / (2 * RATE * speed) - clock())
        await transcriber.send(audio[at : at + frame])
    await transcriber.stop()


async def prove(minutes: float, seeds: int, speed: float) -> bool:
    """Prints the table; whether everything that must hold did."""
    audio = speech(minutes)
    base = await transcribe("uninterrupted", audio, speed, legs=False)
    table = Table(title=f"{minutes:g} minutes of speech, {len(base.words)} words")
    for column in ("run", "streams", "deleted", "inserted", "substituted", "gaps"):
        table.add_column(column, justify="left" if column == "run" else "right")
    plans: list[tuple[str, bool, tuple[str, ...]]] = [("legs of 8 s", True, ())]
    for seed in range(1, seeds + 1):
        faults: tuple[str, ...] = ("--fault", "every-kind", "--seed", str(seed))
        plans += [(f"faults, seed {seed}", False, faults), (f"both, seed {seed}", True, faults)]
    good = True
    for name, legs, faults in plans:
        run = await transcribe(name, audio, speed, legs=legs, faults=faults)
        run.check_order()
        edits = Edits.between(base.words, run.words)
        good &= not (edits.deleted or edits.inserted or run.gaps) and edits.substituted <= 0.01 * len(base.words)
        table.add_row(
            name, *map(str, (run.stopped.upstream_streams, edits.deleted, edits.inserted, edits.substituted, run.gaps))
        )
        Console(stderr=True).print(f"{name}: {edits}")
    Console().print(table)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prove", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--speed", type=float, default=4, help="times real time; the limits of legs shrink with it")
    options = parser.parse_args()
    return 0 if asyncio.run(prove(options.minutes, options.seeds, options.speed)) else 1


if __name__ == "__main__":
    sys.exit(main())
