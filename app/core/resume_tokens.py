"""What admits a session's next link. Only fingerprints are kept: who reads the store cannot resume anything."""

from hmac import compare_digest

from app.core.record import fingerprint

MAX_GIVEN = 8
"""Tokens that nobody has used yet."""


class ResumeTokens:
    """Of one session, of this principal."""

    __slots__ = ("_principal", "fingerprints")

    def __init__(self, principal: str, fingerprints: tuple[str, ...]) -> None:
        self._principal = principal
        self.fingerprints = fingerprints
        """Oldest first: the one that came last, and, till the client shows that it has the newest, all that were given
        for it."""

    def begin(self, token: str) -> None:
        """The first one."""
        self.fingerprints = (fingerprint(token, self._principal),)

    def admit(self, token: str, principal: str) -> bool:
        """Whether it comes from who may go on with the session."""
        shown = fingerprint(token, principal)
        return any(compare_digest(shown, known) for known in self.fingerprints)

    def renew(self, used: str, token: str) -> None:
        """`token` is given for the one that came."""
        came, known = fingerprint(used, self._principal), self.fingerprints
        given = known[known.index(came) + 1 :] if came in known else ()
        self.fingerprints = (came, *given[-MAX_GIVEN:], fingerprint(token, self._principal))

    def confirm(self) -> bool:
        """The client has the newest. Returns whether the old ones have just died."""
        if len(self.fingerprints) <= 1:
            return False
        self.fingerprints = self.fingerprints[-1:]
        return True
