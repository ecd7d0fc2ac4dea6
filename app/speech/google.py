"""Speech-to-Text for one session, seen from the relay: audio goes in at a bounded pace, what is heard comes out.

    send -> Gatherer (about 100 ms) -> Gate (if any: long silence ends here)
         -> Legs (speech/legs.py): kept until settled + leg.queue -> generator -> Google

`send` is the one place that waits: while the pace is too fast, the upstream is behind, or as much is kept as may be.
"""

import asyncio
from collections.abc import Callable

from app.core.audio import AudioFormat, Gatherer, Pace
from app.core.breaker import Breaker
from app.core.protocol import SessionConfig
from app.core.recognition import Event, Result, Settled, Throttled
from app.speech.dialect import MAX_AUDIO_BYTES, Dialect
from app.speech.gate import Gate, Passed
from app.speech.legs import Legs
from app.speech.limits import LegLimits
from app.speech.pool import Pool

PACE_BURST_SECONDS = 2.0
"""Audio that may go up at once, before the pace counts: a phone's short hiccup is not slowed down."""
THROTTLE_OFF_SECONDS = 0.3
"""Without a delay for so long, and with nothing queued, the client is told that it may go on as it likes."""


class GoogleRecognizer:
    """`listen` is called with each event, in order, from the recognizer's own tasks; it must not wait."""

    def __init__(
        self,
        config: SessionConfig,
        *,
        dialect: Dialect,
        pool: Pool,
        breaker: Breaker,
        limits: LegLimits,
        gate: Gate | None,
        listen: Callable[[Event], None],
    ) -> None:
        self._limits = limits
        self._gate = gate
        self._listen = listen
        self._format = AudioFormat.of(config.audio)
        frame, rate = self._format.frame_bytes, self._format.bytes_per_second
        chunk_bytes = min(rate * limits.chunk_ms // 1000, MAX_AUDIO_BYTES)
        chunk_bytes -= chunk_bytes % frame
        self.chunk_bytes = chunk_bytes
        self._gatherer = Gatherer(chunk_bytes, frame, MAX_AUDIO_BYTES - MAX_AUDIO_BYTES % frame)
        self._intake = Pace(limits.speed * rate, PACE_BURST_SECONDS * rate)
        self._room: asyncio.Event | None = None
        """There may be room now, for who has waited for it."""
        self._legs = Legs(
            config,
            dialect=dialect,
            pool=pool,
            breaker=breaker,
            limits=limits,
            pace=Pace(limits.speed * rate, PACE_BURST_SECONDS * rate),
            chunk_bytes=chunk_bytes,
            listen=self._hear,
            progress=self._look_for_room,
        )
        self._putting = False
        """A chunk waits for its turn: the gatherer's audio comes after it."""
        self._received = 0
        """Bytes of the session so far, gaps too."""
        self._torn = 0
        """Bytes to come that are the rest of a sample which a gap has cut."""
        self._throttled = False
        self._delayed_until = float("-inf")
        self._clock = asyncio.get_running_loop().time

    @property
    def queued_ms(self) -> int:
        """Audio that waits to go upstream."""
        return self._format.ms(self._legs.queued_bytes)

    async def send(self, audio: bytes) -> None:
        """Takes audio of any length; waits while the upstream is behind. Not for two tasks at once."""
        self._received += len(audio)
        if rest := min(self._torn, len(audio)):
            self._torn -= rest
            self._legs.skip(rest, self._clock())
        for chunk in self._gatherer.add(audio[rest:]):
            await self._put(chunk)

    async def skip(self, count: int) -> None:
        """The session's audio goes on `count` bytes later: a seam, since a leg's time has no holes."""
        await self._cut()
        self._received += count
        taken = self._legs.skip(self._gatherer.drop() + count, self._clock())
        self._torn = -taken % self._format.frame_bytes

    async def finalize(self) -> None:
        """Everything sent so far becomes final now."""
        await self._cut()

    async def finish(self) -> None:
        """No more audio will come."""
        now = self._clock()
        await self._cut()
        self._legs.finish(now, self._gatherer.drop())  # part of a sample: not even silence

    async def close(self) -> None:
        """Ends every call at once. Nothing is heard afterwards."""
        await self._legs.close()
        self._listen = _ignore

    def tick(self, now: float) -> None:
        """At least every second: parks a leg that gets no audio, gives up one that does not answer."""
        if self._legs.is_idle(now) and not self._putting:
            self._legs.park(now, self._gatherer.flush())
        self._legs.tick(now)
        if self._legs.is_deadlocked(now):
            self._legs.park(now, b"")
        keeps_up = (
            not self._putting
            and self.queued_ms <= self._limits.chunk_ms
            and now - self._delayed_until > THROTTLE_OFF_SECONDS
        )
        piles_up = self._legs.is_away and self.queued_ms > self._limits.queue * 1000
        self._throttle(on=piles_up or (self._throttled and not keeps_up))

    async def _put(self, chunk: bytes) -> None:
        self._putting = True
        try:
            if self._legs.deaf:
                return
            if self._gate is None:
                await self._hand_over(chunk)
            else:
                end = self._received - len(self._gatherer)
                await self._pass(self._gate, self._gate.take(chunk, end, busy=self._legs.is_busy))
        finally:
            self._putting = False

    async def _pass(self, gate: Gate, passed: Passed) -> None:
        """What goes unheard is paced, too: a file of silence must not keep the loop from others."""
        if not gate.is_open:  # what was open ends, though nothing goes unheard yet
            self._legs.skip(passed.unheard, await self._paced(passed.unheard))
        for chunk in passed.heard:
            await self._hand_over(chunk)

    async def _hand_over(self, chunk: bytes) -> None:
        if self._legs.is_full(len(chunk)):
            await self._wait_while(lambda: self._legs.is_full(len(chunk)))
        now = await self._paced(len(chunk))
        self._legs.change_if_due(now, chunk)
        if self._legs.is_crowded:
            await self._wait_while(lambda: self._legs.is_crowded)
        if not self._legs.deaf:
            await self._legs.put(chunk, now)

    async def _wait_while(self, full: Callable[[], bool]) -> None:
        while full() and not self._legs.deaf:
            self._throttle(on=True)
            self._room = room = self._room or asyncio.Event()
            room.clear()
            await room.wait()

    def _look_for_room(self) -> None:
        if self._room is not None:
            self._room.set()

    async def _paced(self, count: int) -> float:
        """Audio is taken no faster than it may go up, however much may be kept. Returns the time after that."""
        now = self._clock()
        if (delay := self._intake.delay(now, count)) > 0:
            self._throttle(on=True)
            self._delayed_until = now + delay
            await asyncio.sleep(delay)
            now = self._clock()
        return now

    async def _cut(self) -> None:
        """Hands over what was gathered and ends the open stretch."""
        if rest := self._gatherer.flush():
            await self._put(rest)
        if self._gate is not None:
            await self._pass(self._gate, self._gate.rest())
        self._legs.cut(self._clock())

    def _hear(self, event: Event) -> None:
        if isinstance(event, Settled):
            self._look_for_room()
        elif isinstance(event, Result) and event.text and self._gate is not None:
            at = self._format.offset
            self._gate.words(at(event.start_ms), at(event.end_ms), is_final=event.is_final)
        self._listen(event)

    def _throttle(self, *, on: bool) -> None:
        if on is not self._throttled:
            self._throttled = on
            self._listen(Throttled(active=on, queued_ms=self.queued_ms))


def _ignore(_event: Event) -> None:
    pass
