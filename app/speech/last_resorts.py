"""What is done with audio that no leg gets through, so that the session goes on: the oldest makes room for what comes,
what is long is heard in parts, what is short is lost. What is lost is told as lost.
"""

from collections.abc import Mapping

from app.core.audio import AudioFormat
from app.core.handover import Handover, Stretch
from app.speech.leg import Leg
from app.speech.retry import Retry
from app.speech.seam import quietest

SPLIT_TRIES = 40
"""Legs that fail over the same audio before it is cut in two: the next one may hear it whole."""
LOSE_TRIES = 20
"""The same before what is too short for that is lost, where others hear what comes after it."""
SHORT_SECONDS = 4.0
"""Too short for it."""


class LastResorts:
    """Of one session. `legs`: those that hear its stretches; `grid`: bytes, seams lie whole numbers of it apart."""

    def __init__(
        self, handover: Handover, retry: Retry, legs: Mapping[Stretch, Leg], audio: AudioFormat, *, grid: int
    ) -> None:
        self._handover = handover
        self._retry = retry
        self._legs = legs
        self._format = audio
        self._grid = grid
        self._short = audio.offset(SHORT_SECONDS * 1000)

    def make_room(self, keep: int) -> bool:
        """Loses the oldest audio over `keep` bytes, as far as it waits for a leg. Returns whether there was any."""
        heard_from = next((stretch.start for stretch in self._handover.stretches if stretch in self._legs), None)
        return self._lose(keep, heard_from)

    def split(self, head: Stretch) -> bool:
        """The next two legs hear half of it each, cut where it is quietest: words may change there. Returns whether it
        was long enough."""
        begin, size, frame = self._handover.begin(head), self._handover.unsettled(head), self._format.frame_bytes
        if size < self._short:
            return False
        first = begin + size // 4
        middle = self._handover.chunks(head, first - first % frame, begin + size - size // 4)
        if (seam := quietest(middle, self._format.encoding)) is not None:
            self._handover.split(seam - (seam - begin) % self._grid)
        return seam is not None

    def ease(self, head: Stretch) -> bool:
        """Leg after leg has failed over it. In the end what is long is heard in parts; what is short is lost, where
        others hear what comes after it: nobody survives it. Returns whether it was lost."""
        if self._retry.failures >= SPLIT_TRIES and self.split(head):
            return False
        alone = self._retry.failures >= LOSE_TRIES and any(self._hears(leg) for leg in self._legs.values())
        return alone and self._handover.unsettled(head) < self._short and self._lose(1, head.end)

    def _hears(self, leg: Leg) -> bool:
        """It has answered while leg after leg failed over audio before its own."""
        return leg.heard_at > self._retry.stuck_since and not (leg.ended and leg.error)

    def _lose(self, keep: int, before: int | None) -> bool:
        """The oldest audio over `keep` bytes, but none from the byte `before` on."""
        lost = self._handover.give_up(keep, before)
        if lost:
            self._retry.lose(lost)
        return bool(lost)
