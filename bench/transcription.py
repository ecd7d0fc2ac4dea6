"""One transcription through an emulator and a gateway of its own.

`python -m bench.transcription '{"minutes": 2, ...}'` does one and prints it as JSON: a process of its own, since a
gateway's settings are the environment's.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct, json

from app.cli.demo import own_gateway
from app.client import Transcriber
from app.emulator.control import set_faults
from bench.runs import CONFIG, Run, hear, speak, speech

ANSWER_SECONDS = 10.0


class Plan(Struct, frozen=True):
    """What to transcribe and what befalls it. Seconds are the audio's: at `speed` they pass so much faster."""

    name: str
    minutes: float
    speed: float = 1.0
    leg_seconds: float | None = None
    """Age at which legs are changed; half of it is the soft limit."""
    faults: tuple[str, ...] = ()
    seed: int = 0
    down_seconds: float = 0.0
    """The upstream is away for so long, in the middle."""
    own: bool = False
    """The recognizer's own recording, though others are shared."""


async def transcribe(plan: Plan) -> Run:
    """Changes this process's environment: one at a time."""
    audio = speech(plan.minutes, own=plan.own)
    faults = [option for fault in plan.faults for option in ("--fault", fault)]
    async with emulator("--seed", str(plan.seed), "--connection-faults", *faults) as address:
        os.environ |= settings(plan, address)
        async with own_gateway(lambda _: None) as base:
            return await _through(base.replace("http", "ws") + "/ws/transcribe", plan, audio, address)


def settings(plan: Plan, address: str) -> dict[str, str]:
    """A gateway's environment. What it counts by the clock passes as much faster as the speech."""
    made = {
        "UPSTREAM": f"grpc://{address}",
        "UPSTREAM_SPEED": 2 * plan.speed,
        "ANSWER_SECONDS": ANSWER_SECONDS / plan.speed,
        "LOG_LEVEL": "WARNING",
    }
    if plan.leg_seconds is not None:
        made["LEG_SOFT_LIMIT_SECONDS"] = plan.leg_seconds / 2 / plan.speed
        made["LEG_HARD_LIMIT_SECONDS"] = plan.leg_seconds / plan.speed
    return {f"GATEWAY_{name}": str(value) for name, value in made.items()}


@asynccontextmanager
async def emulator(*options: str) -> AsyncIterator[str]:
    """An emulator of its own; yields HOST:PORT."""
    command = [sys.executable, "-m", "app.emulator", "--port", "0", "--workers", "1", "--exit-with-stdin", *options]
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


async def _through(url: str, plan: Plan, audio: bytes, emulator_address: str) -> Run:
    """In the middle the upstream goes away, if it is to."""

    async def halfway() -> None:
        if plan.down_seconds:
            await set_faults(emulator_address, [f"down at=now for={plan.down_seconds / plan.speed:g}s"])

    async with Transcriber(url, CONFIG) as transcriber:
        return await hear(transcriber, plan.name, lambda: speak(transcriber, audio, plan.speed, halfway))


async def transcribe_elsewhere(plan: Plan) -> Run:
    """As `transcribe`, in a process of its own."""
    command = [sys.executable, "-m", "bench.transcription", json.encode(plan).decode()]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    output, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{plan.name} failed:\n{errors.decode(errors='replace')[-2000:]}")
    return json.decode(output, type=Run)


if __name__ == "__main__":
    print(json.encode(asyncio.run(transcribe(json.decode(sys.argv[1], type=Plan)))).decode())
