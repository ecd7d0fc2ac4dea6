"""When a leg is followed by the next while audio comes, and how.

A seam costs nothing where a final ended, or in silence. An old leg waits for either as long as it can. Then the next
one begins at the last final and hears the utterance again: to its end, however long that takes. Only an utterance that
is too long is cut, in a pause between words where one is found in time.
"""

from enum import Enum, auto

from app.speech.limits import LegLimits
from app.speech.seam import Pauses


class Change(Enum):
    GUESS = auto()
    """Nobody has spoken of late, as far as was told: the old leg's last words will prove it."""
    HAND_BACK = auto()
    """In the middle of speech: what is not final goes to the next leg."""
    CUT = auto()
    """The utterance is too long: its first part becomes final."""


class Changes:
    def __init__(self, limits: LegLimits, encoding: str) -> None:
        self._limits = limits
        self._pauses = Pauses(encoding)
        self._kept_from = -1
        """Where the utterance began that the leg now keeps to its end."""

    def due(
        self, chunk: bytes, *, age: float, silent: float, unsettled: float, settled: int, quiet: bool, noise: bool
    ) -> Change | None:
        """Before `chunk` goes up, if any. In seconds: the leg's `age`, how long it has been `silent`, its `unsettled`
        audio. `settled`: a byte. `noise`: what is told as speech seems to be none."""
        limits, keeps = self._limits, settled <= self._kept_from
        if (keeps or not quiet) and self._pauses.is_seam(chunk, unsettled / limits.utterance):
            return Change.GUESS if noise and silent >= limits.answer else Change.CUT  # it may be dead
        if keeps:
            return None
        if quiet:
            return Change.GUESS if age >= limits.soft or unsettled >= limits.quiet else None
        # perhaps: who asked for no interims cannot know
        dead = not noise and unsettled >= limits.quiet and silent >= limits.answer
        return Change.HAND_BACK if age >= limits.hard or dead else None

    def keep(self, settled: int) -> None:
        """The leg that hears from byte `settled` on keeps the utterance that begins there."""
        self._kept_from = settled
