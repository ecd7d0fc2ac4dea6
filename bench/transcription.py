"""One transcription through an emulator and a gateway of its own, and what has to hold in it whatever befell it.

`python -m bench.transcription '{"minutes": 2, ...}'` does one and prints it as JSON: a process of its own, since a
gateway's settings are the environment's.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

from msgspec import Struct, json

from app.cli.demo import own_gateway
from app.client import Audio, SessionConfig, Transcriber
from app.core.protocol import Final, GapEvent, Stopped
from app.emulator.control import set_faults
from tests.speech_files import normal, sample, shared_recordings

RATE = 16_000
PAUSE = bytes(RATE)  # half a second of silence between recordings
ANSWER_SECONDS = 10.0
FRAME = RATE // 5  # bytes: 100 ms
SLACK_MS = 300
"""The same speech may begin so much earlier or later to a recognizer that was fed from elsewhere on."""


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


class Span(Struct, frozen=True):
    start_ms: int
    end_ms: int
    text: str


class Run(Struct, frozen=True):
    """What came back."""

    name: str
    words: list[str]
    finals: list[Span]
    events: list[int]
    """The numbers of all durable events."""
    gaps: int
    sent_ms: int
    audio_ms: int
    gap_ms: int
    streams: int
    late_seconds: float
    """From the end of the speech to the end of the session: how far behind the captions were by then."""

    @property
    def final_ms(self) -> int:
        return sum(final.end_ms - final.start_ms for final in self.finals)

    @property
    def silence_ms(self) -> int:
        """What is in no final and in no gap. Whether it was silence another run can tell: `holes`."""
        return self.audio_ms - self.final_ms

    def holes(self, other: "Run") -> list[Span]:
        """Finals of another run of the same audio, of which more than `SLACK_MS` are in none of this one's."""
        return [final for final in other.finals if final.end_ms - final.start_ms - self._covered(final) > SLACK_MS]

    def _covered(self, span: Span) -> int:
        return sum(max(0, min(span.end_ms, own.end_ms) - max(span.start_ms, own.start_ms)) for own in self.finals)

    def wrong(self) -> list[str]:
        """What does not hold, in words."""
        overlaps = [b for a, b in pairwise(self.finals) if b.start_ms < a.end_ms]
        return [
            *([] if self.events == list(range(1, len(self.events) + 1)) else ["an event number is missing"]),
            *(f"a final overlaps the one before: {final}" for final in overlaps),
            *([] if self.audio_ms + self.gap_ms == self.sent_ms else ["audio and gaps are not what was sent"]),
            *([] if not self.finals or self.finals[-1].end_ms <= self.sent_ms else ["a final ends after the audio"]),
        ]


def speech(minutes: float, *, own: bool = False) -> bytes:
    """16 kHz LINEAR16: the shared recordings joined, or the recognizer's own over and over."""
    recordings = [] if own else [r for r in shared_recordings() if r.rate == RATE and r.readable]
    if not recordings and (only := sample()):
        recordings = [only]
    joined = bytearray()
    while len(joined) < minutes * 60 * RATE * 2:
        for recording in recordings:
            joined += _at_16_khz(*recording.pcm()) + PAUSE
    return bytes(joined[: int(minutes * 60 * RATE) * 2])


async def transcribe(plan: Plan) -> Run:
    """Changes this process's environment: one at a time."""
    audio = speech(plan.minutes, own=plan.own)
    faults = [option for fault in plan.faults for option in ("--fault", fault)]
    async with emulator("--seed", str(plan.seed), "--connection-faults", *faults) as address:
        os.environ |= _settings(plan, address)
        async with own_gateway(lambda _: None) as base:
            return await _through(base.replace("http", "ws") + "/ws/transcribe", plan, audio, address)


def _settings(plan: Plan, address: str) -> dict[str, str]:
    """What a gateway counts by the clock passes as much faster as the speech."""
    settings = {
        "UPSTREAM": f"grpc://{address}",
        "UPSTREAM_SPEED": 2 * plan.speed,
        "ANSWER_SECONDS": ANSWER_SECONDS / plan.speed,
        "LOG_LEVEL": "WARNING",
    }
    if plan.leg_seconds is not None:
        settings["LEG_SOFT_LIMIT_SECONDS"] = plan.leg_seconds / 2 / plan.speed
        settings["LEG_HARD_LIMIT_SECONDS"] = plan.leg_seconds / plan.speed
    return {f"GATEWAY_{name}": str(value) for name, value in settings.items()}


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
    config = SessionConfig(audio=Audio("LINEAR16", RATE), language_codes=["en-US"])
    finals: list[Span] = []
    events: list[int] = []
    gaps = 0
    async with Transcriber(url, config) as transcriber:
        sending = asyncio.create_task(_send(transcriber, plan, audio, emulator_address))
        async for message in transcriber.messages():
            match message:
                case Final():
                    finals.append(Span(message.start_ms, message.end_ms, message.text))
                case GapEvent():
                    gaps += 1
                case Stopped():
                    stopped = message
            if isinstance(message, Final | GapEvent | Stopped):
                events.append(message.event)
        over = await sending
        late = asyncio.get_running_loop().time() - over
    return Run(
        plan.name,
        words=normal(" ".join(final.text for final in finals)).split(),
        finals=finals,
        events=events,
        gaps=gaps,
        sent_ms=len(audio) * 1000 // (2 * RATE),
        audio_ms=stopped.audio_ms,
        gap_ms=stopped.gap_ms,
        streams=stopped.upstream_streams,
        late_seconds=round(late, 1),
    )


async def _send(transcriber: Transcriber, plan: Plan, audio: bytes, emulator_address: str) -> float:
    """At `speed` times real time; in the middle the upstream goes away. Returns when the speech was over."""
    clock = asyncio.get_running_loop().time
    began, middle = clock(), len(audio) // 2 // FRAME * FRAME
    for at in range(0, len(audio), FRAME):
        await asyncio.sleep(began + at / (2 * RATE * plan.speed) - clock())
        if plan.down_seconds and at == middle:
            await set_faults(emulator_address, [f"down at=now for={plan.down_seconds / plan.speed:g}s"])
        await transcriber.send(audio[at : at + FRAME])
    await transcriber.stop()
    return began + len(audio) / (2 * RATE * plan.speed)


def _at_16_khz(rate: int, pcm: bytes) -> bytes:
    if rate == RATE:
        return pcm
    import numpy as np  # noqa: PLC0415
    import soxr  # noqa: PLC0415

    return bytes(soxr.resample(np.frombuffer(pcm, np.int16), rate, RATE).astype(np.int16).tobytes())


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
