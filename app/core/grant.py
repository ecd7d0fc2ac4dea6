"""What a credential admits to: who answers for it, what that one may do, and how much."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from app.core.errors import SessionError

AtLeastOne = Annotated[int, Meta(ge=1)]
Right = Literal["speak", "mint", "operate"]
"""To open sessions and read their transcripts; to make one-time tokens; to read /metrics and the like."""


class Allowance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a principal may, with all of its sessions on all gateways together. None: no bound of its own."""

    max_sessions: AtLeastOne | None = None
    """At the same time."""
    starts_per_minute: AtLeastOne | None = None
    audio_seconds_per_day: AtLeastOne | None = None
    budget_seconds: AtLeastOne | None = None
    """Billed by the upstream, in 30 days."""


class Bounds(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one session. None: no bound of its own."""

    max_session_seconds: float | None = None
    budget_seconds: int | None = None
    """Billed by the upstream."""
    language_codes: tuple[str, ...] | None = None


class Grant(Struct, frozen=True, kw_only=True):
    """Of one credential. The principal is who answers for it; empty where nobody is asked who they are."""

    principal: str = ""
    rights: frozenset[Right] = frozenset({"speak"})
    allowance: Allowance | None = None
    """Its own; without one, what the settings give to everybody."""
    bounds: Bounds = Bounds()
    ticket: str | None = None
    """Fingerprint of the one-time token that it is: opens one session."""
    session_id: str | None = None
    """The session that this one-time token belongs to: it is good for no other one."""
    expires_at: float = 0.0
    """Till then a one-time token has to be used. Seconds since 1970."""

    def may_resume(self, session_id: str) -> bool:
        """As far as it says itself: a one-time token that is still good for any session, too."""
        return self.session_id in (None, session_id)

    def may_read(self, session_id: str) -> bool:
        """As far as it says itself. One key may stand behind many devices: none reads what another one said."""
        return self.ticket is None or self.session_id == session_id


def check_unused(grant: Grant) -> None:
    """Raises SessionError where this one-time token has opened its session already."""
    if grant.session_id is not None:
        text = "this one-time token has opened a session already: it may only `resume` that one"
        raise SessionError("unauthenticated", text)


ANYBODY = Grant(rights=frozenset({"speak", "operate"}))
"""Where nobody is asked who they are."""
