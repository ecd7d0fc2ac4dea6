"""A leg that is dead without saying so: it takes no audio, or owes an answer."""

from app.core.audio import AudioFormat
from app.core.protocol import SessionConfig
from app.speech.activity import Activity
from app.speech.leg import Leg
from app.speech.limits import LegLimits


class NoWords(TimeoutError):
    """Speech went into a leg, as far as was told, and it says nothing."""


class Watchdog:
    """Of one session. gRPC's keepalive notices a dead connection; this, an upstream that has stopped to answer on one
    that lives."""

    def __init__(self, config: SessionConfig, limits: LegLimits, activity: Activity) -> None:
        self._interims = config.interim_results
        self._rate = AudioFormat.of(config.audio).bytes_per_second
        self._answer = limits.answer
        self._activity = activity

    def bites(self, leg: Leg, now: float, taken: int, *, awaited: bool) -> TimeoutError | None:
        """Why the leg is not worth waiting for any longer. `taken`: so many bytes of the session have come; `awaited`:
        the leg hears what comes now, or its are the next words."""
        if leg.ended or not leg.has_place:
            return None
        silent = now - max(leg.heard_at, leg.half_closed_at or 0.0)
        if silent < self._answer:
            return None
        why = f"no answer for {self._answer:g} s"
        if self._must_move(leg, taken) and now - leg.sent_at >= self._answer:
            return TimeoutError(why)
        if not leg.connected:
            return TimeoutError(why)
        return NoWords(why) if awaited and (self._owes_words(leg) or self._is_deaf(leg)) else None

    def _must_move(self, leg: Leg, taken: int) -> bool:
        """It should be taking audio, or has all of it and is to say its last words."""
        return leg.half_closed_at is not None or leg.behind(taken) > self._rate

    def _is_deaf(self, leg: Leg) -> bool:
        """Not a word from it, not even that somebody speaks, and so much of what it hears is loud. It may be music: if
        the next one says nothing either, the upstream is believed."""
        if not self._interims or leg.said_anything or self._activity.is_doubtful:
            return False
        return min(leg.loud, leg.sent - leg.start) >= self._answer * self._rate

    def _owes_words(self, leg: Leg) -> bool:
        """So much speech went into it that it should have said something. Without interims only its first sign of life
        can be missed: finals may be far apart."""
        if leg.said_anything and not self._interims:
            return False
        heard = min(self._activity.unanswered(leg.sent), leg.sent - leg.stretch.start)
        return heard >= self._answer * self._rate
