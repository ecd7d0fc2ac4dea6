"""How much of a session's audio may be heard: of each limit on it, what is reserved, and what of that is spent.

Audio is paid before it is heard: out of what was reserved. A limit on billed seconds counts what came, or what the
upstream has billed, where that is more: after a failure it hears audio again, and its price is known afterwards only.
So a bill may leave less than nothing; then no more is heard, and what is owed is taken when the session ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

AHEAD_MS = 5_000
"""Reserved before it is needed: nobody waits for it."""
SCARCE = 5
"""When one part in so many is left of a limit, 80 % are used: the client is warned."""


@dataclass(slots=True, eq=False)
class Pot:
    """One limit, as one session sees it. In milliseconds."""

    name: str
    """For people: whose limit it is, how much, and of what."""
    limit: int
    bills: bool
    """What the upstream bills counts, too."""
    held: int = 0
    """Reserved for this session, in all."""
    used: int = 0
    """Of the limit, by everybody: what is reserved is used."""


class Purse:
    """Of one session, on one gateway. `rate`: bytes of audio in a second."""

    def __init__(self, pots: Sequence[Pot], rate: int) -> None:
        self.pots = pots
        self._rate = rate
        self._heard = 0
        """Bytes."""
        self._extra = 0
        """Milliseconds that were billed over what was heard by then."""

    @property
    def room(self) -> int:
        """Bytes that may be heard now. Only where there are pots."""
        ms = min(pot.held - self._extra_of(pot) for pot in self.pots)
        return max(0, ms * self._rate // 1000 - self._heard)

    def hear(self, size: int) -> None:
        """As many bytes as there is room for, or less."""
        self._heard += size

    def bill(self, billed_ms: int) -> None:
        """What the upstream has billed, in all."""
        self._extra = max(0, billed_ms - self._heard_ms(0))

    def spent(self, pot: Pot, more: int = 0) -> int:
        """Of what is held of it; `more`: if so many bytes came."""
        return self._heard_ms(more) + self._extra_of(pot)

    def left(self, pot: Pot) -> int:
        """Of the limit, for this session and all others."""
        return max(0, pot.limit - pot.used + pot.held - self.spent(pot))

    def lacks(self, pot: Pot, more: int = 0) -> int:
        """How much is to be reserved now, so that it is there before it is needed."""
        ahead = pot.held - self.spent(pot, more)
        return AHEAD_MS - ahead if ahead < AHEAD_MS // 2 else 0

    def scarce(self) -> Pot | None:
        """One of which so little is left that the client should know."""
        return next((pot for pot in self.pots if self.left(pot) * SCARCE <= pot.limit), None)

    def empty(self) -> Pot:
        """The one that lets no more through."""
        return min(self.pots, key=lambda pot: pot.held - self.spent(pot))

    def _heard_ms(self, more: int) -> int:
        return -(-(self._heard + more) * 1000 // self._rate)

    def _extra_of(self, pot: Pot) -> int:
        return self._extra if pot.bills else 0
