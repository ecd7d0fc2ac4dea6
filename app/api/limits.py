"""What one connection may do, whoever it is. They reach the protocol classes as the lifespan's state."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    request_seconds: float
    """From a connection's begin, or a later request's, to the end of the request."""
    head_bytes: int
    """Of a request: its line and its headers."""
    body_bytes: int
    waiting: int
    """Connections that have not said a whole request."""
    frame_bytes: int
    """Of audio."""
    messages_per_second: int
    """WebSocket frames of any kind."""
