"""What a transcription brings back, and what has to hold in it whatever befell it; the speech, and how it is spoken."""

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from msgspec import Struct

from app.client import Audio, Message, SessionConfig, Transcriber
from app.core.protocol import Durable, Final, GapEvent, Interim, Stopped
from tests.speech_files import normal, sample, shared_recordings

RATE = 16_000
BYTES_PER_SECOND = 2 * RATE
CONFIG = SessionConfig(audio=Audio("LINEAR16", RATE), language_codes=["en-US"])
PAUSE = bytes(BYTES_PER_SECOND // 2)
"""Between recordings."""
FRAME = BYTES_PER_SECOND // 10
SLACK_MS = 300
"""The same speech may begin so much earlier or later to a recognizer that was fed from elsewhere on."""


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
    wait_seconds: float
    """From a word to the first caption that has it, the median of all captions."""
    longest_wait_seconds: float

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


@dataclass(frozen=True, slots=True)
class Spoken:
    """When it was said, by the loop's clock."""

    began: float
    ended: float
    speed: float


Said = tuple[Message, float]
"""With the time when it came."""


async def hear(transcriber: Transcriber, name: str, speaking: Callable[[], Awaitable[Spoken]]) -> Run:
    """Until `stopped`; speaks meanwhile. Raises TranscriberError where the session fails."""
    clock = asyncio.get_running_loop().time
    speech = asyncio.ensure_future(speaking())
    try:
        said = [(message, clock()) async for message in transcriber.messages()]
        spoken = await speech
    finally:
        speech.cancel()
    messages = [message for message, _ in said]
    stopped, over = said[-1]
    assert isinstance(stopped, Stopped)
    finals = [Span(said.start_ms, said.end_ms, said.text) for said in messages if isinstance(said, Final)]
    waits = sorted(_waits(said, spoken)) or [0.0]
    return Run(
        name,
        words=normal(" ".join(final.text for final in finals)).split(),
        finals=finals,
        events=[message.event for message in messages if isinstance(message, Durable)],
        gaps=sum(isinstance(message, GapEvent) for message in messages),
        sent_ms=transcriber.sent * 1000 // BYTES_PER_SECOND,
        audio_ms=stopped.audio_ms,
        gap_ms=stopped.gap_ms,
        streams=stopped.upstream_streams,
        late_seconds=round(over - spoken.ended, 1),
        wait_seconds=round(statistics.median(waits), 2),
        longest_wait_seconds=round(waits[-1], 2),
    )


def _waits(said: Iterable[Said], spoken: Spoken) -> Iterator[float]:
    """Seconds, for each caption that has more of the speech than the one before: from the beginning of that."""
    covered = 0
    for message, at in said:
        if isinstance(message, Final | Interim) and message.text and message.end_ms > covered:
            news = max(covered, message.start_ms)
            covered = message.end_ms
            yield at - (spoken.began + news / 1000 / spoken.speed)


async def speak(
    transcriber: Transcriber, audio: bytes, speed: float, halfway: Callable[[], Awaitable[None]] | None = None
) -> Spoken:
    """At `speed` times real time, and no more after it."""
    clock = asyncio.get_running_loop().time
    began, middle = clock(), len(audio) // 2 // FRAME * FRAME
    for at in range(0, len(audio), FRAME):
        await asyncio.sleep(began + at / (BYTES_PER_SECOND * speed) - clock())
        if halfway and at == middle:
            await halfway()
        await transcriber.send(audio[at : at + FRAME])
    await transcriber.stop()
    return Spoken(began, began + len(audio) / (BYTES_PER_SECOND * speed), speed)


def speech(minutes: float, *, own: bool = False) -> bytes:
    """16 kHz LINEAR16: the shared recordings joined, or the recognizer's own over and over."""
    recordings = [] if own else [r for r in shared_recordings() if r.rate == RATE and r.readable]
    if not recordings and (only := sample()):
        recordings = [only]
    joined = bytearray()
    while len(joined) < minutes * 60 * BYTES_PER_SECOND:
        for recording in recordings:
            joined += _at_16_khz(*recording.pcm()) + PAUSE
    return bytes(joined[: int(minutes * 60 * RATE) * 2])


def _at_16_khz(rate: int, pcm: bytes) -> bytes:
    if rate == RATE:
        return pcm
    import numpy as np  # noqa: PLC0415
    import soxr  # noqa: PLC0415

    return bytes(soxr.resample(np.frombuffer(pcm, np.int16), rate, RATE).astype(np.int16).tobytes())
