"""The client, as docs/protocol.md says that it be: it keeps what is not final, and sends it again. It holds the gateway
to what that page promises.
"""

from app.client.outbox import Outbox
from app.core.protocol import (
    Ack,
    Durable,
    Error,
    Final,
    Finalize,
    Finalized,
    GapEvent,
    GapReason,
    Interim,
    Resume,
    Resumed,
    Started,
    Stopped,
    WarningMessage,
    parse_server,
)
from tests.paper.audio import SESSION, UNIT, Unit, words, write_audio
from tests.paper.gateway import Wire
from tests.paper.store import PaperStore


class Client:
    def __init__(self, store: PaperStore) -> None:
        """`store`: what the test knows of it, the client does not."""
        self._store = store
        self.outbox = Outbox()
        self.said: list[Unit | GapReason] = []
        """Every unit of the session, or why it skipped it."""
        self.covered: dict[int, str] = {}
        """What it knows of a unit: it is in a `final`, or in a gap for that reason."""
        self.events: list[str] = []
        self.final = 0
        """Bytes that it has forgotten."""
        self.token = ""
        """The newest that it has heard of."""
        self.old_token = ""
        """The one before, once the client has said something with the newest."""
        self.warned = False
        """Only the very gateway that it speaks to can go on with the session."""
        self.wire: Wire | None = None
        self.greeted = False
        """`started` or `resumed` has come on it."""
        self.stopping = False
        self.stopped: Stopped | None = None
        self.cut_short = False
        """The gateway may stop by itself."""
        self._given_for = ""
        """The token that the newest was given for."""
        self._next = 1
        """The number of the event that must come now."""
        self._finals = 0
        self._final_until = 0
        """Units before which no final may come any more."""
        self._finalizes: list[int] = []
        """Where each was said, in units: its index is its name."""
        self._answers: set[int] = set()

    @property
    def is_warned(self) -> bool:
        """It may lose the session, should its gateway go now."""
        return self.warned or self._store.has_forgotten

    # What it says -------------------------------------------------------------------------------

    def record(self, units: int, *, spoken: bool) -> None:
        new = [(len(self.said) + i, spoken) for i in range(units)]
        self.said += new
        self.outbox.audio(write_audio(new))

    def skip(self, units: int, reason: GapReason) -> None:
        self.said += [reason] * units
        self.outbox.gap(units * UNIT, reason)

    def finalize(self) -> None:
        self.outbox.finalize(Finalize(len(self._finalizes)))
        self._finalizes.append(len(self.said))

    def stop(self) -> None:
        self.stopping = True
        self.outbox.stop()

    def connect(self, wire: Wire) -> None:
        self.wire, self.greeted = wire, False

    def spoke(self) -> None:
        """It has said something: so it has heard of its newest token."""
        self.old_token = self._given_for

    def resume(self, wire: Wire, last_event: int) -> Resume:
        self.connect(wire)
        self._next = last_event + 1
        return Resume(SESSION, self.token, last_event)

    # What it hears ------------------------------------------------------------------------------

    def read(self, text: str) -> None:
        match parse_server(text):
            case Started() as started:
                self.token = started.resume_token
                self.greeted = True
            case Resumed() as resumed:
                self._go_on(resumed)
            case Ack(final=final):
                self._forget(final)
            case WarningMessage(code) if code in {"not_resumable", "resumable"}:
                self.warned = code == "not_resumable"
            case Interim(start_ms=at):
                assert at not in self.covered, "no interim comes after its final"
            case Error():
                self.wire = None
            case message if isinstance(message, Durable):
                self._take(message, text)

    def _go_on(self, resumed: Resumed) -> None:
        assert resumed.offset <= len(self.said) * UNIT, "no byte is counted that was not said"
        assert resumed.offset >= self.final or self.is_warned, "what may be forgotten is not asked for"
        self.final = min(self.final, resumed.offset)  # it has forgotten more: the outbox says so
        self.greeted, self.warned = True, False
        self.old_token, self._given_for, self.token = "", self.token, resumed.resume_token
        self.outbox.rewind(resumed.offset)

    def _forget(self, final: int) -> None:
        assert final >= self.final, "`ack.final` never goes back"
        assert final <= len(self.said) * UNIT, "and is never ahead of what was said"
        self.final = final
        self._final_until = max(self._final_until, final // UNIT)
        self.outbox.settle(final)

    def _take(self, message: Durable, text: str) -> None:
        assert message.event == self._next, "events come in order, without a hole, from the one asked for"
        self._next += 1
        if message.event <= len(self.events):
            assert text == self.events[message.event - 1], "what is durable never changes"
            return
        self.events.append(text)
        match message:
            case Final():
                self._hear_words(message)
            case GapEvent():
                self._cover(message.start_ms, message.end_ms, message.reason)
            case Finalized():
                self._finalized(message)
            case Stopped():
                self.stopped = message
                self._check_whole(message)

    def _hear_words(self, final: Final) -> None:
        heard = [unit for unit in self.said[final.start_ms : final.end_ms] if not isinstance(unit, str)]
        assert len(heard) == final.end_ms - final.start_ms, "nobody heard what was skipped"
        assert final.text == words(heard), "a final is what was said there"
        assert final.start_ms >= self._final_until, "it comes before `ack` and `finalized` speak of it"
        self._finals += 1
        self._cover(final.start_ms, final.end_ms, "final")

    def _cover(self, start: int, end: int, what: str) -> None:
        assert 0 <= start < end <= len(self.said), "no event speaks of more than what was said"
        for at in range(start, end):
            assert at not in self.covered, f"a {what} overlaps nothing that was told before"
            self.covered[at] = what

    def _finalized(self, message: Finalized) -> None:
        self.outbox.finalized(message, lambda place: place)  # a unit is a millisecond
        name = message.id
        assert isinstance(name, int) and message.end_ms == self._finalizes[name], "the answer to what was asked"
        self._final_until = max(self._final_until, message.end_ms)
        self._answers.add(name)

    def _check_whole(self, stopped: Stopped) -> None:
        """Finals, silence and gaps are all that was said, once."""
        end = stopped.audio_ms + stopped.gap_ms
        assert end == len(self.said) or (self.cut_short and end < len(self.said)), "all that was said counts"
        for at, unit in enumerate(self.said[:end]):
            if isinstance(unit, str):
                assert self.covered.get(at) in {unit, "upstream"}, "what was skipped is a gap"
            else:
                assert at in self.covered or not unit[1], "no word is missing"
        assert max(self.covered, default=-1) < end, "nothing is told of what does not count"
        gaps = sum(what != "final" for what in self.covered.values())
        assert (stopped.finals, stopped.gap_ms) == (self._finals, gaps), "`stopped` has the sums"
        assert self.cut_short or len(self._answers) == len(self._finalizes), "each `finalize` was answered"
