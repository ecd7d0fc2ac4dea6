"""What an app is told: what the gateway says about the speech, and how the connection is."""

from msgspec import Struct

from app.core.protocol import (
    Final,
    Finalized,
    GapEvent,
    GoAway,
    Interim,
    SpeechEnded,
    SpeechStarted,
    Stopped,
    Throttle,
    WarningMessage,
)


class Reconnecting(Struct, frozen=True, tag="reconnecting"):
    """There is no connection. Audio is kept, up to the window; `Reconnected` follows, or the end."""

    reason: str


class Reconnected(Struct, frozen=True, tag="reconnected"):
    """`resumed`: else the gateway had lost the session, and a new one hears what was not final."""

    resumed: bool


Message = (
    Interim
    | Final
    | GapEvent
    | SpeechStarted
    | SpeechEnded
    | Finalized
    | Throttle
    | WarningMessage
    | GoAway
    | Stopped
    | Reconnecting
    | Reconnected
)
"""What `Transcriber.messages` yields."""
