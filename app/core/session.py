"""The life of one session: what may happen next, what has happened, and what is due to the client.

The *phase* says which messages are taken (table TAKEN). The *link* is the place of one socket in the session
(core/link.py); links come and go: started, detached, resumed. No clock and no I/O: time comes as an argument, in
seconds of any monotonic clock.
"""

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum, auto
from hmac import compare_digest

from msgspec import UNSET

from app.core.audio import AudioFormat
from app.core.errors import SessionError, invalid
from app.core.history import History
from app.core.link import Link
from app.core.protocol import (
    MAX_FRAME_BYTES,
    Ack,
    AudioMessage,
    Final,
    Finalize,
    Finalized,
    Gap,
    GapEvent,
    Interim,
    Limits,
    Resume,
    Resumed,
    SessionConfig,
    SpeechEnded,
    SpeechStarted,
    Started,
    Stopped,
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
    Lost,
    Result,
    Retrying,
    Settled,
    SpeechActivity,
    Throttled,
)

# protocol.md, "Timers": the client hears of a timer before it ends.
IDLE_WARNING = 0.75
"""Part of the idle timeout after which the client is warned."""
SESSION_LIMIT_WARNING_SECONDS = 60.0
MAX_PENDING_FINALIZES = 1000


class Phase(Enum):
    LISTENING = auto()
    CLOSING = auto()
    """The gateway ends the session (its time is over, a timeout asked for): what the client says is ignored."""
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
    (Phase.STOPPING, "stop"): Take.IGNORE,  # a client that resumed does not know whether it was heard
    **{(Phase.CLOSING, kind): Take.IGNORE for kind in ("audio", "gap", "finalize", "keepalive", "stop")},
    **{(Phase.ENDED, kind): Take.IGNORE for kind in ("audio", "gap", "finalize", "keepalive", "stop")},
}
"""What a client may say in which phase; what is missing here is `bad_order`."""


@dataclass(slots=True)
class Timers:
    """In seconds."""

    idle: float
    max_session: float


class Session:
    """One transcription. Methods that take a client's message raise SessionError when it may not come now."""

    def __init__(
        self,
        session_id: str,
        config: SessionConfig,
        *,
        timers: Timers,
        window_seconds: float,
        now: float,
        keeps_history: bool = False,
    ) -> None:
        """`keeps_history`: events are kept for a client that comes back."""
        self.id = session_id
        self.config = config
        self.format = AudioFormat.of(config.audio)
        self.phase = Phase.LISTENING
        self.history = History()
        self.received = 0
        """Bytes of the client's stream, gaps included."""
        self.settled = 0
        """Bytes that the client may forget."""
        self.finals = 0
        self.gaps: Counter[str] = Counter()
        """Bytes that nobody heard, by reason."""
        self.legs = 0
        self.billed_ms = 0
        self.replayed_ms = 0
        self.error: SessionError | None = None
        self.link = Link()
        self.resumes = 0
        self.detached_at: float | None = None
        """Since when nobody is there."""
        self.delivered = False
        """The client was sent the end, whatever it is."""
        self._tokens: list[str] = []
        """Admit the next link: the newest one, and the one before till the client shows that it has the newest."""
        self._keeps_history = keeps_history
        self._timers = timers
        self._window_bytes = self.format.offset(window_seconds * 1000)
        self._opened_at = now
        self._heard_at = now
        self._warned: set[str] = set()
        self._finalize_marks: deque[tuple[int, Finalize]] = deque()
        self._interims: dict[int, Interim] = {}
        """The newest interim of each channel that was not sent yet."""

    @property
    def gap_bytes(self) -> int:
        return self.gaps.total()

    @property
    def how_it_ended(self) -> str:
        """In one word: an error's code, `stopped`, or `left`, which the client did."""
        if self.error is not None:
            return self.error.code
        return "stopped" if self.phase is Phase.ENDED else "left"

    @property
    def ended(self) -> bool:
        """Nothing more will be due."""
        return self.phase is Phase.ENDED or self.error is not None

    def started(self, resume_token: str, resume_window_ms: int) -> None:
        limits = Limits(
            max_frame_bytes=MAX_FRAME_BYTES,
            window_bytes=self._window_bytes,
            idle_timeout_ms=round(self._timers.idle * 1000),
            max_session_ms=round(self._timers.max_session * 1000),
        )
        self._tokens = [resume_token]
        self.link.say(Started(self.id, resume_token, resume_window_ms, self.config, limits))

    # Links come and go ------------------------------------------------------------------------

    def detach(self, now: float) -> None:
        """The socket is gone. What happens meanwhile waits in the history."""
        self.link = Link(attached=False)
        self.detached_at = now

    def check_resume(self, message: Resume) -> None:
        """Raises SessionError where the client must not, or cannot, go on with this session."""
        if not any(compare_digest(message.resume_token.encode(), token.encode()) for token in self._tokens):
            raise unknown(self.id)
        if message.last_event > self.history.last:
            raise invalid("last_event", message.last_event, f"the session's last event is {self.history.last}")

    def resume(self, message: Resume, resume_token: str, now: float) -> None:
        """A new link, which has all events up to `last_event`; with its first frame the old token is dead. After
        `check_resume`."""
        self._tokens = [message.resume_token, resume_token]
        self.resumes += 1
        self.link = Link(cursor=message.last_event)
        self.detached_at = None
        self._is_not_idle(now)
        replayed = self.history.last - message.last_event
        self.link.say(Resumed(offset=self.received, resume_token=resume_token, replayed=replayed))

    # What the client says ---------------------------------------------------------------------

    def heard_from_client(self, now: float) -> None:
        """Any frame resets the idle timer. It also shows that `resumed` has come, and the new token with it."""
        self._is_not_idle(now)
        del self._tokens[:-1]

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
        if len(audio) > MAX_FRAME_BYTES:
            raise SessionError(
                "frame_too_large", f"an audio frame of {len(audio)} bytes is over the limit of {MAX_FRAME_BYTES}"
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
        self._append_gap(self.received, self.received + gap.bytes, gap.reason)
        self.received += gap.bytes
        return True

    def finalize(self, message: Finalize) -> bool:
        """Asks for `finalized` once everything received so far is settled. Returns whether it counts."""
        if not self.takes("finalize"):
            return False
        if len(self._finalize_marks) >= MAX_PENDING_FINALIZES:
            raise SessionError(
                "rate_limited", f"{MAX_PENDING_FINALIZES} `finalize` wait for their answer, which is the limit"
            )
        self._finalize_marks.append((self.received, message))
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
            self.legs += 1
            self.billed_ms += event.billed_ms
            self.replayed_ms += event.replayed_ms
        if self.ended:
            return  # nothing may follow `error`, or `stopped`
        match event:
            case Result():
                self._receive_result(event)
            case Settled(offset):
                self._settle(offset)
            case SpeechActivity(active, at_ms):
                if self.config.enable_voice_activity_events:
                    self.link.say(SpeechStarted(at_ms) if active else SpeechEnded(at_ms))
            case Throttled(active, queued_ms):
                self.link.say(Throttle("on" if active else "off", queued_ms))
            case Retrying(reason, in_ms):
                self.link.say(WarningMessage("upstream_retrying", reason, in_ms))
            case Lost(start, end):
                self._append_gap(start, end, "upstream")
            case Finished():
                self._end()
            case ActivityTimeout():
                self.close()
            case Failed(error):
                self.fail(error)

    def _receive_result(self, result: Result) -> None:
        if result.is_final:
            self._interims.pop(result.channel, None)
            if result.text:
                self.finals += 1
                self.history.append(lambda event: self._final(event, result))
        elif self.config.interim_results:
            self._interims[result.channel] = Interim(
                text=result.text,
                start_ms=result.start_ms,
                end_ms=result.end_ms,
                stability=result.stability,
                language_code=result.language_code,
                channel=result.channel,
            )

    def _final(self, event: int, result: Result) -> Final:
        wanted = self.config
        return Final(
            event=event,
            text=result.text,
            start_ms=result.start_ms,
            end_ms=result.end_ms,
            confidence=result.alternatives[0].confidence if result.alternatives else 0.0,
            language_code=result.language_code,
            channel=result.channel,
            alternatives=list(result.alternatives) if wanted.max_alternatives > 1 else UNSET,
            words=list(result.words) if result.words else UNSET,
        )

    def _settle(self, offset: int) -> None:
        if offset > self.settled:
            self.settled = offset
            self.link.ack_due = True
        while self._finalize_marks and self._finalize_marks[0][0] <= self.settled:
            self._append_finalized(*self._finalize_marks.popleft())

    def _append_gap(self, start: int, end: int, reason: str) -> None:
        self.gaps[reason] += end - start
        self.history.append(lambda event: GapEvent(event, self.format.ms(start), self.format.ms(end), reason))

    def _append_finalized(self, offset: int, message: Finalize) -> None:
        self.history.append(lambda event: Finalized(event, message.id, self.format.ms(offset)))

    def _end(self) -> None:
        self.phase = Phase.ENDED
        self._interims.clear()  # nothing may follow `stopped`
        self.history.append(
            lambda event: Stopped(
                event=event,
                audio_ms=self.format.ms(self.received - self.gap_bytes),
                billed_ms=self.billed_ms,
                finals=self.finals,
                gap_ms=self.format.ms(self.gap_bytes),
                upstream_streams=self.legs,
                resumes=self.resumes,
            )
        )

    # What time says ---------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """At least every second. Raises SessionError when the client was silent for too long."""
        if self.received > self.link.acked[0]:
            self.link.ack_due = True
        if not self._is_the_clients_turn:
            self._is_not_idle(now)
        idle_for = now - self._heard_at
        if idle_for >= self._timers.idle:
            raise SessionError("idle_timeout", f"no frame for {self._timers.idle:g} s, the limit")
        if idle_for >= self._timers.idle * IDLE_WARNING:
            self._warn("idle", "no frame for some time: send audio or `keepalive`", self._timers.idle - idle_for)
        left = self._timers.max_session - (now - self._opened_at)
        if left <= SESSION_LIMIT_WARNING_SECONDS:
            self._warn("session_limit", "the session reaches its longest time: the gateway will stop it", left)

    @property
    def _is_the_clients_turn(self) -> bool:
        """Not after `stop`, not while it is away, and not while it has used up its window, give or take a frame: then
        it waits for us."""
        listens = self.phase is Phase.LISTENING and self.link.attached
        return listens and self.received - self.settled + MAX_FRAME_BYTES < self._window_bytes

    def _is_not_idle(self, now: float) -> None:
        self._heard_at = now
        self._warned.discard("idle")

    def over(self, now: float) -> bool:
        """Whether the session has reached its longest time and should be closed."""
        return self.phase is Phase.LISTENING and now - self._opened_at >= self._timers.max_session

    def close(self) -> None:
        """The gateway ends the session: what was said so far becomes final, then comes `stopped`."""
        if self.phase is Phase.LISTENING:
            self.phase = Phase.CLOSING

    def fail(self, error: SessionError) -> None:
        """The first failure is the one that the client is told."""
        if not self.ended:
            self.error = error

    def _warn(self, code: str, message: str, left: float) -> None:
        if code not in self._warned:
            self._warned.add(code)
            self.link.say(WarningMessage(code, message, max(0, round(left * 1000))))

    # What is due ------------------------------------------------------------------------------

    def due(self) -> list[str]:
        """Everything that the link should be sent now, in order: replies, events, newest interims, ack, error."""
        link = self.link
        messages = link.replies
        link.replies = []
        messages += self.history.after(link.cursor)
        link.cursor = self.history.last
        if not self._keeps_history:
            self.history.forget(link.cursor)
        messages += [serialize(interim) for interim in self._interims.values()]
        self._interims.clear()
        if link.ack_due and self.phase is not Phase.ENDED and (self.received, self.settled) != link.acked:
            link.acked = (self.received, self.settled)
            messages.append(serialize(Ack(self.received, self.settled, self._window_bytes)))
        link.ack_due = False
        if self.error:
            messages.append(serialize(error_message(self.error, self.id)))
        return messages


def unknown(session_id: str) -> SessionError:
    """The same whether there is no such session or its token is another one: nobody can find out by trying."""
    return SessionError("session_unknown", f"session {session_id[:64]!r} is not known here, or not with this token")
