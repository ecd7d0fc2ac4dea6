"""The legs of one session: when they come and go, and how what they say becomes events.

    put -> Handover (kept until settled) + leg.queue -> generator -> streaming_recognize
    streaming_recognize -> ResponseReader (session's clock) -> Handover (does it count?) -> listen(event)

Which leg owns which byte is the Handover's to say (core/handover.py). Legs may overlap in time, but are heard one after
the other: what a younger one says waits in its backlog, so finals come in order.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from app.core.audio import AudioFormat, Pace
from app.core.breaker import Breaker
from app.core.handover import Handover, Stretch
from app.core.protocol import SessionConfig
from app.core.recognition import ActivityTimeout, Event, Failed, Finished, Result, Settled, SpeechActivity
from app.speech.activity import Activity
from app.speech.change import Change, Changes
from app.speech.dialect import Dialect
from app.speech.errors import OwnFault, Verdict, explain
from app.speech.last_resorts import LastResorts
from app.speech.leg import Leg
from app.speech.limits import LegLimits
from app.speech.pool import NoPlace, Pool
from app.speech.retry import Retry
from app.speech.roster import Roster
from app.speech.seam import is_loud
from app.speech.watchdog import NoWords, Watchdog

log = logging.getLogger(__name__)

UNTOLD_SECONDS = 2.0
"""Speech that has gone on for so long was told by the upstream's voice activity, or by an interim."""
SEAM_GRID_MS = 160
"""A stream that begins a whole number of the recognizer's windows (10, 16, 20 or 32 ms) behind the last final hears the
same there as one that goes on; where its windows fall otherwise, a pause may be just too short to end a sentence."""
PATIENCE_SECONDS = 0.5
"""A leg that waits longer for its place: the client is told."""
MAX_LEGS = 4
"""Legs of one session at a time: the one that hears, and those whose last words are awaited."""


class Legs:
    """`listen` is called with each event, in order; `progress` whenever there may be room for more audio."""

    def __init__(
        self,
        config: SessionConfig,
        *,
        dialect: Dialect,
        pool: Pool,
        breaker: Breaker,
        limits: LegLimits,
        pace: Pace,
        chunk_bytes: int,
        listen: Callable[[Event], None],
        progress: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._listen = listen
        self._progress = progress
        self._format = AudioFormat.of(config.audio)
        self._encoding = self._format.encoding
        rate = self._format.bytes_per_second
        self._queue_bytes = round(limits.queue * rate)
        self._kept_limit = round(limits.replay * rate)
        self._untold = self._format.offset(UNTOLD_SECONDS * 1000)
        self._grid = self._format.offset(SEAM_GRID_MS)
        self._handover = Handover(chunk_bytes)
        self._parked: Leg | None = None
        """It was ended since no audio came, perhaps within a word: what it says counts when none comes for long."""
        self._activity = Activity(config)
        self._roster = Roster(
            config,
            dialect=dialect,
            pool=pool,
            pace=pace,
            queue_chunks=max(1, self._queue_bytes // chunk_bytes + 1),
            handover=self._handover,
            activity=self._activity,
            listen=listen,
            heard=self._heard,
            ended=self._ended,
            progress=progress,
        )
        self._legs = self._roster.hearing
        self._watchdog = Watchdog(config, limits, self._activity)
        self._changes = Changes(limits, self._encoding)
        self._retry = Retry(breaker, listen, self._open_missing)
        self._last_resorts = LastResorts(self._handover, self._retry, self._legs, self._format, grid=self._grid)
        self._audio_at = 0.0
        self.deaf = False
        """The upstream hears no more: audio is dropped."""
        self._finished_at: float | None = None
        """No more audio comes; of what came the upstream has said nothing since."""
        self._clock = asyncio.get_running_loop().time

    # Audio comes --------------------------------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        """Audio that waits to go upstream."""
        taken, leg = self._handover.taken, self._newest
        return max(0, leg.behind(taken) if leg else taken - self._handover.settled)

    def is_full(self, more: int) -> bool:
        """As much is kept as may be, or the leg is further behind than when it began."""
        if self._retry.waiting:
            return False  # meanwhile the oldest audio makes room
        leg = self._newest
        behind = leg.behind(self._handover.taken) if leg and not leg.ended else 0
        return self._handover.kept + more > self._kept_limit or behind > self._queue_bytes + (
            leg.backlog_bytes if leg else 0
        )

    @property
    def is_away(self) -> bool:
        """The upstream fails: what comes is kept."""
        return self._retry.waiting

    @property
    def is_crowded(self) -> bool:
        """The next chunk would need one leg too many. While the upstream is away none are opened: what comes is kept,
        however it was cut."""
        return not self._retry.waiting and self._handover.open is None and self._at_work >= MAX_LEGS

    @property
    def is_busy(self) -> bool:
        """The upstream hears somebody speak, as far as it tells, or fails."""
        return self._retry.failing or not self._activity.is_quiet(self._handover.taken)

    async def put(self, chunk: bytes, now: float) -> None:
        """Waits while the leg's queue is full."""
        self._audio_at = now
        if self._parked is not None:
            self._retire(self._parked)
        stretch = self._handover.append(chunk)
        if self._retry.waiting:
            self._make_room()
        if leg := self._legs.get(stretch):
            if not leg.said_anything and is_loud(chunk, self._encoding):
                leg.loud += len(chunk)
            await leg.put(chunk)
        elif self._at_work <= MAX_LEGS:  # else it waits in line behind those of an outage
            self._open_when_it_may(stretch, now)

    def _make_room(self) -> None:
        """While the upstream is away the oldest audio is lost, as far as it waits for a leg."""
        if self._last_resorts.make_room(self._kept_limit):
            self._after_loss()
            self._close_ended()

    def _after_loss(self) -> None:
        self._say_settled()
        self._hear_next()

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
        if self._parked is not None:
            self._parked = None
            self._hear_next()
            self._close_ended()
        self._say_settled()

    def finish(self, now: float, left: int) -> None:
        """No more audio will come but `left` bytes that nobody will hear."""
        self._finished_at = now
        self.skip(left, now)
        self._finish_if_done()

    async def close(self) -> None:
        """Ends every call at once. Nothing is heard afterwards."""
        self._listen = _ignore
        self._retry.close()
        await self._roster.close()

    @property
    def _is_brimming(self) -> bool:
        return self._handover.kept + self._format.bytes_per_second >= self._kept_limit

    @property
    def _newest(self) -> Leg | None:
        stretches = self._handover.stretches
        return self._legs.get(stretches[-1]) if stretches else None

    @property
    def _at_work(self) -> int:
        return len(self._handover.stretches) + len(self._roster.retired)

    # Time passes --------------------------------------------------------------------------------

    def is_idle(self, now: float) -> bool:
        """No audio came for longer than an open leg bears. Not where as much is kept as may be: there the client waits
        for us."""
        listens = self._handover.open is not None and self._parked is None
        waits = now - self._audio_at >= self._limits.idle and self.queued_bytes == 0
        return listens and waits and not self._is_brimming

    def is_deadlocked(self, now: float) -> bool:
        """As much is kept as may be, the leg has all of it, and says nothing: only its end can make room."""
        leg, listens = self._newest, self._handover.open is not None and self._parked is None
        if leg is None or not self._is_brimming or self.queued_bytes or not listens:
            return False
        return now - max(leg.heard_at, leg.sent_at) >= self._limits.answer

    def park(self, now: float, rest: bytes) -> None:
        """Ends the leg after `rest`, for which it has room. Audio that comes soon goes on with the same utterance, on
        a new leg from the last final on."""
        if rest:
            self._handover.append(rest)
        if (leg := self._newest) and not (leg.ended and leg.error):
            if rest:
                leg.put_nowait(rest)
            self._parked = leg
            leg.half_close(now)

    def tick(self, now: float) -> None:
        """At least every second: gives up a leg that does not answer, and the wait for audio."""
        if self._is_brimming:
            self._audio_at = now  # none comes, but that is no pause
        if self._parked is not None and now - self._audio_at >= self._limits.pause:
            self.cut(now)
        for leg in [*self._legs.values(), *self._roster.retired]:
            if not leg.has_place and now - leg.opened_at >= PATIENCE_SECONDS:
                self._retry.tell(self._pool.why_full, self._pool.wait_seconds)
            elif error := self._watchdog.bites(leg, now, self._handover.taken, awaited=self._is_awaited(leg)):
                leg.give_up(error)
            elif leg.took_audio and not leg.ended:
                self._retry.bears(leg.opened_at)
        if (newest := self._newest) and newest.behind(self._handover.taken) > 0:
            self.change_if_due(now)  # no chunk may come while so much waits
        if self._finished_at is not None and self._retry.waiting and now - self._finished_at >= self._limits.replay:
            self._end_in_time(now)

    def _is_awaited(self, leg: Leg) -> bool:
        return leg is self._newest or leg.stretch is self._handover.head

    def _end_in_time(self, now: float) -> None:
        """All has come, and nobody hears more of it: in parts, perhaps; else what waits for a leg is lost."""
        head = self._handover.head
        if head is not None and head not in self._legs and self._retry.stuck and self._last_resorts.split(head):
            self._finished_at = now
            return
        if not self._legs:
            self._retry.lose(self._handover.abandon())
        elif self._last_resorts.make_room(1):
            self._after_loss()
            self._close_ended()
        self._finish_if_done()

    # One leg follows another --------------------------------------------------------------------

    def change_if_due(self, now: float, chunk: bytes = b"") -> None:
        """Before `chunk` comes, or while what came waits to go up: speech/change.py says when and how."""
        leg, handover = self._newest, self._handover
        if leg is None or leg is self._parked or handover.open is None:
            return
        unsettled = leg.sent - handover.begin(leg.stretch)
        change = self._changes.due(
            chunk,
            age=now - leg.opened_at,
            silent=now - leg.heard_at,
            unsettled=unsettled / self._format.bytes_per_second,
            settled=handover.settled,
            quiet=self._activity.is_quiet(leg.sent),
            noise=self._activity.is_noise,
        )
        if change is Change.CUT and not self._catches_up(leg):
            self.cut(now)
        elif change is Change.GUESS and self._at_work < MAX_LEGS:
            self._guess(leg, now)
        elif change is Change.HAND_BACK and self._hand_back(leg):
            self._changes.keep(handover.settled)

    def _guess(self, leg: Leg, now: float) -> None:
        """Speech may have begun that the upstream has not told of yet: the next leg hears the last moments too. The old
        one has heard them, and its last words are the proof."""
        begin, seam = self._handover.begin(leg.stretch), leg.sent - self._untold
        if stretch := self._handover.cut_behind(seam - (seam - begin) % self._grid):
            leg.half_close(now)
            self._open_when_it_may(stretch, now)

    def _take_back(self, leg: Leg) -> bool:
        """Somebody spoke where `leg` was ended in silence, as it seemed: one leg hears all of it anew."""
        after = self._handover.take_back(leg.stretch)
        if not after:
            return False
        self._retire(leg)
        for younger in [self._legs[stretch] for stretch in after if stretch in self._legs]:
            self._retire(younger)
        self._changes.keep(self._handover.settled)
        if stretch := self._handover.head:
            self._open_when_it_may(stretch, self._clock())
        return True

    def _hand_back(self, leg: Leg) -> bool:
        """What `leg` has not made final goes to the next leg, which begins where the last final ended."""
        if leg.stretch is not self._handover.open or not self._handover.hand_back():
            return False
        self._retire(leg)
        if stretch := self._handover.open:
            self._open_when_it_may(stretch, self._clock())
        return True

    def _retire(self, leg: Leg) -> None:
        """Nothing of it counts any more but its bill."""
        if leg is self._parked:
            self._parked = None
        self._roster.retire(leg, self._clock())

    # Legs come and go ---------------------------------------------------------------------------

    def _open_when_it_may(self, stretch: Stretch, now: float) -> None:
        """While the upstream fails, the stretch waits for its leg with the others."""
        if not self._retry.must_wait():
            self._roster.open(stretch, now)

    def _open_missing(self) -> None:
        """A leg for every stretch that waits for one, the oldest first, and not for too many at once."""
        for stretch in list(self._handover.stretches):
            if stretch not in self._legs and (stretch is self._handover.head or len(self._legs) < MAX_LEGS):
                self._roster.open(stretch, self._clock())

    def _ended(self, leg: Leg) -> None:
        """A leg's call is over. No session may wait for ever, whatever goes wrong here."""
        try:
            self._let_go(leg)
        except Exception:
            log.exception("the end of a stream could not be taken")
            self._listen(Failed(explain(OwnFault()).as_error()))
        self._progress()

    def _let_go(self, leg: Leg) -> None:
        """Its books are closed when its stretch is the oldest, so in order."""
        if leg in self._roster.retired:
            self._roster.strike(leg)
            self._finish_if_done()
        elif leg is self._parked and leg.error is not None:
            self._parked = None  # the next leg hears the utterance, and goes on with it
            self._close_ended()
        elif leg is self._parked and self._is_brimming:
            self.cut(self._clock())
        else:
            self._close_ended()

    def _close_ended(self) -> None:
        while (head := self._handover.head) and (leg := self._legs.get(head)) and leg.ended and leg is not self._parked:
            self._close_books(leg)

    def _close_books(self, leg: Leg) -> None:
        complete = leg.is_complete and not self._left_words_out(leg)
        if not complete and leg.stretch.guessed and self._take_back(leg):
            return  # nothing proves that nobody spoke there
        self._roster.strike(leg)
        if complete:
            self._handover.complete(leg.stretch)
            self._say_settled()
            self._hear_next()
            if len(self._legs) < len(self._handover.stretches) and not self._retry.must_wait():
                self._open_missing()
            self._finish_if_done()
        elif leg.error is None and self._activity.has_timed_out(leg.sent):
            self._deafen()
            self._handover.abandon()
            self._say_settled()
            self._listen(ActivityTimeout())
        else:
            self._go_on_after(leg)

    def _left_words_out(self, leg: Leg) -> bool:
        """A leg that ends well has said all that it heard. One that told of speech and gave no final of it was ended
        unasked, at the very moment when its audio was over; unless it was noise, or long ago, or its time was up."""
        activity, at = self._activity, leg.sent
        if not activity.awaited or activity.is_noise or activity.is_over(at) or activity.has_timed_out(at):
            return False
        activity.doubt(mute=not leg.said_anything)
        return True

    def _go_on_after(self, leg: Leg) -> None:
        ending = explain(leg.error)
        if isinstance(leg.error, NoWords):
            self._activity.doubt(mute=not leg.said_anything)
        elif isinstance(leg.error, TimeoutError):  # captions have stood still for long
            self._retry.tell(ending.as_error().message, 0.0)
        if ending.verdict is Verdict.FATAL:
            self._listen(Failed(ending.as_error()))
            return
        if isinstance(leg.error, NoPlace) and not self._roster.had_a_place:
            self._listen(Failed(ending.as_error()))
            return
        self._roster.hold = True
        self._handover.drop_heard()
        self._say_settled()
        self._hear_next()  # all of it was final: the leg after it may have said its words already
        stuck = self._retry.stuck and leg.stretch is self._handover.head and not isinstance(leg.error, TimeoutError)
        if stuck and self._last_resorts.ease(leg.stretch):
            self._after_loss()
            self._retry.works()
        if self._handover.stretches:
            self._retry.after(ending, worked=self._worked(leg))
        else:
            self._finish_if_done()

    def _worked(self, leg: Leg) -> bool:
        """It had said something. Or it took audio, in which nobody may have spoken; but not twice in a row."""
        return leg.said_anything or (leg.took_audio and not self._retry.failing)

    def _finish_if_done(self) -> None:
        if self._finished_at is not None and not self._handover.stretches and not self._roster.retired:
            self._retry.say_lost()
            self._listen(Finished())

    # Words come out -----------------------------------------------------------------------------

    def _hear_next(self) -> None:
        """What the leg that is the oldest now has said meanwhile."""
        if not (head := self._handover.head) or not (leg := self._legs.get(head)):
            return
        if leg is self._parked:
            for response in leg.backlog:
                self._show(leg, response)
            return
        while leg.backlog and leg.stretch is self._handover.head:
            self._heard(leg, leg.backlog.pop(0))

    def _heard(self, leg: Leg, response: Any) -> None:
        self._retry.answers()
        if leg.stretch is self._handover.head and leg.sent > leg.replays_until:
            self._retry.works()
        if self._finished_at is not None and not self._retry.stuck:
            self._finished_at = self._clock()
        if leg in self._roster.retired:
            leg.reader.read_bill(response)
        elif leg.stretch is not self._handover.head or leg is self._parked:
            leg.backlog.append(response)
            if leg.stretch is self._handover.head:
                self._show(leg, response)
        else:
            self._hear(leg, response)

    def _show(self, leg: Leg, response: Any) -> None:
        """A final of a leg that is parked: it may not be the end of the utterance."""
        if draft := leg.reader.draft(response, self._handover.taken):
            self._listen(draft)

    def _hear(self, leg: Leg, response: Any) -> None:
        end = leg.stretch.end
        owned_until = end if end is not None and leg.sent > end else None
        for event in leg.reader.read(response, self._handover.taken if end is None else end, owned_until):
            self._say(leg, event)
            if leg.stretch is not self._handover.head:
                return  # what comes after the final is the next leg's to hear
        if leg.reader.heard_beyond and leg.stretch.guessed:
            self._activity.believe()
            self._take_back(leg)

    def _say(self, leg: Leg, event: Event) -> None:
        self._activity.tell(event, newest=leg is self._newest)
        match event:
            case Settled(offset):
                self._retry.works()
                self._handover.settle(leg.stretch, offset)
                self._say_settled()
                if self._is_old(leg):
                    self._hand_back(leg)
            case ActivityTimeout():
                self._deafen()
                self._listen(event)
            case Result() | SpeechActivity():
                self._listen(event)

    def _is_old(self, leg: Leg) -> bool:
        """One that catches up is kept to its hard limit: what it was sent ahead would be heard again by the next one,
        and with many changes nobody would ever catch up."""
        limit = self._limits.hard if self._catches_up(leg) else self._limits.soft
        return self._clock() - leg.opened_at >= limit

    def _catches_up(self, leg: Leg) -> bool:
        """A cut would not shorten what it hears."""
        return leg.behind(self._handover.taken) > self._untold

    def _deafen(self) -> None:
        self.deaf = True
        self._progress()

    def _say_settled(self) -> None:
        self._listen(Settled(self._handover.settled))


def _ignore(_event: Event) -> None:
    pass
