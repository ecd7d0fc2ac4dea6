"""Numbered durable events: what a returning client has missed.

The first event is 1 and each next one is one more. A reader needs nothing but a cursor: the number of the last event
that it has.
"""

from collections.abc import Callable, Iterable

from app.core.protocol import Durable, serialize


class History:
    """Holds the durable events of a session as they go over the wire."""

    def __init__(self, events: Iterable[str] = ()) -> None:
        self._events = list(events)

    @property
    def last(self) -> int:
        """The number of the newest event, 0 before the first."""
        return len(self._events)

    def append(self, make: Callable[[int], Durable]) -> None:
        """`make` gets the event's number."""
        self._events.append(serialize(make(self.last + 1)))

    def after(self, cursor: int, upto: int | None = None) -> list[str]:
        """The events cursor+1, cursor+2, ..., upto, serialized."""
        return self._events[cursor:upto]
