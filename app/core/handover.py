"""Which leg hears which byte: every byte of a session has one owner, and is settled exactly once.

A *stretch* is audio that one leg after the other may be asked to hear, until it is settled. Stretches touch each other
and are heard in order; only the oldest one settles. A leg that fails leaves its stretch to the next leg, which starts
where the last final ended. No clock, no I/O.

    taken       everything up to here has come in
    stretches   [settled .. end) [.. end) [.. open)      only the newest may be open: it takes what still comes
    settled     everything before is final, or held no speech
"""

from collections.abc import Iterator
from dataclasses import dataclass

from app.core.audio import ReplayBuffer


@dataclass(slots=True, eq=False)
class Stretch:
    """Bytes [start, end) of the session; `end` is None while it takes what still comes."""

    start: int
    end: int | None = None
    guessed: bool = False
    """It ends in silence, as it seemed: taken back where that proves wrong."""


class Handover:
    def __init__(self, piece_bytes: int) -> None:
        """`piece_bytes`: what is kept is read in pieces of this size."""
        self.taken = 0
        self.settled = 0
        self.stretches: list[Stretch] = []
        self._buffer = ReplayBuffer(piece_bytes)

    @property
    def head(self) -> Stretch | None:
        """The stretch whose results count now."""
        return self.stretches[0] if self.stretches else None

    @property
    def open(self) -> Stretch | None:
        """The stretch that takes what comes."""
        return self.stretches[-1] if self.stretches and self.stretches[-1].end is None else None

    @property
    def kept(self) -> int:
        """Bytes held in memory."""
        return len(self._buffer)

    # Audio comes --------------------------------------------------------------------------------

    def append(self, chunk: bytes) -> Stretch:
        """Returns the stretch that it belongs to, a new one where none is open."""
        stretch = self.open
        if stretch is None:
            stretch = Stretch(self.taken)
            self.stretches.append(stretch)
        self._buffer.append(self.taken, chunk)
        self.taken += len(chunk)
        return stretch

    def skip(self, count: int) -> None:
        """The session goes on `count` bytes later: a leg's time has no holes, so the open stretch ends."""
        self.cut()
        self.taken += count
        self._settle_if_empty()

    # Seams --------------------------------------------------------------------------------------

    def cut(self) -> Stretch | None:
        """Ends the open stretch here, and returns it: its leg hears it to the end."""
        stretch = self.open
        if stretch is not None:
            stretch.end = self.taken
        return stretch

    def cut_behind(self, offset: int) -> Stretch | None:
        """Ends the open stretch at `offset`, before what has come since: that goes to a new one, which is returned.

        The old leg has heard more than it owns: what it says of that is void. For silence, in which speech may just
        have begun without the upstream having said so.
        """
        stretch = self.open
        if stretch is None or offset <= max(stretch.start, self.settled) or offset >= self.taken:
            return None
        stretch.end = offset
        stretch.guessed = True
        self.stretches.append(Stretch(offset))
        return self.stretches[-1]

    def take_back(self, stretch: Stretch) -> list[Stretch]:
        """`stretch`, the oldest, was ended in silence, and that was wrong: it and the one after it are one again, to
        be heard anew from the last final on. So are those that follow at other such seams: nobody who hears it anew
        would hear what is behind its end. Returns those after it; none where that is not possible."""
        if stretch is not self.head or not stretch.guessed or len(self.stretches) < 2:
            return []
        after, last = [], self.stretches.pop(0)
        while last.guessed and self.stretches:
            after.append(last := self.stretches.pop(0))
        self.stretches.insert(0, Stretch(self.settled, last.end, last.guessed))
        return after

    def split(self, offset: int) -> None:
        """The oldest stretch, which no leg hears, ends at `offset`, within what has come of it: the rest is a stretch
        of its own. For audio that is too long for legs that fail."""
        head = self.stretches.pop(0)
        rest = Stretch(offset, head.end, head.guessed)
        head.end, head.guessed = offset, False
        self.stretches[:0] = [head, rest]

    def hand_back(self) -> bool:
        """Right after a final: what came after it goes to a new stretch, and what the old leg still says is void.

        Possible where the open stretch is the oldest one. Costs no word: the seam lies where the final ended.
        """
        stretch = self.open
        if stretch is None or stretch is not self.head:
            return False
        self.stretches.clear()
        if self.settled < self.taken:
            self.stretches.append(Stretch(self.settled))
        return True

    # Words come ---------------------------------------------------------------------------------

    def settle(self, stretch: Stretch, offset: int) -> bool:
        """A final of `stretch` ended at `offset`. Returns whether it counts."""
        if stretch is not self.head:
            return False
        self._settle(min(offset, self._end(stretch)))
        return True

    def complete(self, stretch: Stretch) -> None:
        """The leg has heard the oldest stretch to its end, and said all that there was."""
        assert stretch is self.head and stretch.end is not None
        self.stretches.pop(0)
        self._settle(stretch.end)
        self._settle_if_empty()
        if self.stretches:
            self._settle(self.stretches[0].start)

    def restart(self, stretch: Stretch) -> int:
        """A new leg is to hear `stretch`: returns the offset at which it begins, the first byte not settled."""
        if stretch is self.head:
            stretch.start = self.begin(stretch)
        return stretch.start

    def read(self, stretch: Stretch, at: int) -> bytes:
        """The chunk of `stretch` at byte `at`; empty when no more has come, or the stretch ends there or is void."""
        if stretch not in self.stretches:
            return b""
        return self._buffer.read(at, self._end(stretch))

    def begin(self, stretch: Stretch) -> int:
        """Its first byte that is not settled."""
        return max(stretch.start, self.settled)

    def unsettled(self, stretch: Stretch) -> int:
        """Bytes of it that have come and are not settled."""
        return self._end(stretch) - self.begin(stretch)

    def chunks(self, stretch: Stretch, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """What is kept of it from byte `start` to about byte `end`, and where each chunk begins."""
        while start < end and (chunk := self.read(stretch, start)):
            yield start, chunk
            start += len(chunk)

    def give_up(self, keep: int, before: int | None = None) -> tuple[int, int] | None:
        """Forgets the oldest audio over `keep` bytes, but none from the byte `before` on, which is being heard.
        Returns the bytes [start, end) that nobody will hear."""
        start, end = self.settled, self._buffer.offset_from_end(keep) if self.kept > keep else 0
        end = end if before is None else min(end, before)
        if end <= start:
            return None
        self._settle(end)
        self.drop_heard()
        if self.stretches:
            self.stretches[0].start = max(self.stretches[0].start, end)
        return start, end

    def drop_heard(self) -> None:
        """Forgets the oldest stretches where they have nothing unsettled: no leg is needed for them any more."""
        while self.stretches and self._end(self.stretches[0]) <= self.settled:
            self.stretches.pop(0)
        self._settle(self.stretches[0].start if self.stretches else self.taken)

    def abandon(self) -> tuple[int, int] | None:
        """Nobody will hear the rest. Returns its bytes [start, end), if any."""
        start, lost = self.settled, self.kept > 0
        self.stretches.clear()
        self._settle(self.taken)
        return (start, self.taken) if lost else None

    def _end(self, stretch: Stretch) -> int:
        return self.taken if stretch.end is None else stretch.end

    def _settle(self, offset: int) -> None:
        self.settled = max(self.settled, offset)
        self._buffer.settle(self.settled)

    def _settle_if_empty(self) -> None:
        if not self.stretches:
            self._settle(self.taken)
