"""Speech-to-Text for one session: leg after leg, one at a time in each byte's life.

    send -> Gatherer (about 100 ms) -> ReplayBuffer -> leg.queue -> generator -> streaming_recognize
    streaming_recognize -> ResponseReader (session's clock) -> listen(event)

Every byte of audio belongs to exactly one leg. Legs may overlap in time (the old one drains while the new one takes
audio), but are heard one after the other: what a younger leg says waits in its backlog, so finals come in order.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.core.audio import AudioFormat, Gatherer, Pace, ReplayBuffer
from app.core.errors import SessionError
from app.core.protocol import SessionConfig
from app.core.recognition import (
    ActivityTimeout,
    Event,
    Failed,
    Finished,
    LegEnded,
    Result,
    Settled,
    SpeechActivity,
    Throttled,
)
from app.speech.dialect import MAX_AUDIO_BYTES, Dialect
from app.speech.errors import explain
from app.speech.leg import Leg
from app.speech.pool import Lease
from app.speech.responses import ResponseReader

PACE_BURST_SECONDS = 2.0
"""Audio that may go up at once, before the pace counts: a phone's short hiccup is not slowed down."""
MAX_LEGS = 4
"""Legs of one session at a time: the one that hears, and those whose last words are awaited."""


@dataclass(frozen=True, slots=True)
class LegLimits:
    """How audio is handed to legs. Seconds, where nothing else is said."""

    chunk_ms: int = 100
    queue: float = 2.0
    """Audio that waits in a leg's queue before `send` waits."""
    replay: float = 120.0
    """Audio that is kept until it is settled: the bound on memory per session."""
    speed: float = 2.0
    """Times real time: Google asks for "a rate that approximates real time" and refuses bursts."""
    idle: float = 4.0
    """Without audio for that long a leg is half-closed (Google ends idle ones after 5 to 10 s)."""
    quiet: float = 30.0
    """Unsettled audio without speech after which the leg is changed, which settles it."""
    utterance: float = 60.0
    """Unsettled audio after which the leg is changed even in the middle of speech."""
    soft: float = 240.0
    """Age at which a leg is changed at the next pause between words."""
    hard: float = 285.0
    """Age at which it is changed in any case: before Google's own limit of 300 s."""


class GoogleRecognizer:
    """`listen` is called with each event, in order, from the recognizer's own tasks; it must not wait."""

    def __init__(
        self,
        config: SessionConfig,
        *,
        dialect: Dialect,
        acquire: Callable[[], Lease],
        limits: LegLimits,
        listen: Callable[[Event], None],
    ) -> None:
        self._config = config
        self._dialect = dialect
        self._acquire = acquire
        self._limits = limits
        self._listen = listen
        self._format = AudioFormat.of(config.audio)
        frame, rate = self._format.frame_bytes, self._format.bytes_per_second
        chunk_bytes = min(rate * limits.chunk_ms // 1000, MAX_AUDIO_BYTES)
        chunk_bytes -= chunk_bytes % frame
        self._gatherer = Gatherer(chunk_bytes, frame)
        self._buffer = ReplayBuffer()
        self._pace = Pace(limits.speed * rate, PACE_BURST_SECONDS * rate)
        self._queue_chunks = max(1, round(limits.queue * rate / chunk_bytes))
        self._chunk_bytes = chunk_bytes
        self._taken = 0
        """Bytes of the session that were handed to legs or skipped."""
        self._settled = 0
        self._legs: deque[Leg] = deque()
        self._speaking = False
        self._room = asyncio.Event()
        self._putting = False
        """A chunk waits for its turn: the gatherer's audio comes after it."""
        self._torn = 0
        """Bytes to come that are the rest of a sample which a gap has cut."""
        self._deaf = False
        """The upstream hears no more: audio is dropped."""
        self._throttled = False
        self._audio_at = 0.0
        self._finished = False
        self._untried = True
        """Google has not seen this session's config yet."""

    @property
    def queued_ms(self) -> int:
        """Audio that waits to go upstream."""
        return sum(leg.queue.qsize() for leg in self._legs) * self._format.ms(self._chunk_bytes)

    # Audio goes in ------------------------------------------------------------------------------

    async def send(self, audio: bytes) -> None:
        """Takes audio of any length; waits while the upstream is behind. Not for two tasks at once."""
        rest = min(self._torn, len(audio))
        self._torn -= rest
        self._taken += rest
        for chunk in self._gatherer.add(audio[rest:]):
            await self._put(chunk)

    async def skip(self, count: int) -> None:
        """The session's audio goes on `count` bytes later: a seam, since a leg's time has no holes."""
        await self._cut()
        self._taken += self._gatherer.drop() + count
        self._torn = -self._taken % self._format.frame_bytes
        self._settle_if_idle()

    async def finalize(self) -> None:
        """Everything sent so far becomes final now."""
        await self._cut()
        self._settle_if_idle()

    async def finish(self) -> None:
        """No more audio will come."""
        self._finished = True
        await self._cut()
        self._taken += len(self._gatherer)  # part of a sample: not even silence
        self._settle_if_idle()

    def tick(self, now: float) -> None:
        """At least every second: parks a leg that gets no audio, tells when the throttle is off again."""
        leg = self._current
        if leg and leg.queue.empty() and now - self._audio_at >= self._limits.idle:
            if not self._putting and (rest := self._gatherer.flush()):
                self._account(leg, rest)
                leg.queue.put_nowait(rest)
            leg.half_close_nowait()
        if self._throttled and not self._putting and self.queued_ms == 0:
            self._throttled = False
            self._listen(Throttled(active=False, queued_ms=0))

    async def close(self) -> None:
        """Ends every call at once. Nothing is heard afterwards."""
        self._listen = _ignore
        legs, self._legs = self._legs, deque()
        for leg in legs:
            await leg.close()

    @property
    def _current(self) -> Leg | None:
        """The leg that takes audio."""
        return self._legs[-1] if self._legs and not self._legs[-1].half_closed else None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _put(self, chunk: bytes) -> None:
        self._putting = True
        try:
            if not self._deaf:
                await self._hand_over(chunk)
        finally:
            self._putting = False

    async def _hand_over(self, chunk: bytes) -> None:
        await self._wait_while(lambda: len(self._buffer) >= self._limits.replay * self._format.bytes_per_second)
        if self._is_due_for_change(self._now()):
            await self._half_close()
        await self._wait_while(lambda: self._current is None and len(self._legs) >= MAX_LEGS)
        if self._deaf:
            return
        leg = self._current or self._open(self._now())
        self._account(leg, chunk)
        self._audio_at = self._now()
        if leg.queue.full():
            self._throttle()
        await leg.queue.put(chunk)

    def _account(self, leg: Leg, chunk: bytes) -> None:
        self._buffer.append(self._taken, chunk)
        self._taken += len(chunk)
        leg.end = self._taken

    async def _wait_while(self, full: Callable[[], bool]) -> None:
        while full() and not self._deaf:
            self._throttle()
            self._room.clear()
            await self._room.wait()

    def _throttle(self) -> None:
        if not self._throttled:
            self._throttled = True
            self._listen(Throttled(active=True, queued_ms=self.queued_ms))

    def _is_due_for_change(self, now: float) -> bool:
        """A seam costs nothing in silence, so an old leg waits for silence until it can wait no longer."""
        leg = self._current
        if leg is None:
            return False
        age = now - leg.opened_at
        unsettled = (self._taken - max(self._settled, leg.start)) / self._format.bytes_per_second
        limits = self._limits
        if self._speaking:
            return age >= limits.hard or unsettled >= limits.utterance
        return age >= limits.soft or unsettled >= limits.quiet

    async def _cut(self) -> None:
        """Hands over what was gathered and half-closes the leg."""
        if rest := self._gatherer.flush():
            await self._put(rest)
        await self._half_close()

    async def _half_close(self) -> None:
        if leg := self._current:
            await leg.half_close()

    def _open(self, now: float) -> Leg:
        leg = Leg(
            start=self._taken,
            now=now,
            config=self._config,
            dialect=self._dialect,
            reader=ResponseReader(self._dialect.names, self._config, self._format, self._taken),
            pace=self._pace,
            queue_chunks=self._queue_chunks,
            hold=self._untried,
        )
        self._untried = False
        self._legs.append(leg)
        self._speaking = False
        leg.open(self._acquire(), self._heard, self._ended)
        return leg

    # Words come out -----------------------------------------------------------------------------

    def _heard(self, leg: Leg, response: Any) -> None:
        if not self._legs or leg is not self._legs[0]:
            leg.backlog.append(response)
            return
        for event in leg.reader.read(response, leg.end):
            self._say(leg, event)

    def _say(self, leg: Leg, event: Event) -> None:
        match event:
            case Settled(offset):
                self._settle(offset)
            case SpeechActivity(active):
                self._speaking = active and leg is self._current
                self._listen(event)
            case Result(is_final=is_final):
                self._speaking = not is_final and leg is self._current
                self._listen(event)
            case ActivityTimeout():
                self._deafen()
                self._listen(event)
            case _:
                self._listen(event)

    def _ended(self, leg: Leg) -> None:
        """A leg's call is over; every leg that nobody waits for any more is closed, oldest first."""
        while self._legs and self._legs[0].ended:
            leg = self._legs.popleft()
            self._close_books(leg)
            if self._legs:
                for response in self._legs[0].backlog:
                    self._heard(self._legs[0], response)
                self._legs[0].backlog.clear()
        self._room.set()
        if self._finished:
            self._settle_if_idle()

    def _close_books(self, leg: Leg) -> None:
        self._listen(LegEnded(leg.reader.billed_ms))
        if leg.error is not None:
            self._listen(Failed(explain(leg.error)))
        elif leg.half_closed:
            self._settle(self._legs[0].start if self._legs else self._taken)
        elif self._config.voice_activity_timeout is not None:
            self._deafen()
            self._settle(self._taken)
            self._listen(ActivityTimeout())
        else:
            self._listen(Failed(SessionError("upstream_unavailable", "Speech-to-Text ended the stream unasked")))

    def _deafen(self) -> None:
        self._deaf = True
        self._room.set()

    def _settle(self, offset: int) -> None:
        self._settled = max(self._settled, offset)
        self._buffer.settle(self._settled)
        self._room.set()
        self._listen(Settled(self._settled))

    def _settle_if_idle(self) -> None:
        """With no leg at work everything has been heard."""
        if not self._legs:
            self._settle(self._taken)
            if self._finished:
                self._listen(Finished())


def _ignore(_event: Event) -> None:
    pass
