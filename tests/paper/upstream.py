"""A recognizer that hears one session on one gateway, in order, and names what it heard (app/speech, on paper)."""

from collections import deque
from collections.abc import Callable

from app.core.errors import SessionError
from app.core.recognition import Event, Failed, Finished, LegEnded, Losing, Lost, Result, Settled
from tests.paper.audio import UNIT, Unit, read_audio, words


class Upstream:
    def __init__(self, at: int, listen: Callable[[Event], None]) -> None:
        """`at`: units of the session that were heard before."""
        self.at = at
        """Everything before is settled."""
        self._listen = listen
        self._coming: deque[Unit | None] = deque()
        """None where the client skipped."""
        self._lost: tuple[int, int] | None = None
        self._finishing = False

    def send(self, audio: bytes) -> None:
        self._coming += read_audio(audio)

    def skip(self, size: int) -> None:
        self._coming += [None] * (size // UNIT)
        if len(self._coming) == size // UNIT:  # nothing is to be heard before it
            self._pass_over()

    def finish(self) -> None:
        self._finishing = True
        self._end_if_done()

    # What it says -------------------------------------------------------------------------------

    def hear(self, count: int) -> None:
        """So many units become final, or held no speech; or it passes over what the client skipped."""
        if not self._coming:
            return
        self._say_lost()
        if self._coming[0] is None:
            self._pass_over()
        else:
            self._say_final(count)
        self._end_if_done()

    def hear_all(self) -> None:
        while self._coming:
            self.hear(len(self._coming))

    def draft(self, count: int) -> None:
        heard = [unit for unit in list(self._coming)[:count] if unit is not None]
        if heard and self._coming[0] is not None:
            self._say_lost()
            self._say_words(words(heard), len(heard), is_final=False)

    def lose(self, count: int, *, settles: bool) -> None:
        """The oldest so many units are given up, with all that was skipped among and right after them."""
        start, lost = self.at, 0
        if not any(self._coming):
            return
        while self._coming and (lost < count or self._coming[0] is None):
            lost += self._coming.popleft() is not None
            self.at += 1
        if lost:
            self._lost = (self._lost[0] if self._lost else start, self.at)
            self._listen(Losing(self._lost[0] * UNIT, self._lost[1] * UNIT))
        if settles:
            self._settle()
        self._end_if_done()

    def fail(self) -> None:
        self._listen(Failed(SessionError("upstream_unavailable", "gone")))

    # How ----------------------------------------------------------------------------------------

    def _say_final(self, count: int) -> None:
        heard: list[Unit] = []
        while self._coming and len(heard) < count and (unit := self._coming[0]) is not None:
            heard.append(unit)
            self._coming.popleft()
        if text := words(heard):
            self._say_words(text, len(heard), is_final=True)
        self.at += len(heard)
        self._settle()

    def _say_words(self, text: str, size: int, *, is_final: bool) -> None:
        self._listen(Result(text, self.at, self.at + size, is_final=is_final, language_code="en-us", channel=1))

    def _pass_over(self) -> None:
        while self._coming and self._coming[0] is None:
            self._coming.popleft()
            self.at += 1
        self._settle()

    def _settle(self) -> None:
        self._listen(Settled(self.at * UNIT))

    def _say_lost(self) -> None:
        if self._lost:
            start, end = self._lost
            self._lost = None
            self._listen(Lost(start * UNIT, end * UNIT))

    def _end_if_done(self) -> None:
        if self._finishing and not self._coming:
            self._finishing = False
            self._say_lost()
            self._listen(LegEnded(billed_ms=1))
            self._listen(Finished())
