"""How audio is handed to legs: bounds and ages, all settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LegLimits:
    """How audio is handed to legs. Seconds, where nothing else is said."""

    chunk_ms: int = 100
    queue: float = 2.0
    """Audio that waits in a leg's queue before `send` waits."""
    replay: float = 120.0
    """Audio that is kept until it is settled: the bound on memory per session."""
    speed: float = 2.0
    """Times real time: Google asks for "a rate that approximates real time" and refuses bursts."""
    idle: float = 4.0
    """Without audio for that long a leg is half-closed (Google ends idle ones after 5 to 10 s)."""
    pause: float = 25.0
    """Without audio for that long, what the ended leg said last counts: the speaker made a pause."""
    quiet: float = 30.0
    """Unsettled audio without speech after which the leg is changed, which settles it."""
    utterance: float = 60.0
    """Unsettled audio after which the leg is changed even in the middle of speech."""
    soft: float = 240.0
    """Age at which a leg is changed after a final, or in silence."""
    hard: float = 285.0
    """Age at which it is changed in any case: before Google's own limit of 300 s."""
    answer: float = 10.0
    """A leg that speech goes into, or that was half-closed, and that says nothing for so long is given up."""
