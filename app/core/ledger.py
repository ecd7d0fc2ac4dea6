"""What of a session the store has: what is durable is told to the client only when it is there.

While the store is away the session goes on without it: the client is told everything, and that it could not go on with
the session elsewhere.
"""

from msgspec import Struct

from app.core.transcript import Transcript


class Mark(Struct, frozen=True):
    """How far a session is: what makes a new record worth writing."""

    event: int
    settled: int
    tokens: tuple[str, ...]
    losing: tuple[int, int] | None
    over: str | None


class Ledger:
    def __init__(self, event: int = 0, settled: int = 0) -> None:
        self.event = event
        """The last event that the store has."""
        self.settled = settled
        self.away = False
        """The store does not answer."""
        self._written: Mark | None = None

    def has(self, mark: Mark) -> bool:
        return self._written == mark

    def wrote(self, mark: Mark) -> None:
        self._written = mark
        self.event, self.settled = max(self.event, mark.event), max(self.settled, mark.settled)

    def lacks(self, after: int) -> None:
        """The store has no events after that number (any more)."""
        self._written = None
        self.event = after

    def may_be_told(self, transcript: Transcript) -> tuple[int, int]:
        """The last event, and the bytes that the client may forget."""
        if self.away:
            return transcript.history.last, transcript.settled
        return self.event, self.settled
