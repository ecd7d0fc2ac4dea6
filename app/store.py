"""What outlives a process: a port, and the store of a gateway that stands alone. `store_redis.py` is beside it.

A record belongs to the epoch that claimed it last: whoever still writes with an older one learns that it is fenced, and
nothing is changed. Events are numbered, so writing one twice is writing it once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from app.core.errors import SessionError, unknown
from app.core.record import Change, Record

FENCED = -1
MAX_TEXTS = 100_000
"""That one process keeps: of one-time tokens, some 40 MB."""


class StoreBehindError(Exception):
    """The client was told more, while the store was away: whoever has the session may still write it."""


class StoreAwayError(Exception):
    """The store does not answer, or cannot: nothing is known of whether it has written."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as the store has it."""

    record: Record
    events: tuple[str, ...]
    """Serialized, in order."""


class Store(Protocol):
    shared: bool
    """Other processes see the same."""

    async def save(self, changes: Sequence[Change]) -> list[int]:
        """Writes each change in one atomic step of its own. For each the number of the last event that is held now:

        * `record.last_event`: it is written. Events that were held already are not held twice;
        * less: events before `first` are missing (all of them, where the store has lost its memory or the record is of
          an older epoch). Nothing was written: come again with the events after that number;
        * `FENCED`: the record belongs to a newer epoch. Nothing was written, and nothing ever will be.

        Raises StoreAwayError.
        """

    async def claim(self, session_id: str, token: str, seen: int = 0) -> Stored:
        """Takes a session over: the record that comes back has the next epoch, which is the store's from now on.

        `token` is the fingerprint of the client's, `seen` the number of the last event that it has. Raises
        StoreBehindError where the record has fewer; SessionError `session_unknown` (also for a wrong token:
        nobody can find out by trying), `session_ended` (with `over`), `resume_window_expired`; StoreAwayError.
        """

    async def read(self, session_id: str, after: int) -> Stored | None:
        """A record and its events after a number; none where there is no such session (any more). Raises
        StoreAwayError."""

    async def put(self, key: str, text: str, seconds: float) -> bool:
        """Keeps a text for so long, where there is none under that key: whether it does. Raises StoreAwayError."""

    async def get(self, key: str) -> str | None:
        """What `put` keeps. Raises StoreAwayError."""

    async def close(self) -> None:
        """Releases everything."""


def ended(record: Record) -> SessionError:
    if record.over == "resume_window_expired":
        return expired(record.session_id)
    return SessionError("session_ended", f"session {record.session_id} has ended: {record.over}")


def expired(session_id: str) -> SessionError:
    return SessionError("resume_window_expired", f"session {session_id} has waited for its client as long as it may")


@dataclass(slots=True)
class _Entry:
    record: Record
    events: list[str]
    resume_until: float
    keep_until: float


class MemoryStore:
    """For one process: what it holds ends with it."""

    shared = False

    def __init__(self, clock: Callable[[], float], max_sessions: int = 10_000) -> None:
        """`clock`: seconds, monotonic. Over `max_sessions` the one that was written longest ago is forgotten."""
        self._clock = clock
        self._max_sessions = max_sessions
        self._entries: dict[str, _Entry] = {}
        """The one written last is last."""
        self._texts: dict[str, tuple[float, str]] = {}
        """Until when, and what."""

    async def save(self, changes: Sequence[Change]) -> list[int]:
        return [self._save(change) for change in changes]

    async def claim(self, session_id: str, token: str, seen: int = 0) -> Stored:
        entry = self._entry(session_id)
        if entry is None or token not in entry.record.tokens:
            raise unknown(session_id)
        if entry.record.over is not None:
            raise ended(entry.record)
        if entry.resume_until <= self._clock():
            raise expired(session_id)
        if entry.record.last_event < seen:
            raise StoreBehindError
        entry.record = replace(entry.record, epoch=entry.record.epoch + 1)
        return Stored(entry.record, tuple(entry.events))

    async def read(self, session_id: str, after: int) -> Stored | None:
        entry = self._entry(session_id)
        return Stored(entry.record, tuple(entry.events[after:])) if entry else None

    async def put(self, key: str, text: str, seconds: float) -> bool:
        if await self.get(key) is not None:
            return False
        if len(self._texts) >= MAX_TEXTS:
            self._forget_texts()
        self._texts[key] = self._clock() + seconds, text
        return True

    async def get(self, key: str) -> str | None:
        until, text = self._texts.get(key, (0.0, ""))
        return text if until > self._clock() else None

    async def close(self) -> None:
        self._entries.clear()
        self._texts.clear()

    def _save(self, change: Change) -> int:
        record = change.record
        entry = self._entry(record.session_id)
        if entry and entry.record.epoch > record.epoch:
            return FENCED
        held = len(entry.events) if entry and entry.record.epoch == record.epoch else 0
        if change.first > held + 1:
            return held
        events = entry.events if entry and held else []
        events += change.events[held - change.first + 1 :]
        now = self._clock()
        self._entries.pop(record.session_id, None)
        self._entries[record.session_id] = _Entry(
            record, events, now + change.resume_seconds, now + change.keep_seconds
        )
        self._forget(now)
        return record.last_event

    def _forget_texts(self) -> None:
        """Those whose time is over, and of the rest those that were kept first."""
        now = self._clock()
        left = {key: value for key, value in self._texts.items() if value[0] > now}
        self._texts = dict(list(left.items())[-MAX_TEXTS // 2 :])

    def _entry(self, session_id: str) -> _Entry | None:
        self._forget(self._clock())
        entry = self._entries.get(session_id)
        return entry if entry and entry.keep_until > self._clock() else None

    def _forget(self, now: float) -> None:
        """Those that were written longest ago, as far as they are not needed any more."""
        while self._entries:
            oldest = next(iter(self._entries))
            if self._entries[oldest].keep_until > now and len(self._entries) <= self._max_sessions:
                return
            del self._entries[oldest]
