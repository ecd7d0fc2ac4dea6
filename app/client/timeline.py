"""One clock, one numbering and one sum over all the gateway's sessions that the transcription takes.

A session of the gateway begins at a byte of ours, its `base`, and counts everything from there: offsets, times, events.
What comes out of here counts from our first byte. No I/O.
"""

from dataclasses import dataclass
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from app.client.errors import EventsMissingError, SessionEndedError
from app.client.messages import Message
from app.client.outbox import Outbox
from app.core.audio import AudioFormat
from app.core.protocol import (
    Ack,
    Durable,
    Final,
    Finalized,
    GapEvent,
    Interim,
    Resume,
    Resumed,
    SpeechEnded,
    SpeechStarted,
    Started,
    Stopped,
    Throttle,
    WarningMessage,
    WordInfo,
)

ROUNDING_MS = 2
"""Times are whole milliseconds; sums of them are less exact."""
COUNTS = ("audio_ms", "billed_ms", "finals", "gap_ms", "upstream_streams", "resumes", "replayed_ms")
"""Of `stopped`."""

Timed = TypeVar("Timed", bound=Struct)


@dataclass(slots=True)
class _Session:
    """One of the gateway's, as far as it is known here. Where it begins is told on our clock, the rest on its own."""

    base: int
    shift_ms: int
    last_event: int = 0
    finals: int = 0
    finals_end_ms: int = 0
    resumes: int = 0
    reaches_limit: bool = False


class Timeline:
    def __init__(self, form: AudioFormat, outbox: Outbox) -> None:
        self.started: Started
        """Of the newest session."""
        self.received = 0
        """Bytes that the gateway has."""
        self.settled = 0
        """Bytes that it has for good: their text is final."""
        self.window = 0
        self.throttled = False
        self.sessions = 0
        self._form = form
        self._outbox = outbox
        self._session = _Session(0, 0)
        self._resume_token: str | None = None
        """The newest; none while no session was accepted."""
        self._token_before: str | None = None
        self._events = 0
        """Durable messages that came out."""
        self._gaps: list[tuple[int, int]] = []
        """Those that came out, of this session; and of the ones before, which this one may tell again."""
        self._gaps_before: list[tuple[int, int]] = []
        self._sums = dict.fromkeys(COUNTS, 0)
        """Of the sessions before."""

    @property
    def base(self) -> int:
        """Where the session begins."""
        return self._session.base

    @property
    def resumes(self) -> int:
        return self._sums["resumes"] + self._session.resumes

    @property
    def is_resumable(self) -> bool:
        return self._resume_token is not None and self.started.resume_window_ms > 0

    # Sessions and connections -----------------------------------------------------------------

    def resume(self) -> Resume | None:
        """What to say on a new connection; nothing where a session has to be started."""
        if self._resume_token is None:
            return None
        return Resume(self.started.session_id, self._resume_token, self._session.last_event)

    def take_token_before(self) -> bool:
        """Whether there is one. It is the right one where an attempt that was given up was heard after the one that
        came through, and before anything was said on that."""
        if self._token_before is None:
            return False
        self._resume_token, self._token_before = self._token_before, None
        return True

    def begin(self, started: Started) -> None:
        self.started = started
        self.window = started.limits.window_bytes
        self.sessions += 1
        self._resume_token, self._token_before = started.resume_token, None

    def go_on(self, resumed: Resumed) -> None:
        self._resume_token, self._token_before = resumed.resume_token, self._resume_token
        self._session.resumes += 1
        self.received = self.base + resumed.offset
        self._outbox.rewind(self.received)

    def lose(self, stopped: Stopped | None = None) -> None:
        """The gateway does not have the session any more: the next one hears what is not final. Or all that came after,
        where it has ended in good order."""
        heard = self._form.offset(stopped.audio_ms + stopped.gap_ms) if stopped else 0
        base = min(max(self._settled_end(), self.base + heard), self._outbox.cursor)
        base -= base % self._form.frame_bytes
        shift_ms = -(-base * 1000 // self._form.bytes_per_second)  # never before the end of a final
        self._add(stopped or self._known(shift_ms))
        self._gaps_before = [gap for gap in self._gaps_before + self._gaps if gap[1] > shift_ms]
        self._gaps = []
        self._session = _Session(base, shift_ms)
        self._resume_token = self._token_before = None
        self.throttled = False
        self.received = self.settled = base
        self._outbox.restart(base)

    def _settled_end(self) -> int:
        """A final may have come without its ack. With several channels others may be behind it."""
        if self._form.channels > 1:
            return self.settled
        return max(self.settled, self.base + self._form.offset(self._session.finals_end_ms))

    def _known(self, end_ms: int) -> Stopped:
        """Of a session that never said `stopped`: what it has cost upstream is not known."""
        session = self._session
        gaps = self._gaps_before + self._gaps
        spans = [(max(start, session.shift_ms), min(end, end_ms)) for start, end in gaps]
        gap_ms = sum(max(0, end - start) for start, end in spans)
        return Stopped(0, end_ms - session.shift_ms - gap_ms, 0, session.finals, gap_ms, 0, session.resumes)

    def _add(self, stopped: Stopped) -> None:
        for name in COUNTS:
            self._sums[name] += getattr(stopped, name)

    # What the gateway says --------------------------------------------------------------------

    def take(self, message: Ack | Message) -> Message | None:
        """The message on our clock; nothing where the reader has no need of it. Raises EventsMissingError, and
        SessionEndedError where a new session has to hear the rest."""
        if isinstance(message, Durable) and not self._is_new(message.event):
            return None
        match message:
            case Ack():
                self._settle(message)
                return None
            case Final():
                self._session.finals += 1
                self._session.finals_end_ms = max(self._session.finals_end_ms, message.end_ms)
            case WarningMessage(code="session_limit"):
                self._session.reaches_limit = True
            case Throttle():
                self.throttled = message.state == "on"
            case Stopped() if self._is_early(message):
                self.lose(message)
                raise SessionEndedError()
            case Stopped():
                message = self._sum(message)
        told = self._untold(_shifted(message, self._session.shift_ms))
        return self._numbered(told) if isinstance(told, Durable) else told

    def _is_early(self, stopped: Stopped) -> bool:
        """The gateway has ended the session for its age, and there is more to hear. A `stop` that was said on the
        connection before is answered on this one."""
        session, outbox = self._session, self._outbox
        is_limit = session.reaches_limit
        if not outbox.stop_sent:
            is_limit = is_limit or self.started.config.voice_activity_timeout is None
        heard_ms = stopped.audio_ms + stopped.gap_ms
        has_all = outbox.stops and heard_ms + ROUNDING_MS >= self._form.ms(outbox.cursor - session.base)
        return is_limit and not has_all

    def _is_new(self, event: int) -> bool:
        last = self._session.last_event
        if event > last + 1:
            raise EventsMissingError(last, event)
        self._session.last_event = max(last, event)
        return event > last

    def _settle(self, ack: Ack) -> None:
        self.received = max(self.received, self.base + ack.received)
        self.settled = max(self.settled, self.base + ack.final)
        self.window = ack.window
        self._outbox.settle(self.settled - self.settled % self._form.frame_bytes)

    def _sum(self, stopped: Stopped) -> Stopped:
        return replace(stopped, **{name: getattr(stopped, name) + self._sums[name] for name in COUNTS})

    def _untold(self, message: Message) -> Message | None:
        """What of it is new to the reader."""
        match message:
            case Finalized() if not self._outbox.finalized(message, self._form.ms):
                return None
            case GapEvent():
                return self._untold_gap(message)
        return message

    def _untold_gap(self, gap: GapEvent) -> GapEvent | None:
        start = gap.start_ms
        for told_start, told_end in self._gaps_before:
            if told_start - ROUNDING_MS <= start < told_end:
                start = told_end
        if start > gap.start_ms and gap.end_ms - start <= ROUNDING_MS:
            return None
        self._gaps.append((start, gap.end_ms))
        return replace(gap, start_ms=start)

    def _numbered(self, message: Final | GapEvent | Finalized | Stopped) -> Message:
        self._events += 1
        return replace(message, event=self._events)


def _shifted(message: Timed, ms: int) -> Timed:
    """So much later."""
    if not ms:
        return message
    match message:
        case Final(start_ms=start, end_ms=end, words=list(words)):
            return replace(message, start_ms=start + ms, end_ms=end + ms, words=[_shifted(word, ms) for word in words])
        case (
            Interim(start_ms=start, end_ms=end)
            | Final(start_ms=start, end_ms=end)
            | GapEvent(start_ms=start, end_ms=end)
            | WordInfo(start_ms=start, end_ms=end)
        ):
            return replace(message, start_ms=start + ms, end_ms=end + ms)
        case Finalized(end_ms=end):
            return replace(message, end_ms=end + ms)
        case SpeechStarted(at_ms=at) | SpeechEnded(at_ms=at):
            return replace(message, at_ms=at + ms)
    return message
