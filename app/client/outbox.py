"""What a client has said and the gateway does not have for good: sent once on each connection, from where that begins.

A position is the cursor: bytes of the session's audio, gaps included. No I/O.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.core.protocol import MAX_FRAME_BYTES, Finalize, Finalized, Gap, GapReason, Stop

Item = bytes | Gap | Finalize | Stop


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
        self.stop_sent = False
        """On this connection."""
        self._items: deque[_Audio | _Gap | _Finalize] = deque()
        self._sent = 0
        """Of the items, how many went out on this connection."""
        self._stop = False

    @property
    def stops(self) -> bool:
        """No more comes, though it may not have been sent."""
        return self._stop

    @property
    def is_empty(self) -> bool:
        """Nothing waits to go out on this connection."""
        return self._sent == len(self._items) and self.stop_sent is self._stop

    def audio(self, content: bytes) -> None:
        self._items.append(_Audio(self.cursor, content))
        self.cursor += len(content)

    def gap(self, size: int, reason: GapReason) -> None:
        """One that goes on with the one before is one with it, unless that is on its way."""
        last = self._items[-1] if self._sent < len(self._items) else None
        if isinstance(last, _Gap) and last.reason == reason:
            last.size += size
        else:
            self._items.append(_Gap(self.cursor, size, reason))
        self.cursor += size

    def finalize(self, message: Finalize) -> None:
        self._items.append(_Finalize(self.cursor, message))

    def stop(self) -> None:
        self._stop = True

    def next(self, frame_bytes: int = MAX_FRAME_BYTES) -> tuple[int, Item] | None:
        """What goes out next, with its place; it counts as sent. No audio is longer than `frame_bytes`."""
        if self._sent == len(self._items):
            if not self._stop or self.stop_sent:
                return None
            self.stop_sent = True
            return self.cursor, Stop()
        item = self._items[self._sent]
        if isinstance(item, _Audio) and len(item.content) > frame_bytes:
            self._items.insert(self._sent + 1, _Audio(item.start + frame_bytes, item.content[frame_bytes:]))
            item.content = item.content[:frame_bytes]
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

    def finalized(self, answer: Finalized, ms: Callable[[int], int]) -> bool:
        """Whether a `finalize` waited for this answer; one that was said twice is answered twice. `ms` of a place: two
        may have one name."""
        for index, item in enumerate(self._items):
            if (
                isinstance(item, _Finalize)
                and item.message.id == answer.id
                and abs(ms(item.start) - answer.end_ms) <= 1
            ):
                del self._items[index]
                self._sent -= index < self._sent
                return True
        return False

    def lost(self) -> None:
        """The connection is gone: nothing has been sent on the next one."""
        self._sent = 0
        self.stop_sent = False

    def rewind(self, offset: int) -> None:
        """A new connection, on which the gateway wants everything from byte `offset` on."""
        self.lost()
        first = self._items[0].start if self._items else self.cursor
        if first > offset:  # no hole without a word, not even where the gateway wants what it had let go
            self._items.appendleft(_Gap(offset, first - offset, "interrupted"))
        while self._sent < len(self._items):
            item = self._items[self._sent]
            if item.start >= offset:
                return
            if item.end > offset:
                self._trim(item, offset)
                return
            self._sent += 1

    def restart(self, offset: int) -> None:
        """A new session, which begins at byte `offset` and knows of nothing: it hears every `finalize` that has no
        answer."""
        self._items = deque(item for item in self._items if isinstance(item, _Finalize) or item.end > offset)
        for item in self._items:
            if item.start < offset:
                self._trim(item, offset)
        self.lost()

    @staticmethod
    def _trim(item: _Audio | _Gap | _Finalize, offset: int) -> None:
        match item:
            case _Audio(start, content):
                item.content = content[offset - start :]
            case _Gap(start, size):
                item.size = size - (offset - start)
        item.start = offset
