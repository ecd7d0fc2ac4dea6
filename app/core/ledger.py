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
        """Bytes, as the store has it."""
        self.away = False
        """The store does not answer, or it does again, and lacks what was told meanwhile."""
        self.told = event, settled
        """The most that the client was told of both."""
        self._written: Mark | None = None

    def has(self, mark: Mark) -> bool:
        return self._written == mark

    def wrote(self, mark: Mark) -> None:
        self._written = mark
        self.event, self.settled = max(self.event, mark.event), max(self.settled, mark.settled)
        if self._has_what_was_told:
            self.away = False

    def lacks(self, after: int) -> None:
        """The store has no events after that number (any more), and who knows what of the rest."""
        self._written = None
        self.event, self.settled = after, 0

    @property
    def _has_what_was_told(self) -> bool:
        event, settled = self.told
        return self.event >= event and self.settled >= settled

    def tell(self, transcript: Transcript) -> tuple[int, int | None]:
        """What the client is told now: the last event, and the bytes that it may forget. None where those would go
        back: the store has lost its memory."""
        event, settled = self.event, self.settled
        if self.away:
            event, settled = transcript.history.last, transcript.settled
        knows = settled >= self.told[1]
        self.told = max(event, self.told[0]), max(settled, self.told[1])
        return event, settled if knows else None
