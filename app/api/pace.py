"""How fast a client may speak: a token bucket, kept as the time at which it is full again."""

BURST_SECONDS = 4.0
"""So much may come at once: a network that was away for a moment, or a client that has come back."""


class Pace:
    def __init__(self, per_second: int, now: float) -> None:
        self._each = 1 / per_second
        self._until = now - BURST_SECONDS

    def spend(self, count: int, now: float) -> float:
        """Returns what is to wait after it, as `wait` does."""
        earned, until = now - BURST_SECONDS, self._until
        self._until = until = (until if until > earned else earned) + count * self._each  # noqa: FURB136 - each frame
        return until - now

    def wait(self, now: float) -> float:
        """Seconds until more may be said; 0 or less: now."""
        return self._until - now
