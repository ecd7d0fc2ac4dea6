"""What of a session outlives its process: enough for any gateway to go on with it. Audio is not in it: the client keeps
what is not settled, and sends it again.
"""

import hashlib

from msgspec import Struct, field

from app.core.grant import Bounds
from app.core.protocol import SessionConfig


class Tally(Struct, frozen=True):
    """Of all gateways that the session was on: what its `stopped` counts."""

    finals: int = 0
    legs: int = 0
    billed_ms: int = 0
    replayed_ms: int = 0
    resumes: int = 0
    gaps: dict[str, int] = {}
    """Bytes by reason."""


class Record(Struct, frozen=True, kw_only=True):
    session_id: str
    principal: str
    """Who may go on with it; empty where nobody is asked who they are."""
    config: SessionConfig
    epoch: int
    """One more with each gateway that takes the session over: an older one can write no more."""
    tokens: tuple[str, ...]
    """Hashes of those that admit the next link."""
    settled: int
    """Bytes that the client may forget: `ack.final`."""
    last_event: int
    opened_at: float
    """Seconds since 1970."""
    tally: Tally = field(default_factory=Tally)
    bounds: Bounds = Bounds()
    """Of the credential that has opened it: whoever goes on with it is bound by them."""
    losing: tuple[int, int] | None = None
    """Bytes [start, end) that were lost upstream, of which no event tells yet."""
    stopped: bool = False
    """Its last event is `stopped`, which the client may still have to be sent."""
    over: str | None = None
    """How it ended, in a word: nobody goes on with it. Its events can still be read."""


class Change(Struct, frozen=True, kw_only=True):
    """A record as it is now, and the events that are new in it."""

    record: Record
    events: tuple[str, ...]
    """Serialized; the last one is number `record.last_event`."""
    resume_seconds: float
    """From now on: so long another gateway may take the session over."""
    keep_seconds: float
    """From now on: so long it can be read, if nothing more is written."""

    @property
    def first(self) -> int:
        """The number of the first of `events`, or of the next one."""
        return self.record.last_event - len(self.events) + 1


def fingerprint(token: str, principal: str) -> str:
    """What is kept of a resume token, in hex: SHA-256 of it and of who may use it. With anybody else's name it is
    another token."""
    return hashlib.sha256(f"{principal}\0{token}".encode()).hexdigest()
