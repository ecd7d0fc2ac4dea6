"""The legs of one session: they come and go, and what they say becomes events.

    put -> Handover (kept until settled) + leg.queue -> generator -> streaming_recognize
    streaming_recognize -> ResponseReader (session's clock) -> Handover (does it count?) -> listen(event)

Which leg owns which byte is the Handover's to say (core/handover.py). Legs may overlap in time, but are heard one after
the other: what a younger one says waits in its backlog, so finals come in order.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from msgspec import structs

from app.core.audio import AudioFormat, Pace
from app.core.breaker import Backoff, Breaker, BreakerState
from app.core.handover import Handover, Stretch
from app.core.protocol import SessionConfig, VoiceActivityTimeout
from app.core.recognition import (
    ActivityTimeout,
    Event,
    Failed,
    Finished,
    LegEnded,
    Lost,
    Result,
    Retrying,
    Settled,
    SpeechActivity,
)
from app.speech.dialect import Dialect
from app.speech.errors import Code, Ending, Verdict, explain
from app.speech.leg import Leg
from app.speech.limits import LegLimits
from app.speech.pool import Lease
from app.speech.responses import ResponseReader
from app.speech.seam import Pauses

UNTOLD_SECONDS = 2.0
"""Speech that has gone on for so long was told by the upstream's voice activity, or by an interim."""
MIN_TIMEOUT_MS = 501
"""Google's own bound on a voice-activity timeout is over 500 ms."""
MAX_LEGS = 4
"""Legs of one session at a time: the one that hears, and those whose last words are awaited."""
BACKOFF_BASE, BACKOFF_CAP = 0.25, 10.0
AT_ONCE_TRIES = 2
"""Legs that may follow a failed one at once, in a row; then even those wait."""


class Legs:
    """`listen` is called with each event, in order; `progress` whenever there may be room for more audio."""

    def __init__(
        self,
        config: SessionConfig,
        *,
        dialect: Dialect,
        acquire: Callable[[], Lease],
        breaker: Breaker,
        limits: LegLimits,
        pace: Pace,
        chunk_bytes: int,
        listen: Callable[[Event], None],
        progress: Callable[[], None],
    ) -> None:
        self._config = config
        self._dialect = dialect
        self._acquire = acquire
        self._breaker = breaker
        self._limits = limits
        self._pace = pace
        self._listen = listen
        self._progress = progress
        self._format = AudioFormat.of(config.audio)
        rate = self._format.bytes_per_second
        self._queue_bytes = round(limits.queue * rate)
        self._queue_chunks = max(1, self._queue_bytes // chunk_bytes + 1)
        self._kept_limit = round(limits.replay * rate)
        self._handover = Handover()
        self._legs: dict[Stretch, Leg] = {}
        """The leg that hears a stretch now; a stretch that waits for its next leg has none."""
        self._retired: set[Leg] = set()
        """Legs whose audio was handed back: only their bill is still awaited."""
        self._finals_end: dict[int, int] = {}
        self._pauses = Pauses(self._format.encoding)
        self._speaking = False
        self._speech_heard = False
        self._silent_since_ms: int | None = None
        self._handed_back_at = -1
        """Where the last utterance began that was too long for its leg."""
        self._audio_at = 0.0
        self.deaf = False
        """The upstream hears no more: audio is dropped."""
        self._finished_at: float | None = None
        self._hold = True
        """The next leg's config was not taken by Google before, or the last leg failed."""
        self._backoff = Backoff(BACKOFF_BASE, BACKOFF_CAP)
        self._retry: asyncio.Task[None] | None = None
        self._told_retrying = False
        self._lost: tuple[int, int] | None = None
        self._clock = asyncio.get_running_loop().time

    # Audio comes --------------------------------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        """Audio that waits to go upstream."""
        leg = self._newest
        sent = leg.sent if leg else self._handover.settled
        return max(0, self._handover.taken - sent)

    def is_full(self, more: int) -> bool:
        """As much is kept as may be, or the leg is further behind than when it began."""
        if self._retry is not None:
            return False  # meanwhile the oldest audio makes room
        leg = self._newest
        behind = leg.behind(self._handover.taken) if leg and not leg.ended else 0
        return self._handover.kept + more > self._kept_limit or behind > self._queue_bytes + (
            leg.backlog_bytes if leg else 0
        )

    @property
    def is_crowded(self) -> bool:
        """The next chunk would need one leg too many."""
        return self._handover.open is None and self._at_work >= MAX_LEGS

    async def put(self, chunk: bytes, now: float) -> None:
        """Waits while the leg's queue is full."""
        self._audio_at = now
        stretch = self._handover.append(chunk)
        if self._retry is not None:
            self._note_lost(self._handover.give_up(self._kept_limit))
        if leg := self._legs.get(stretch):
            await leg.put(chunk)
        elif self._retry is None:
            self._open(stretch, now)

    def skip(self, count: int, now: float) -> int:
        """The session's audio goes on `count` bytes later; returns where."""
        self.cut(now)
        self._handover.skip(count)
        self._say_settled()
        return self._handover.taken

    def cut(self, now: float) -> None:
        """Ends the open stretch: its leg says its last words."""
        stretch = self._handover.cut()
        if stretch is not None and (leg := self._legs.get(stretch)):
            leg.half_close(now)
        self._say_settled()

    def finish(self, now: float, left: int) -> None:
        """No more audio will come but `left` bytes that nobody will hear."""
        self._finished_at = now
        self.skip(left, now)
        self._finish_if_done()

    async def close(self) -> None:
        """Ends every call at once. Nothing is heard afterwards."""
        self._listen = _ignore
        if self._retry is not None:
            self._retry.cancel()
            await asyncio.gather(self._retry, return_exceptions=True)
        legs = [*self._legs.values(), *self._retired]
        self._legs.clear()
        self._retired.clear()
        for leg in legs:
            await leg.close()

    @property
    def _newest(self) -> Leg | None:
        stretches = self._handover.stretches
        return self._legs.get(stretches[-1]) if stretches else None

    @property
    def _at_work(self) -> int:
        return len(self._handover.stretches) + len(self._retired)

    # Time passes --------------------------------------------------------------------------------

    def is_idle(self, now: float) -> bool:
        """No audio came for longer than an open leg bears."""
        return self._handover.open is not None and now - self._audio_at >= self._limits.idle and self.queued_bytes == 0

    def park(self, now: float, rest: bytes) -> None:
        """Ends the open stretch after `rest`, for which its leg has room."""
        if rest:
            stretch = self._handover.append(rest)
            if leg := self._legs.get(stretch):
                leg.put_nowait(rest)
        self.cut(now)

    def tick(self, now: float) -> None:
        """At least every second: gives up a leg that does not answer."""
        for leg in [*self._legs.values(), *self._retired]:
            if self._is_dead(leg, now):
                leg.give_up(TimeoutError(f"no answer for {self._limits.answer:g} s"))
        if self._finished_at is not None and self._retry and now - self._finished_at >= self._limits.replay:
            self._note_lost(self._handover.abandon())
            self._finish_if_done()

    def _is_dead(self, leg: Leg, now: float) -> bool:
        """It takes no audio, or owes an answer: it is not connected, was half-closed, or speech goes into it."""
        if leg.ended:
            return False
        stuck = leg.behind(self._handover.taken) > self._format.bytes_per_second and leg.half_closed_at is None
        spoken_to = (
            self._speaking and leg is self._newest and self._config.interim_results
        )  # else finals may be far apart
        owes = not leg.connected or leg.half_closed_at is not None or spoken_to
        silent_since = max(leg.heard_at, leg.half_closed_at or 0.0)
        if stuck or leg.half_closed_at is not None:
            silent_since = max(silent_since, leg.sent_at)
        return (owes or stuck) and now - silent_since >= self._limits.answer

    def change_if_due(self, now: float, chunk: bytes) -> None:
        """A seam costs nothing in silence, or where a final ended. An old leg waits for either as long as it can; then
        the next one begins at the last final, and hears the utterance again. Only an utterance that is too long for
        that is cut, in a pause between words where one is found in time."""
        leg, limits = self._newest, self._limits
        if leg is None or self._handover.open is None:
            return
        age = now - leg.opened_at
        unheard = self._handover.taken - max(self._handover.settled, leg.stretch.start)
        unsettled = unheard / self._format.bytes_per_second
        if not self._speaking:
            if (age >= limits.soft or unsettled >= limits.quiet) and self._at_work < MAX_LEGS:
                self._change_in_silence(leg, now)
        elif self._handover.settled > self._handed_back_at and unsettled < limits.utterance:
            if age >= limits.hard:
                self._handed_back_at = self._handover.settled
                self._hand_back(leg)
        elif self._pauses.is_seam(chunk, max(age / limits.hard, unsettled / limits.utterance)):
            self.cut(now)

    def _change_in_silence(self, leg: Leg, now: float) -> None:
        """Speech may have begun that the upstream has not told of yet: the next leg hears the last moments too."""
        behind = self._format.offset(UNTOLD_SECONDS * 1000)
        if stretch := self._handover.cut_behind(self._handover.taken - behind):
            leg.half_close(now)
            self._open(stretch, now)

    def _note_lost(self, lost: tuple[int, int] | None) -> None:
        """While the upstream is away: what is over the limit is lost, and that is said once it is known how much."""
        if lost:
            self._lost = (self._lost[0] if self._lost else lost[0], lost[1])

    def _say_lost(self) -> None:
        if self._lost:
            self._listen(Lost(*self._lost))
            self._lost = None

    # Legs come and go ---------------------------------------------------------------------------

    def _open(self, stretch: Stretch, now: float) -> None:
        start = self._handover.restart(stretch)
        leg = Leg(
            stretch,
            start=start,
            now=now,
            config=self._config_for(start),
            dialect=self._dialect,
            reader=ResponseReader(self._dialect.names, self._config, self._format, start, self._finals_end),
            kept=lambda at: self._handover.read(stretch, at),
            backlog_bytes=self._handover.taken - start,
            progress=self._progress,
            pace=self._pace,
            queue_chunks=self._queue_chunks,
            hold=self._hold,
        )
        self._hold = False
        self._speaking = False
        self._legs[stretch] = leg
        leg.open(self._acquire(), self._heard, self._ended)
        if stretch.end is not None:
            leg.half_close(now)

    def _config_for(self, start: int) -> SessionConfig:
        """Google counts a voice-activity timeout from the start of a stream; the client's counts in its session."""
        asked = self._config.voice_activity_timeout
        if asked is None:
            return self._config
        first_ms: int | None = None
        if not self._speech_heard and asked.speech_start_ms:
            first_ms = asked.speech_start_ms - self._format.ms(start)
        elif self._silent_since_ms is not None and asked.speech_end_ms:
            first_ms = asked.speech_end_ms - (self._format.ms(start) - self._silent_since_ms)
        left = VoiceActivityTimeout(
            speech_start_ms=first_ms and max(MIN_TIMEOUT_MS, first_ms), speech_end_ms=asked.speech_end_ms
        )
        return structs.replace(self._config, voice_activity_timeout=left, enable_voice_activity_events=True)

    def _hand_back(self, leg: Leg) -> None:
        """After a final on an old leg: the next leg begins where the final ended."""
        if leg.stretch is self._handover.open and self._handover.hand_back():
            now = self._clock()
            del self._legs[leg.stretch]
            self._retired.add(leg)
            leg.half_close(now)
            if stretch := self._handover.open:
                self._open(stretch, now)

    def _ended(self, leg: Leg) -> None:
        """A leg's call is over. Its books are closed when its stretch is the oldest, so in order."""
        if leg in self._retired:
            self._retired.discard(leg)
            self._progress()
            self._listen(LegEnded(leg.reader.billed_ms))
            self._finish_if_done()
            return
        while (head := self._handover.head) and (oldest := self._legs.get(head)) and oldest.ended:
            self._close_books(oldest)
        self._progress()

    def _close_books(self, leg: Leg) -> None:
        del self._legs[leg.stretch]
        self._listen(LegEnded(leg.reader.billed_ms))
        if leg.is_complete:
            self._handover.complete(leg.stretch)
            self._say_settled()
            self._hear_next()
            self._finish_if_done()
        elif leg.error is None and self._config.voice_activity_timeout is not None:
            self._deafen()
            self._handover.abandon()
            self._say_settled()
            self._listen(ActivityTimeout())
        else:
            self._go_on_after(explain(leg.error))

    def _hear_next(self) -> None:
        """What the next leg has said meanwhile."""
        if (head := self._handover.head) and (leg := self._legs.get(head)):
            backlog, leg.backlog = leg.backlog, []
            for response in backlog:
                self._heard(leg, response)

    def _go_on_after(self, ending: Ending) -> None:
        if ending.verdict is Verdict.FATAL:
            self._listen(Failed(ending.as_error()))
            return
        self._hold = True
        self._handover.drop_heard()
        self._say_settled()
        if not self._handover.stretches:
            self._finish_if_done()
            return
        at_once = ending.verdict is Verdict.AT_ONCE and self._backoff.failures < AT_ONCE_TRIES
        delay = self._backoff.next(random.random)
        if ending.verdict is Verdict.LATER and ending.code is not Code.RESOURCE_EXHAUSTED:
            self._breaker.failed(self._clock())
        self._retry = asyncio.create_task(self._open_again(0.0 if at_once else delay, ending))

    async def _open_again(self, delay: float, ending: Ending) -> None:
        spread = 1 + random.random() / 2  # noqa: S311 - so that the herd does not come at once
        while (delay := max(delay, self._breaker.delay(self._clock()) * spread)) > 0:
            if not self._told_retrying:
                self._told_retrying = True
                self._listen(Retrying(f"{ending.as_error().message}; audio is kept meanwhile", round(delay * 1000)))
            await asyncio.sleep(delay)
            delay = 0.0
        self._retry = None
        for stretch in list(self._handover.stretches):
            if stretch not in self._legs:
                self._open(stretch, self._clock())

    def _finish_if_done(self) -> None:
        if self._finished_at is not None and not self._handover.stretches and not self._retired:
            self._say_lost()
            self._listen(Finished())

    # Words come out -----------------------------------------------------------------------------

    def _heard(self, leg: Leg, response: Any) -> None:
        if self._backoff.failures or self._breaker.state is not BreakerState.CLOSED:
            self._works_again()
        if leg in self._retired:
            leg.reader.read_bill(response)
        elif leg.stretch is not self._handover.head:
            leg.backlog.append(response)
        else:
            end = leg.stretch.end
            owned_until = end if end is not None and leg.sent > end else None
            for event in leg.reader.read(response, self._handover.taken if end is None else end, owned_until):
                self._say(leg, event)
                if leg in self._retired:
                    break  # what comes after the final is the next leg's to hear

    def _works_again(self) -> None:
        self._backoff.reset()
        self._breaker.succeeded()
        self._told_retrying = False
        self._say_lost()

    def _say(self, leg: Leg, event: Event) -> None:
        match event:
            case Settled(offset):
                self._handover.settle(leg.stretch, offset)
                self._say_settled()
                if self._clock() - leg.opened_at >= self._limits.soft:
                    self._hand_back(leg)
            case SpeechActivity(active, at_ms):
                self._speech_heard = True
                self._silent_since_ms = None if active else at_ms
                self._speaking = active and leg is self._newest
                self._listen(event)
            case Result(is_final=is_final):
                self._speaking = not is_final and leg is self._newest
                self._listen(event)
            case ActivityTimeout():
                self._deafen()
                self._listen(event)
            case _:
                self._listen(event)

    def _deafen(self) -> None:
        self.deaf = True
        self._progress()

    def _say_settled(self) -> None:
        self._listen(Settled(self._handover.settled))


def _ignore(_event: Event) -> None:
    pass
