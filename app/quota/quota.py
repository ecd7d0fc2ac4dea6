"""Who may still open a session, and how much of it is heard.

At the upgrade nobody knows whether `start` or `resume` will come, and a resume is never refused for what its own
session takes. So what a principal may is checked at its `start`, and at the upgrade only where no resume can come:
nothing of the principal's can be gone on with, or it has more connections than its sessions could need.
"""

import asyncio
import hashlib
import logging
from collections import Counter as Multiset
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from app.core.audio import AudioFormat
from app.core.errors import SessionError
from app.core.grant import Allowance, Grant
from app.core.purse import Pot, Purse
from app.core.record import Record
from app.quota.account import Account, Counter, used_up
from app.quota.books import Books

log = logging.getLogger(__name__)

RENEW_SECONDS = 5.0
"""A place is held for longer than that without it."""
PLACE_RETRY_MS = 5_000
LINKS = 2
"""Of one session: the one that it has, which may be dead unnoticed, and the one that follows it."""
DAY, MONTH = 86_400, 30 * 86_400
ALL = "all"
"""Under that name everybody is counted. No principal's is as short."""


@dataclass(frozen=True, slots=True)
class QuotaTerms:
    principal: Allowance
    """Of who brings none of its own."""
    everybody: Allowance
    """All principals, and who has none, on all gateways. `max_sessions` is each gateway's own business."""


class Quota:
    """An async context manager: inside it places are renewed. `wall_clock`: seconds since 1970."""

    def __init__(
        self,
        books: Books,
        terms: QuotaTerms,
        wall_clock: Callable[[], float],
        *,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        self._books = books
        self._terms = terms
        self._wall_clock = wall_clock
        self._renew_seconds = renew_seconds
        self._places: dict[str, str] = {}
        """Session -> who has it."""
        self._links: Multiset[str] = Multiset()
        """Connections, by principal."""
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._ticker is not None
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
        await self._books.close()

    @property
    def away(self) -> bool:
        """What others count is not known now."""
        return self._books.away

    @contextmanager
    def link(self, grant: Grant) -> Iterator[None]:
        """One connection, while it lasts."""
        names = {grant.principal, grant.ticket or grant.principal}
        self._links.update(names)
        try:
            yield
        finally:
            self._links.subtract(names)
            for name in names:
                if not self._links[name]:
                    del self._links[name]

    async def knock(self, grant: Grant) -> None:
        """Before the upgrade, within its `link`. Raises SessionError where neither start nor resume could follow."""
        if not grant.principal:
            return
        allowance, links = self._allowance(grant), self._links[grant.principal]
        if grant.ticket is not None and self._links[grant.ticket] > LINKS:
            text = f"this one-time token has {LINKS} connections: more than its one session needs"
            raise SessionError("too_many_sessions", text, retry_after_ms=PLACE_RETRY_MS)
        if allowance.max_sessions is not None and links > LINKS * max(1, allowance.max_sessions):
            text = f"this principal has {links - 1} connections: more than its {allowance.max_sessions} sessions need"
            raise SessionError("too_many_sessions", text, retry_after_ms=PLACE_RETRY_MS)
        if await self._books.known(_name(grant.principal)) or self._books.away:
            return
        await self._check_starts(grant, count=False)
        for counter in self._counters(grant):
            if await self._books.add(counter.key(self._wall_clock()), 0, counter.seconds) >= counter.pot.limit:
                raise used_up(counter.pot, counter, self._wall_clock())

    async def open(self, record: Record, grant: Grant) -> Account:
        """For a new session. Raises SessionError."""
        await self._take_place(record.session_id, grant)
        account = self._account(record, grant)
        try:
            await self._check_starts(grant, count=True)
            await account.reserve()
        except BaseException:
            await account.close(over=True)
            raise
        return account

    async def go_on(self, record: Record, grant: Grant) -> Account:
        """For one that comes from another gateway, with its place."""
        if who := _name(grant.principal):
            await self._books.take(who, record.session_id, None)
            self._places[record.session_id] = who
        return self._account(record, grant)

    async def _take_place(self, session_id: str, grant: Grant) -> None:
        who, limit = _name(grant.principal), self._allowance(grant).max_sessions
        if not who:
            return
        if not await self._books.take(who, session_id, limit):
            text = f"this principal has {limit} sessions, the limit, on all gateways together"
            raise SessionError("too_many_sessions", text, retry_after_ms=PLACE_RETRY_MS)
        self._places[session_id] = who

    async def _check_starts(self, grant: Grant, *, count: bool) -> None:
        everybody = self._terms.everybody.starts_per_minute
        limits = [
            (_name(grant.principal), self._allowance(grant).starts_per_minute, "this principal"),
            (ALL, everybody, "all"),
        ]
        for who, limit, name in limits:
            if not who or limit is None:
                continue
            wait = await self._books.start(who, limit, count=count)
            if wait is not None:
                text = f"{limit} sessions of {name} were started within a minute, the limit"
                raise SessionError("rate_limited", text, retry_after_ms=round(1000 * wait))

    def _allowance(self, grant: Grant) -> Allowance:
        return self._terms.principal if grant.allowance is None else grant.allowance

    def _account(self, record: Record, grant: Grant) -> Account:
        audio, tally = AudioFormat.of(record.config.audio), record.tally
        counters = self._counters(grant)
        pots = [counter.pot for counter in counters]
        if (budget := record.bounds.budget_seconds) is not None:
            before = max(tally.billed_ms, audio.ms(record.settled - sum(tally.gaps.values())))
            limit = 1000 * budget
            name = f"the budget of {budget} billed seconds for this session"
            pots.append(Pot(name, limit, bills=True, held=max(0, limit - before), used=limit))

        async def leave(over: bool) -> None:
            await self._leave(record.session_id, over=over)

        return Account(
            Purse(pots, audio.bytes_per_second),
            counters,
            self._books,
            wall_clock=self._wall_clock,
            billed_before=tally.billed_ms,
            leave=leave,
        )

    def _counters(self, grant: Grant) -> list[Counter]:
        whose = [(ALL, self._terms.everybody, "all together")]
        if who := _name(grant.principal):
            whose.append((who, self._allowance(grant), "this principal"))
        counters = []
        for name, allowance, words in whose:
            if (budget := allowance.budget_seconds) is not None:
                pot = Pot(f"the budget of {budget} billed seconds in 30 days for {words}", 1000 * budget, bills=True)
                counters.append(Counter(pot, f"budget:{name}", MONTH))
            if (audio := allowance.audio_seconds_per_day) is not None:
                pot = Pot(f"the {audio} seconds of audio a day for {words}", 1000 * audio, bills=False)
                counters.append(Counter(pot, f"audio:{name}", DAY))
        return counters

    async def _leave(self, session_id: str, *, over: bool) -> None:
        """A session that is not over keeps its place for a while: it may be gone on with, here or elsewhere."""
        who = self._places.pop(session_id, None)
        if who is not None and over:
            await self._books.give_back(who, session_id)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._renew_seconds)
            try:
                await self._renew()
            except Exception:  # the outermost frame: without it places would be lost one after the other
                log.exception("places could not be renewed")

    async def _renew(self) -> None:
        places: defaultdict[str, list[str]] = defaultdict(list)
        for session_id, who in self._places.items():
            places[who].append(session_id)
        if places:
            await self._books.renew(places)
        elif self._books.away:
            await self._books.known(ALL)  # are they back?


def _name(principal: str) -> str:
    """Under which it is counted: whatever is in a principal's name, it is no part of a key. Empty for nobody."""
    return hashlib.sha256(principal.encode(errors="surrogatepass")).hexdigest()[:32] if principal else ""
