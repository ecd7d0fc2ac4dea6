"""A store on paper. tests/test_store_model.py holds both real ones to its Model."""

from dataclasses import dataclass
from itertools import count
from math import inf

from msgspec.structs import replace

from app.core.errors import SessionError
from app.core.ledger import Mark
from app.core.record import Change, Record, fingerprint
from app.store import FENCED, Stored
from tests.paper.audio import SESSION


@dataclass
class Held:
    record: Record
    events: dict[int, str]
    resume_until: float
    keep_until: float


class Model:
    """What the docstrings of `Store` say, in the plainest way."""

    def __init__(self) -> None:
        self.now = 0.0
        self.all: dict[str, Held] = {}

    def held(self, session_id: str) -> Held | None:
        found = self.all.get(session_id)
        return found if found and self.now < found.keep_until else None

    def save(self, change: Change) -> int:
        record = change.record
        found = self.held(record.session_id)
        if found and found.record.epoch > record.epoch:
            return FENCED
        events = dict(found.events) if found and found.record.epoch == record.epoch else {}
        if missing := set(range(1, change.first)) - set(events):
            return min(missing) - 1
        for number, text in enumerate(change.events, change.first):
            events.setdefault(number, text)
        self.all[record.session_id] = Held(
            record, events, self.now + change.resume_seconds, self.now + change.keep_seconds
        )
        return record.last_event

    def claim(self, session_id: str, token: str) -> Stored | str:
        found = self.held(session_id)
        if not found or token not in found.record.tokens:
            return "session_unknown"
        if found.record.over:
            return "session_ended"
        if self.now >= found.resume_until:
            return "resume_window_expired"
        found.record = replace(found.record, epoch=found.record.epoch + 1)
        return Stored(found.record, tuple(found.events.values()))

    def read(self, session_id: str, after: int) -> Stored | None:
        found = self.held(session_id)
        if not found:
            return None
        return Stored(found.record, tuple(text for number, text in found.events.items() if number > after))


@dataclass
class Write:
    """One write of one gateway, on its way."""

    change: Change
    mark: Mark
    """How far the session was."""
    number: int
    """Of all writes."""
    arrived: bool = False
    answer: int | None = None


class PaperStore:
    """A store that loses its memory when it is told to, and remembers for the test what it ever had."""

    def __init__(self) -> None:
        self.model = Model()
        self.had: set[str] = set()
        """Every event that it ever had."""
        self.had_settled = 0
        self.late: list[Write] = []
        """Given up, but not lost: they may still arrive."""
        self.has_forgotten = False
        """What was told, and who told it has not written since."""
        self._forgot_at = 0.0
        """After that write."""
        self._newest: dict[int, int] = {}
        """Per epoch, the write that was taken last: an older one changes nothing."""
        self._numbers = count(1)
        self._past: list[Held] = []
        """What it had before, of the same epoch."""

    @property
    def held(self) -> Held | None:
        return self.model.held(SESSION)

    def next_number(self) -> int:
        return next(self._numbers)

    def save(self, write: Write) -> int:
        change, before = write.change, self.held
        epoch = change.record.epoch
        same = before is not None and before.record.epoch == epoch
        if before and same and self._newest.get(epoch, 0) > write.number:
            return len(before.events)
        answer = self.model.save(change)
        if answer == change.record.last_event:
            self._newest[epoch] = write.number
            self.has_forgotten &= write.number < self._forgot_at
            self.had.update(change.events)
            self.had_settled = max(self.had_settled, change.record.settled)
            self._past = [*self._past, before] if same and before else []
        return answer

    def claim(self, token: str) -> Stored:
        """Raises SessionError."""
        match self.model.claim(SESSION, fingerprint(token, "")):
            case Stored() as stored:
                self._past = []
                if self.has_forgotten:
                    self._forgot_at = inf  # that is lost for good
                return stored
            case str() as code:
                raise SessionError(code, "so says the store")

    def forget(self) -> None:
        """It comes back empty."""
        self.model.all.clear()
        self._past = []
        self._forgets()

    @property
    def can_forget_last(self) -> bool:
        return bool(self._past) and self.held is not None

    def forget_last(self, writes: int) -> None:
        """It comes back as it was so many writes ago."""
        back = min(writes, len(self._past))
        self.model.all[SESSION] = self._past[-back]
        del self._past[-back:]
        self._forgets()

    def _forgets(self) -> None:
        self._newest.clear()
        self.late.clear()  # they were on connections that are gone, too
        self.has_forgotten, self._forgot_at = True, max(self._forgot_at, self.next_number())
