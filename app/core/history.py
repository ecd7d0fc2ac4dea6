"""Numbered durable events: what a returning client has missed.

The first event is 1 and each next one is one more. A reader needs nothing but a cursor: the number of the last event
that it has.
"""

from collections.abc import Callable

from app.core.protocol import Durable, serialize


class History:
    """Holds the durable events of a session as they go over the wire, until they are forgotten."""

    def __init__(self) -> None:
        self._events: list[str] = []
        self._forgotten = 0

    @property
    def last(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self._forgotten + len(self._events)

    def append(self, make: Callable[[int], Durable]) -> None:
        """`make` gets the event's number."""
        self._events.append(serialize(make(self.last + 1)))

    def after(self, cursor: int) -> list[str]:
        """The events cursor+1, cursor+2, ..., serialized."""
        return self._events[cursor - self._forgotten :]

    def forget(self, upto: int) -> None:
        """The events 1 to `upto` are not needed any more."""
        del self._events[: upto - self._forgotten]
        self._forgotten = max(self._forgotten, upto)
