"""When to try again: a session's own backoff, and the breaker that all sessions of a process share.

Pure: the clock and the dice come from the caller.
"""

from collections.abc import Callable
from enum import Enum, auto


class Backoff:
    """Exponential, with full jitter: from 0 to min(`cap`, `base` * 2^failures) seconds."""

    def __init__(self, base: float, cap: float) -> None:
        self._base = base
        self._cap = cap
        self.failures = 0
        """In a row."""

    def next(self, dice: Callable[[], float]) -> float:
        """Seconds to wait after one more failure; `dice` gives 0 to 1."""
        self.failures += 1
        return float(dice() * min(self._cap, self._base * 2 ** min(self.failures, 30)))

    def reset(self) -> None:
        """It works again."""
        self.failures = 0


class BreakerState(Enum):
    CLOSED = auto()
    OPEN = auto()
    PROBING = auto()
    """A call is under way to find out."""


class Breaker:
    """After `threshold` failures in a row nobody calls for `cool_down` seconds; then one call probes.

    What a failure is, and what a success, is the caller's to say."""

    def __init__(self, threshold: int, cool_down: float) -> None:
        self._threshold = threshold
        self._cool_down = cool_down
        self._failures = 0
        self._until = float("-inf")
        self._probed_at = float("inf")
        """When the first call after the cool-down was made."""
        self.state = BreakerState.CLOSED

    def delay(self, now: float) -> float:
        """Seconds to wait before a call; 0 means call now, and say `succeeded` or `failed` after it."""
        if (left := self.left(now)) > 0:
            return left
        if self.state is not BreakerState.CLOSED:
            if self.state is BreakerState.OPEN:
                self._probed_at = now
            self.state = BreakerState.PROBING
            self._until = now + self._cool_down  # a probe that nobody hears of again does not stop the others for ever
        return 0.0

    def left(self, now: float) -> float:
        """As `delay`, for who does not call yet."""
        return 0.0 if self.state is BreakerState.CLOSED else max(0.0, self._until - now)

    def says(self, now: float) -> str | None:
        """In words, while nobody may call. After that somebody must, or nobody would know."""
        if self.state is BreakerState.CLOSED or now >= self._until:
            return None
        return f"{self._failures} failures in a row, the next try in {self._until - now:.1f} s"

    def succeeded(self) -> None:
        self._failures = 0
        self.state = BreakerState.CLOSED

    def bears(self, since: float) -> None:
        """A call made then goes on, though no success can be told: for a probe that is enough. One from before proves
        nothing, and while no probe is needed it begins no count anew."""
        if self.state is BreakerState.PROBING and since >= self._probed_at:
            self.succeeded()

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._failures >= self._threshold:
            self.state = BreakerState.OPEN
            self._until = now + self._cool_down
