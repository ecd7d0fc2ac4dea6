"""The legs of one session that are at work: each is opened with all that it needs, and what it cost is told when it is
over. No rule of its own: which leg is opened, and when, legs.py says.
"""

from collections.abc import Callable
from typing import Any

from app.core.audio import AudioFormat, Pace
from app.core.handover import Handover, Stretch
from app.core.protocol import SessionConfig
from app.core.recognition import Event, LegEnded
from app.speech.activity import Activity
from app.speech.dialect import Dialect
from app.speech.errors import explain
from app.speech.leg import Leg
from app.speech.pool import Lease, NoPlace, Pool
from app.speech.responses import ResponseReader


class Roster:
    def __init__(
        self,
        config: SessionConfig,
        *,
        dialect: Dialect,
        pool: Pool,
        pace: Pace,
        queue_chunks: int,
        handover: Handover,
        activity: Activity,
        listen: Callable[[Event], None],
        heard: Callable[[Leg, Any], None],
        ended: Callable[[Leg], None],
        progress: Callable[[], None],
    ) -> None:
        """`listen` is told the bills. `heard`, `ended` and `progress` are called by the legs."""
        self.hearing: dict[Stretch, Leg] = {}
        """The leg that hears a stretch now; a stretch that waits for its next leg has none."""
        self.retired: set[Leg] = set()
        """Legs whose audio was handed back: only their bill is still awaited."""
        self.had_a_place = False
        """A leg of this session: it is no new one any more."""
        self.hold = True
        """The next leg's config was not taken by Google before, or the last leg failed."""
        self._config = config
        self._dialect = dialect
        self._pool = pool
        self._pace = pace
        self._queue_chunks = queue_chunks
        self._handover = handover
        self._activity = activity
        self._listen = listen
        self._heard = heard
        self._ended = ended
        self._progress = progress
        self._format = AudioFormat.of(config.audio)
        self._finals_end: dict[int, int] = {}
        self._sent = 0
        """How far audio went upstream, on legs that are over."""

    def open(self, stretch: Stretch, now: float) -> None:
        """A leg for a stretch that has none. It waits for its place by itself."""
        start = self._handover.restart(stretch)
        leg = Leg(
            stretch,
            start=start,
            replays_until=max([self._sent, *(leg.sent for leg in self._all)]),
            now=now,
            config=self._activity.config_for(start),
            dialect=self._dialect,
            reader=ResponseReader(self._dialect.names, self._config, self._format, start, self._finals_end),
            kept=lambda at: self._handover.read(stretch, at),
            backlog_bytes=self._handover.taken - start,
            progress=self._progress,
            pace=self._pace,
            queue_chunks=self._queue_chunks,
            hold=self.hold,
        )
        self.hold = False
        self._activity.forget()
        self.hearing[stretch] = leg
        leg.open(self._acquire, self._heard, self._ended)
        if stretch.end is not None:
            leg.half_close(now)

    def retire(self, leg: Leg, now: float) -> None:
        """Another leg hears its stretch."""
        for response in leg.backlog:
            leg.reader.read_bill(response)
        if leg.ended:
            self.strike(leg)
            return
        del self.hearing[leg.stretch]
        self.retired.add(leg)
        if leg.has_place:
            leg.half_close(now)
        else:
            leg.give_up(NoPlace("it is not needed any more"))

    def strike(self, leg: Leg) -> None:
        """It has ended, and all that it said was heard: its bill is told."""
        if leg in self.retired:
            self.retired.remove(leg)
        else:
            del self.hearing[leg.stretch]
        self._tell_bill(leg)

    async def close(self) -> None:
        """Ends every call at once."""
        legs = self._all
        self.hearing.clear()
        self.retired.clear()
        for leg in legs:
            await leg.close()
            self._tell_bill(leg)

    @property
    def _all(self) -> list[Leg]:
        return [*self.hearing.values(), *self.retired]

    async def _acquire(self) -> Lease:
        lease = await self._pool.acquire(running=self.had_a_place)
        self.had_a_place = True
        return lease

    def _tell_bill(self, leg: Leg) -> None:
        if not leg.has_place:
            return  # it was never a stream of the upstream's
        self._sent = max(self._sent, leg.sent)
        replayed = max(0, min(leg.sent, leg.replays_until) - leg.start)
        code = explain(leg.error).code.name if leg.ended else "CANCELLED"
        self._listen(LegEnded(leg.reader.billed_ms, self._format.ms(replayed), code))
