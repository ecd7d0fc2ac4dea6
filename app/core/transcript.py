"""What was heard of a session, and what of it the client may forget: events in order, each once.

What the client said at a place in its audio - a gap, `finalize` - becomes an event when everything before that place is
settled. So no event speaks of audio that a gateway which goes on with the session would be sent again.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import UNSET

from app.core.audio import AudioFormat
from app.core.errors import SessionError
from app.core.history import History
from app.core.protocol import Final, Finalize, Finalized, Gap, GapEvent, Interim, SessionConfig, Stopped
from app.core.recognition import LegEnded, Losing, Lost, Result, Settled
from app.core.record import Tally

MAX_WAITING = 1000
"""Of gaps and `finalize`, until what was said before is settled."""


@dataclass(slots=True)
class _Waiting:
    at: int
    said: Gap | Finalize


class Transcript:
    def __init__(
        self,
        config: SessionConfig,
        *,
        settled: int = 0,
        tally: Tally | None = None,
        events: Iterable[str] = (),
        losing: tuple[int, int] | None = None,
    ) -> None:
        """`losing`: of that nobody will hear what may be forgotten; the rest is sent again."""
        tally = tally or Tally()
        self.format = AudioFormat.of(config.audio)
        self.history = History(events)
        self.settled = settled
        """Bytes that the client may forget."""
        self.finals = tally.finals
        self.gaps: Counter[str] = Counter(tally.gaps)
        """Bytes that nobody heard, by reason."""
        self.legs = tally.legs
        self.billed_ms = tally.billed_ms
        self.replayed_ms = tally.replayed_ms
        self.losing = losing
        """Bytes [start, end) that are lost upstream: an event once it is known how many they are."""
        self._config = config
        self._waiting: list[_Waiting] = []
        self._interims: dict[int, Interim] = {}
        """The newest of each channel that was not taken yet."""
        if losing is not None:
            self.lose(losing[0], min(losing[1], settled))

    @property
    def gap_bytes(self) -> int:
        return self.gaps.total()

    def tally(self, resumes: int) -> Tally:
        return Tally(self.finals, self.legs, self.billed_ms, self.replayed_ms, resumes, dict(self.gaps))

    # What the recognizer says -----------------------------------------------------------------

    def hear(self, event: Result | Settled | Losing | Lost) -> None:
        match event:
            case Result():
                self._hear_words(event)
            case Settled(offset):
                self.settle(offset)
            case Losing(start, end):
                self._interims.clear()  # nobody will hear more of that
                self._lose_upto(start, end)
            case Lost(start, end):
                self.lose(start, end)

    def _hear_words(self, result: Result) -> None:
        """A final is an event; an interim replaces the one before of its channel."""
        if result.is_final:
            self._interims.pop(result.channel, None)
            if result.text:
                self.finals += 1
                self.history.append(lambda event: self._final(event, result))
        elif self._config.interim_results:
            self._interims[result.channel] = Interim(
                text=result.text,
                start_ms=result.start_ms,
                end_ms=result.end_ms,
                stability=result.stability,
                language_code=result.language_code,
                channel=result.channel,
            )

    def bill(self, leg: LegEnded) -> None:
        self.legs += 1
        self.billed_ms += leg.billed_ms
        self.replayed_ms += leg.replayed_ms

    def settle(self, offset: int) -> bool:
        """Everything before `offset` is final, or held no speech. Whether that is news."""
        before = self.settled
        self.settled = max(self.settled, offset)
        while self._waiting and self._waiting[0].at <= self.settled:
            self._tell(self._waiting.pop(0))
        return self.settled > before

    def lose(self, start: int, end: int) -> None:
        """Nobody will hear the bytes [start, end). What the client skipped among them is told in its place."""
        self._lose_upto(start, end)
        self.settle(end)
        self._tell_lost(end, end)

    def _lose_upto(self, start: int, end: int) -> None:
        """Told is what comes before `losing`, or, where nothing is being lost, before `settled`."""
        start = self.losing[0] if self.losing else max(start, self.settled)
        self.losing = (start, end) if start < end else None

    def _tell_lost(self, before: int, after: int) -> None:
        """Of what is being lost as much as comes before a byte; it goes on after another."""
        if self.losing is not None:
            start, end = self.losing
            if start < before:
                self._append_gap(start, min(end, before), "upstream")
            self.losing = (max(start, after), end) if after < end else None

    # What the client says ---------------------------------------------------------------------

    def skip(self, at: int, gap: Gap) -> None:
        """The client has no audio for `gap.bytes` from byte `at` on. A gap that goes on is one gap."""
        last = self._waiting[-1] if self._waiting else None
        if last and isinstance(last.said, Gap) and last.at + last.said.bytes == at and last.said.reason == gap.reason:
            last.said = Gap(bytes=last.said.bytes + gap.bytes, reason=gap.reason)
        else:
            self._wait(at, gap)

    def mark(self, at: int, message: Finalize) -> None:
        """`finalized` once everything before byte `at` is settled."""
        self._wait(at, message)

    def _wait(self, at: int, said: Gap | Finalize) -> None:
        if len(self._waiting) >= MAX_WAITING:
            kind = type(said).__struct_config__.tag
            raise SessionError("rate_limited", f"`{kind}`: {MAX_WAITING} wait for what was said before them, the limit")
        self._waiting.append(_Waiting(at, said))
        self.settle(self.settled)

    def _tell(self, waiting: _Waiting) -> None:
        match waiting.said:
            case Gap(size, reason):
                self._tell_lost(waiting.at, waiting.at + size)
                self._append_gap(waiting.at, waiting.at + size, reason)
                self.settled = max(self.settled, waiting.at + size)
            case Finalize(name):
                self.history.append(lambda event: Finalized(event, name, self.format.ms(waiting.at)))

    # The end ----------------------------------------------------------------------------------

    def stop(self, received: int, resumes: int) -> None:
        """`stopped` is the last event: of `received` bytes everything was heard that will be."""
        self._interims.clear()
        self.settle(received)
        self.history.append(
            lambda event: Stopped(
                event=event,
                audio_ms=self.format.ms(received - self.gap_bytes),
                billed_ms=self.billed_ms,
                finals=self.finals,
                gap_ms=self.format.ms(self.gap_bytes),
                upstream_streams=self.legs,
                resumes=resumes,
                replayed_ms=self.replayed_ms,
            )
        )

    def take_interims(self) -> list[Interim]:
        """The newest of each channel, once."""
        interims = list(self._interims.values())
        self._interims.clear()
        return interims

    def _append_gap(self, start: int, end: int, reason: str) -> None:
        self.gaps[reason] += end - start
        self.history.append(lambda event: GapEvent(event, self.format.ms(start), self.format.ms(end), reason))

    def _final(self, event: int, result: Result) -> Final:
        return Final(
            event=event,
            text=result.text,
            start_ms=result.start_ms,
            end_ms=result.end_ms,
            confidence=result.alternatives[0].confidence if result.alternatives else 0.0,
            language_code=result.language_code,
            channel=result.channel,
            alternatives=list(result.alternatives) if self._config.max_alternatives > 1 else UNSET,
            words=list(result.words) if result.words else UNSET,
        )
