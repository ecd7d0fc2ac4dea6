"""How long one reader waits: the sample recording at real time through a gateway with the embedded emulator.

Counted from the moment the speech is spoken, not from when its frame is sent: the 100 ms that a frame takes to fill are
part of what a reader waits.
"""

import asyncio
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from app.cli.demo import own_gateway
from app.cli.run import in_real_time
from app.cli.wav import Wav, open_wav
from app.client import Audio, Message, SessionConfig, Transcriber
from app.core.audio import AudioFormat
from app.core.protocol import Final, Interim, SpeechEnded, SpeechStarted
from app.emulator.models import sample_recording

FRAME_MS = 100
WANTED_SECONDS = {"first interim": 1.5, "final": 2.0}


@dataclass
class Waits:
    """Seconds, one for each utterance. `spoken_at` says when a millisecond of the audio was spoken."""

    spoken_at: Callable[[int], float]
    first_interims: list[float] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)
    interims: int = 0
    _began_ms: int | None = None
    _ended_ms: int | None = None

    def hear(self, message: Message, now: float) -> None:
        self.interims += isinstance(message, Interim)
        match message:
            case SpeechStarted():
                self._began_ms = message.at_ms
            case SpeechEnded():
                self._ended_ms = message.at_ms
            case Interim() if self._began_ms is not None:
                self.first_interims.append(now - self.spoken_at(self._began_ms))
                self._began_ms = None
            case Final() if self._ended_ms is not None:
                self.finals.append(now - self.spoken_at(self._ended_ms))
                self._ended_ms = None


async def measure(url: str, wav: Wav) -> Waits:
    audio = Audio(wav.encoding, wav.sample_rate_hertz)
    config = SessionConfig(audio=audio, language_codes=["en-US"], enable_voice_activity_events=True)
    clock = asyncio.get_running_loop().time
    async with Transcriber(url, config, frame_ms=FRAME_MS) as transcriber:
        began = clock()
        waits = Waits(lambda ms: began + ms / 1000)
        feeding = asyncio.create_task(_feed(transcriber, wav, AudioFormat.of(audio).bytes_per_second))
        async for message in transcriber.messages():
            waits.hear(message, clock())
        await feeding
    return waits


async def _feed(transcriber: Transcriber, wav: Wav, bytes_per_second: int) -> None:
    async for chunk in in_real_time(wav.chunks(FRAME_MS), bytes_per_second):
        await transcriber.send(chunk)
    await transcriber.stop()


def table(waits: Waits) -> Table:
    made = Table(title=f"One stream at real time, {os.cpu_count()} cores", title_justify="left")
    made.add_column("seconds")
    for column in ("utterances", "median", "p90", "worst", "wanted (median)"):
        made.add_column(column, justify="right")
    for (name, wanted), seconds in zip(WANTED_SECONDS.items(), (waits.first_interims, waits.finals), strict=True):
        made.add_row(name, str(len(seconds)), *map(_text, _spread(seconds)), f"{wanted:.1f}")
    return made


def _spread(seconds: list[float]) -> tuple[float, float, float]:
    """Median, 90th percentile (of what was measured, nothing between), worst."""
    ordered = sorted(seconds) or [float("nan")]
    return statistics.median(ordered), ordered[-(-len(ordered) * 9 // 10) - 1], ordered[-1]


def _text(seconds: float) -> str:
    return f"{seconds:.2f}"


async def main() -> None:
    console = Console()
    recording = sample_recording()
    if recording is None:
        raise SystemExit("latency: the sample recording is not installed")
    async with own_gateway(console.print) as url:
        with open_wav(recording) as wav:
            console.print(f"{(wav.total_ms or 0) / 1000:.0f} s of speech at real time ...")
            waits = await measure(f"{url.replace('http', 'ws', 1)}/ws/transcribe", wav)
    console.print(table(waits))
