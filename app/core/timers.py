"""What time says of a session's client: idle, silent, or as old as a session gets; and what it is warned of before.

No clock: time comes as an argument, in seconds of any monotonic clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from app.core.errors import SessionError
from app.core.protocol import WarningMessage

# protocol.md, "Timers": the client hears of a timer before it ends.
IDLE_WARNING = 0.75
"""Part of the idle timeout after which the client is warned."""
SESSION_LIMIT_WARNING_SECONDS = 60.0
FOR_EVER = float("inf")


@dataclass(slots=True)
class Timers:
    """In seconds."""

    idle: float
    """Without any frame."""
    max_session: float
    silent: float = FOR_EVER
    """Without audio or a gap, whatever else is said."""


class Watch:
    """Of one session's timers."""

    def __init__(self, timers: Timers, now: float, *, age: float, received: int) -> None:
        """`age`: how old the session is already. `received`: bytes."""
        self._timers = timers
        self._opened_at = now - age
        self._heard_at = now
        self._spoke_at = now
        self._spoke_to = received
        """It had received so much at the last tick."""
        self._warned: set[str] = set()

    def hears(self, now: float) -> None:
        """A frame, of whatever kind."""
        self._heard_at = now
        self._warned.discard("idle")

    def waits(self, now: float, received: int) -> None:
        """It is our turn: the client is neither idle nor silent."""
        self.hears(now)
        self._is_not_silent(now, received)

    def is_over(self, now: float) -> bool:
        """The session has reached its longest time."""
        return now - self._opened_at >= self._timers.max_session

    def tick(self, now: float, received: int) -> Iterator[WarningMessage]:
        """What the client is to be told now. Raises SessionError when it was silent for too long."""
        yield from self._tick_silent(now, received)
        idle_for = now - self._heard_at
        if idle_for >= self._timers.idle:
            raise SessionError("idle_timeout", f"no frame for {self._timers.idle:g} s, the limit")
        if idle_for >= self._timers.idle * IDLE_WARNING and self.is_first("idle"):
            text = "no frame for some time: send audio or `keepalive`"
            yield _warning("idle", text, self._timers.idle - idle_for)
        left = self._timers.max_session - (now - self._opened_at)
        if left <= SESSION_LIMIT_WARNING_SECONDS and self.is_first("session_limit"):
            yield _warning("session_limit", "the session reaches its longest time: the gateway will stop it", left)

    def is_first(self, of: str) -> bool:
        """Whether the client is to be warned of this: once, till it has passed."""
        if of in self._warned:
            return False
        self._warned.add(of)
        return True

    def _tick_silent(self, now: float, received: int) -> Iterator[WarningMessage]:
        if received != self._spoke_to:
            self._is_not_silent(now, received)
        limit, silent_for = self._timers.silent, now - self._spoke_at
        if silent_for >= limit:
            raise SessionError("idle_timeout", f"no audio and no gap for {limit:g} s, the limit, whatever else came")
        if silent_for >= limit * IDLE_WARNING and self.is_first("silent"):
            yield _warning("idle", "no audio for some time: `keepalive` is not enough", limit - silent_for)

    def _is_not_silent(self, now: float, received: int) -> None:
        self._spoke_at, self._spoke_to = now, received
        self._warned.discard("silent")


def _warning(code: str, message: str, left: float) -> WarningMessage:
    return WarningMessage(code, message, max(0, round(left * 1000)))
