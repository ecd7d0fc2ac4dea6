"""The place of one socket in a session: what it was sent, and the replies to what it said. A session outlives it."""

from dataclasses import dataclass, field

from msgspec import Struct

from app.core.protocol import serialize


@dataclass(slots=True)
class Link:
    cursor: int = 0
    """The last durable event that was handed to this socket."""
    attached: bool = True
    """Else nobody is there: replies are for the moment, and are dropped."""
    replies: list[str] = field(default_factory=list)
    acked: tuple[int, int] = (0, 0)
    ack_due: bool = False

    def say(self, message: Struct) -> None:
        if self.attached:
            self.replies.append(serialize(message))
