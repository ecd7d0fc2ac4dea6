"""What a recognizer says, on the session's clock: milliseconds and byte offsets from the first byte of the session."""

from dataclasses import dataclass

from app.core.errors import SessionError
from app.core.protocol import Alternative, WordInfo


@dataclass(frozen=True, slots=True)
class Result:
    """Words for [start_ms, end_ms). A final one never changes; an interim replaces the interim before."""

    text: str
    start_ms: int
    end_ms: int
    is_final: bool
    language_code: str
    channel: int
    stability: float = 0.0
    alternatives: tuple[Alternative, ...] = ()
    """Best first; `alternatives[0].text` is `text`. Empty for interims."""
    words: tuple[WordInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class SpeechActivity:
    """Speech began, or ended."""

    active: bool
    at_ms: int


@dataclass(frozen=True, slots=True)
class ActivityTimeout:
    """The voice-activity timeout that the client asked for has passed: the recognizer hears no more."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Everything before `offset` (bytes) is final, or held no speech."""

    offset: int


@dataclass(frozen=True, slots=True)
class LegEnded:
    """One upstream stream has said its last word and named its price."""

    billed_ms: int
    replayed_ms: int = 0
    """Audio of it that an earlier stream was sent already."""
    code: str = "OK"
    """The gRPC status that it ended with; CANCELLED where we left it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """No more audio was announced, and every leg has ended: nothing more will be heard."""


@dataclass(frozen=True, slots=True)
class Throttled:
    """The recognizer takes audio slower than it comes (`active`), or keeps up again."""

    active: bool
    queued_ms: int


@dataclass(frozen=True, slots=True)
class Retrying:
    """The upstream fails; audio is kept, and it is tried again in `in_ms`. Told once until it works again."""

    reason: str
    in_ms: int


@dataclass(frozen=True, slots=True)
class Losing:
    """Bytes [start, end) that nobody will hear: the upstream is away for longer than audio is kept. `Lost` follows when
    it is known how much it was."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Bytes [start, end) that nobody heard, in all."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The recognizer cannot go on."""

    error: SessionError


Event = (
    Result
    | SpeechActivity
    | ActivityTimeout
    | Settled
    | LegEnded
    | Finished
    | Throttled
    | Retrying
    | Losing
    | Lost
    | Failed
)
