"""What a client has said and the gateway does not have for good: sent once on each connection, from where that begins.

A position is the cursor: bytes of the session's audio, gaps included. No I/O.
"""

from collections import deque
from dataclasses import dataclass

from app.core.protocol import Finalize, Finalized, Gap, GapReason, Stop


@dataclass(slots=True)
class _Audio:
    start: int
    content: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.content)


@dataclass(slots=True)
class _Gap:
    start: int
    size: int
    reason: GapReason

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(slots=True)
class _Finalize:
    start: int
    message: Finalize

    @property
    def end(self) -> int:
        return self.start


class Outbox:
    def __init__(self) -> None:
        self.cursor = 0
        """Everything before was put in."""
        self._items: deque[_Audio | _Gap | _Finalize] = deque()
        self._sent = 0
        """Of the items, how many went out on this connection."""
        self._stop = False
        self._stop_sent = False

    @property
    def is_empty(self) -> bool:
        """Nothing waits to go out on this connection."""
        return self._sent == len(self._items) and self._stop_sent is self._stop

    def audio(self, content: bytes) -> None:
        self._items.append(_Audio(self.cursor, content))
        self.cursor += len(content)

    def gap(self, size: int, reason: GapReason) -> None:
        self._items.append(_Gap(self.cursor, size, reason))
        self.cursor += size

    def finalize(self, message: Finalize) -> None:
        self._items.append(_Finalize(self.cursor, message))

    def stop(self) -> None:
        self._stop = True

    def next(self) -> tuple[int, bytes | Gap | Finalize | Stop] | None:
        """What goes out next, with its place; it counts as sent."""
        if self._sent == len(self._items):
            if not self._stop or self._stop_sent:
                return None
            self._stop_sent = True
            return self.cursor, Stop()
        item = self._items[self._sent]
        self._sent += 1
        match item:
            case _Audio(start, content):
                return start, content
            case _Gap(start, size, reason):
                return start, Gap(bytes=size, reason=reason)
            case _Finalize(start, message):
                return start, message

    def settle(self, offset: int) -> None:
        """The gateway has everything before `offset` for good. A `finalize` waits for its answer."""
        while self._items and self._sent and self._items[0].end <= offset:
            if isinstance(self._items[0], _Finalize):
                return
            self._items.popleft()
            self._sent -= 1
        if self._items and self._sent and self._items[0].start < offset:
            self._trim(self._items[0], offset)

    def finalized(self, answer: Finalized) -> bool:
        """Whether a `finalize` waited for this answer; one that was said twice is answered twice."""
        for index, item in enumerate(self._items):
            if isinstance(item, _Finalize) and item.message.id == answer.id:
                del self._items[index]
                self._sent -= index < self._sent
                return True
        return False

    def rewind(self, offset: int) -> None:
        """A new connection, on which the gateway wants everything from byte `offset` on."""
        self._stop_sent = False
        kept = enumerate(self._items)
        self._sent = next((n for n, item in kept if item.start >= offset or item.end > offset), len(self._items))
        first = self._items[self._sent] if self._sent < len(self._items) else None
        if first is not None and first.start < offset:
            self._trim(first, offset)
        elif (start := first.start if first is not None else self.cursor) > offset:
            # never a silent hole, not even where the gateway wants what it had allowed to forget
            self._items.insert(self._sent, _Gap(offset, start - offset, "interrupted"))

    @staticmethod
    def _trim(item: _Audio | _Gap | _Finalize, offset: int) -> None:
        match item:
            case _Audio(start, content):
                item.content = content[offset - start :]
            case _Gap(start, size):
                item.size = size - (offset - start)
        item.start = offset
