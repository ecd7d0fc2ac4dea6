"""The life of one session: what may happen next, and what is due to the client.

The *phase* says which messages are taken (table TAKEN). What was heard is its transcript (core/transcript.py), what of
that the store has its ledger (core/ledger.py). The *link* is the place of one socket in it (core/link.py); links come
and go: started, detached, resumed. No clock and no I/O: time comes as an argument, in seconds of any monotonic clock.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Literal

from app.core.errors import SessionError, invalid, unknown
from app.core.ledger import Ledger, Mark
from app.core.link import Link
from app.core.protocol import (
    MAX_FRAME_BYTES,
    Ack,
    AudioMessage,
    Finalize,
    Gap,
    GoAway,
    Limits,
    Resume,
    Resumed,
    SpeechEnded,
    SpeechStarted,
    Started,
    Throttle,
    WarningMessage,
    error_message,
    serialize,
)
from app.core.recognition import (
    ActivityTimeout,
    Event,
    Failed,
    Finished,
    LegEnded,
    Losing,
    Lost,
    Result,
    Retrying,
    Settled,
    SpeechActivity,
    Throttled,
)
from app.core.record import Record
from app.core.resume_tokens import ResumeTokens
from app.core.timers import Timers, Watch
from app.core.transcript import Transcript


class Phase(Enum):
    LISTENING = auto()
    CLOSING = auto()
    """The gateway ends the session (its time is over, or a budget; a timeout asked for): what the client says is
    ignored."""
    STOPPING = auto()
    """The client said `stop`: the last finals are awaited."""
    ENDED = auto()


class Take(Enum):
    YES = auto()
    IGNORE = auto()


TAKEN: dict[tuple[Phase, str], Take] = {
    (Phase.LISTENING, "audio"): Take.YES,
    (Phase.LISTENING, "gap"): Take.YES,
    (Phase.LISTENING, "finalize"): Take.YES,
    (Phase.LISTENING, "keepalive"): Take.YES,
    (Phase.LISTENING, "stop"): Take.YES,
    (Phase.STOPPING, "keepalive"): Take.YES,
    (Phase.STOPPING, "stop"): Take.IGNORE,  # a client that resumed does not know whether it was heard,
    (Phase.STOPPING, "finalize"): Take.IGNORE,  # nor whether this one was, which it had said before
    **{(Phase.CLOSING, kind): Take.IGNORE for kind in ("audio", "gap", "finalize", "keepalive", "stop")},
    **{(Phase.ENDED, kind): Take.IGNORE for kind in ("audio", "gap", "finalize", "keepalive", "stop")},
}
"""What a client may say in which phase; what is missing here is `bad_order`."""


class Session:
    """One transcription. Methods that take a client's message raise SessionError when it may not come now."""

    def __init__(
        self,
        record: Record,
        events: Sequence[str] = (),
        *,
        timers: Timers,
        window_seconds: float,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        now: float,
        age: float = 0.0,
    ) -> None:
        """As the record says, with all its events: a new session, or one that was elsewhere. `age`: seconds."""
        self.id = record.session_id
        self.max_frame_bytes = max_frame_bytes
        self.principal = record.principal
        self.config = record.config
        self.epoch = record.epoch
        self.transcript = Transcript(
            record.config, settled=record.settled, tally=record.tally, events=events, losing=record.losing
        )
        self.format = self.transcript.format
        self.phase = Phase.ENDED if record.stopped else Phase.LISTENING
        self.received = self.transcript.settled
        """Bytes of the client's stream, gaps included. What is not settled is sent again to another gateway."""
        self.error: SessionError | None = None
        self.link = Link()
        self.resumes = record.tally.resumes
        self.detached_at: float | None = None
        """Since when nobody is there."""
        self.delivered = False
        """The client was sent the end, whatever it is."""
        self._record = record
        self._ledger = Ledger(record.last_event, record.settled)
        self._over: str | None = None
        self._exhausted: SessionError | None = None
        """Why it is closing, where that is no end in good order."""
        self._tokens = ResumeTokens(record.principal, record.tokens)
        self._timers = timers
        self._watch = Watch(timers, now, age=age, received=self.received)
        self._window_bytes = self.format.offset(window_seconds * 1000)
        self._throttle: Throttle | None = None
        """What was told last of it, if anything."""

    @property
    def over(self) -> str | None:
        """How it ended for good, in a word: an error's code, `stopped`, `left` (the client did), or
        `resume_window_expired`. Till it was sent `stopped` the client may come back for it; a failure that may pass
        does not end the session either."""
        if self._over is None and self.phase is Phase.ENDED and self.delivered:
            return "stopped"
        if self._over is None and self.error is not None and not self.error.may_pass:
            return self.error.code
        return self._over

    @property
    def how_it_ended(self) -> str:
        """For this gateway, in a word."""
        if self.error is not None:
            return self.error.code
        return "stopped" if self.phase is Phase.ENDED else self.over or "left"

    @property
    def is_settled(self) -> bool:
        """All that was received is final, or held no speech."""
        return self.transcript.settled >= self.received

    @property
    def has_failed_here(self) -> bool:
        """Another gateway has it, or one that takes it anew, this one too, can go on with it."""
        return self.error is not None and (self.is_fenced or self.error.may_pass)

    @property
    def ended(self) -> bool:
        """Nothing more will be heard."""
        return self.phase is Phase.ENDED or self.error is not None

    @property
    def is_fenced(self) -> bool:
        """Another gateway has it."""
        return self.error is not None and self.error.code == "superseded"

    def end(self, how: str) -> None:
        """Nobody will come back to it."""
        if self._over is None:
            self._over = how

    def started(self, resume_token: str, resume_window_ms: int) -> None:
        limits = Limits(
            max_frame_bytes=self.max_frame_bytes,
            window_bytes=self._window_bytes,
            idle_timeout_ms=round(self._timers.idle * 1000),
            max_session_ms=round(self._timers.max_session * 1000),
        )
        self._tokens.begin(resume_token)
        self.link.say(Started(self.id, resume_token, resume_window_ms, self.config, limits))

    # Links come and go ------------------------------------------------------------------------

    def detach(self, now: float) -> None:
        """The socket is gone. What happens meanwhile waits in the history."""
        self.link = Link(attached=False)
        self.detached_at = now

    def check_resume(self, message: Resume, principal: str) -> None:
        """Raises SessionError where the client must not, or cannot, go on with this session."""
        if not self._tokens.admit(message.resume_token, principal):
            raise unknown(self.id)
        last = self.transcript.history.last
        if message.last_event > last:
            raise invalid("last_event", message.last_event, f"the session's last event is {last}")

    def resume(self, message: Resume, resume_token: str, now: float) -> None:
        """A new link, which has all events up to `last_event`; with its first frame the old token is dead. After
        `check_resume`.

        A `resume` that a network brings twice takes the link from the client, but not the token that it was given."""
        self._tokens.renew(message.resume_token, resume_token)
        self.resumes += 1
        self.link = Link(cursor=message.last_event)
        self.detached_at = None
        self.is_not_idle(now)
        replayed = self.transcript.history.last - message.last_event
        self.link.say(Resumed(offset=self.received, resume_token=resume_token, replayed=replayed))
        if self._throttle is not None:
            self.link.say(self._throttle)
        if not self.is_promised:
            self._say_not_resumable()

    def go_away(self, time_left_ms: int, reason: Literal["drain", "session_limit"]) -> None:
        self.link.say(GoAway(time_left_ms, reason))

    # What the store has -----------------------------------------------------------------------

    @property
    def is_written(self) -> bool:
        """The store has all that it should have."""
        return self._ledger.has(self.mark())

    @property
    def is_promised(self) -> bool:
        """Another gateway could go on with it, as far as is known."""
        return not self._ledger.away

    def mark(self) -> Mark:
        heard = self.transcript
        return Mark(heard.history.last, heard.settled, self._tokens.fingerprints, heard.losing, self.over)

    def record(self) -> tuple[Record, tuple[str, ...]]:
        """As it is now, and the events that the store does not have yet."""
        heard, first = self.transcript, self._record
        record = Record(
            session_id=self.id,
            principal=self.principal,
            config=self.config,
            epoch=self.epoch,
            tokens=self._tokens.fingerprints,
            settled=heard.settled,
            last_event=heard.history.last,
            opened_at=first.opened_at,
            tally=heard.tally(self.resumes),
            bounds=first.bounds,
            losing=heard.losing,
            stopped=self.phase is Phase.ENDED,
            over=self.over,
        )
        return record, tuple(heard.history.after(self._ledger.event))

    def wrote(self, mark: Mark) -> None:
        """The store has it as it was."""
        was_away = self._ledger.away
        self._ledger.wrote(mark)
        if was_away and self.is_promised:
            self.link.say(WarningMessage("resumable", "the session can be resumed elsewhere again"))

    def lacks_events(self, after: int) -> None:
        """The store has none after that number: they are to be written again."""
        self._ledger.lacks(after)

    def goes_unwritten(self) -> None:
        """The store is away: the session goes on without it."""
        if not self._ledger.away:
            self._ledger.away = True
            self._say_not_resumable()

    def _say_not_resumable(self) -> None:
        text = "the gateway's store is away: until it is back, only this very gateway can go on with the session"
        self.link.say(WarningMessage("not_resumable", text))

    def fence(self) -> None:
        """Another gateway goes on with it: what is heard here counts no more."""
        if not self.is_fenced:
            self.error = SessionError("superseded", "another connection has resumed this session")

    # What the client says ---------------------------------------------------------------------

    def heard_from_client(self, now: float) -> bool:
        """Any frame resets the idle timer. It also shows that `resumed` has come, and the new token with it: returns
        whether the old ones have just died."""
        self.is_not_idle(now)
        return self._tokens.confirm()

    def takes(self, kind: str) -> bool:
        """Whether a message of this kind counts now. Raises SessionError `bad_order` where it must not come."""
        take = TAKEN.get((self.phase, kind))
        if take is None:
            raise SessionError("bad_order", f"`{kind}` may not come while the session is {self.phase.name.lower()}")
        return take is Take.YES

    def receive_audio(self, audio: bytes) -> bytes:
        """A binary frame. Returns what of it counts."""
        if not self.takes("audio"):
            return b""
        if len(audio) > self.max_frame_bytes:
            raise SessionError(
                "frame_too_large", f"an audio frame of {len(audio)} bytes is over the limit of {self.max_frame_bytes}"
            )
        self.received += len(audio)
        return audio

    def receive_audio_message(self, message: AudioMessage) -> bytes:
        """Base64 audio: what was received already is trimmed. Returns what of it counts."""
        if not self.takes("audio"):
            return b""
        offset = self.received if message.offset is None else message.offset
        if offset > self.received:
            raise SessionError(
                "audio_hole",
                f"offset {offset} leaves a hole: the next byte expected is {self.received}",
                param="offset",
            )
        return self.receive_audio(message.content[self.received - offset :])

    def receive_gap(self, gap: Gap) -> bool:
        """The client skipped audio. Returns whether it counts."""
        if not self.takes("gap"):
            return False
        self.transcript.skip(self.received, gap)
        self.received += gap.bytes
        return True

    def finalize(self, message: Finalize) -> bool:
        """Asks for `finalized` once everything received so far is settled. Returns whether it counts."""
        if not self.takes("finalize"):
            return False
        self.transcript.mark(self.received, message)
        return True

    def stop(self) -> bool:
        """No more audio. Returns whether it counts."""
        if not self.takes("stop"):
            return False
        self.phase = Phase.STOPPING
        return True

    # What the recognizer says -----------------------------------------------------------------

    def receive(self, event: Event) -> None:
        if isinstance(event, LegEnded):
            self.transcript.bill(event)
        if self.ended:
            return  # nothing may follow `error`, or `stopped`
        match event:
            case Result() | Settled() | Losing() | Lost():
                self.transcript.hear(event)
            case SpeechActivity(active, at_ms):
                if self.config.enable_voice_activity_events:
                    self.link.say(SpeechStarted(at_ms) if active else SpeechEnded(at_ms))
            case Throttled(active, queued_ms):
                self._throttle = Throttle("on" if active else "off", queued_ms)
                self.link.say(self._throttle)
            case Retrying(reason, in_ms):
                self.link.say(WarningMessage("upstream_retrying", reason, in_ms))
            case Finished() if self._exhausted:
                self.transcript.settle(self.received)
                self.fail(self._exhausted)
            case Finished():
                self.phase = Phase.ENDED
                self.transcript.stop(self.received, self.resumes)
            case ActivityTimeout():
                self.close()
            case Failed(error):
                self.fail(error)

    # What time says ---------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """At least every second. Raises SessionError when the client was silent for too long."""
        if self.received > self.link.acked[0]:
            self.link.ack_due = True
        if not self._is_the_clients_turn:
            self.waits(now)
        for warning in self._watch.tick(now, self.received):
            self.link.say(warning)

    @property
    def _is_the_clients_turn(self) -> bool:
        """Not after `stop`, not while it is away, and not while it has used up its window, give or take a frame: then
        it waits for us."""
        listens = self.phase is Phase.LISTENING and self.link.attached
        slack = min(self.max_frame_bytes, self._window_bytes // 2)
        return listens and self.received - self.transcript.settled + slack < self._window_bytes

    def waits(self, now: float) -> None:
        """It is our turn: the client is neither idle nor silent."""
        self._watch.waits(now, self.received)

    def is_not_idle(self, now: float) -> None:
        self._watch.hears(now)

    def is_too_old(self, now: float) -> bool:
        """Whether the session has reached its longest time and should be closed."""
        return self.phase is Phase.LISTENING and self._watch.is_over(now)

    def close(self) -> None:
        """The gateway ends the session: what was said so far becomes final, then comes `stopped`."""
        if self.phase is Phase.LISTENING:
            self.phase = Phase.CLOSING

    def exhaust(self, error: SessionError, unheard: int) -> None:
        """No more may be heard: of the bytes received last so many are not. What was said before becomes final, then
        comes the error."""
        self.received -= unheard
        if self.phase is Phase.LISTENING:
            self._exhausted = error
            self.close()

    def warn_of_budget(self, message: str) -> None:
        """Once."""
        if self.link.attached and self._watch.is_first("budget"):
            self.link.say(WarningMessage("budget", message))

    def fail(self, error: SessionError) -> None:
        """The first failure is the one that the client is told."""
        if not self.ended:
            self.error = error

    # What is due ------------------------------------------------------------------------------

    @property
    def all_is_due(self) -> bool:
        """It has ended, and what is due now is the last of it."""
        return self.ended and (self.is_written or not self.is_promised or self.is_fenced)

    def due(self) -> list[str]:
        """Everything that the link should be sent now, in order: replies, events, newest interims, ack, error. Of what
        is durable, as much as the store has."""
        link = self.link
        messages: list[str] = []
        if not self.is_fenced:  # else not even replies: a token that it gave is worth nothing
            messages = link.replies + self._news(link)
        link.replies = []
        if self.error and self.all_is_due:
            messages.append(serialize(error_message(self.error, self.id)))
        return messages

    def _news(self, link: Link) -> list[str]:
        last, settled = self._ledger.tell(self.transcript)
        messages = self.transcript.history.after(link.cursor, last)
        link.cursor = max(link.cursor, last)
        if last == self.transcript.history.last:  # no interim comes before the final before it
            messages += [serialize(interim) for interim in self.transcript.take_interims()]
        if settled is not None and self.phase is not Phase.ENDED:
            messages += self._ack(link, settled)
        return messages

    def _ack(self, link: Link, settled: int) -> list[str]:
        ack = (max(self.received, link.acked[0]), settled)  # what goes unheard may have been acknowledged
        is_due = settled > link.acked[1] or (link.ack_due and ack != link.acked)
        link.ack_due = False
        if not is_due:
            return []
        link.acked = ack
        return [serialize(Ack(*ack, self._window_bytes))]
