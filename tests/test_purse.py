"""A budget: what is reserved of it, spent, billed and given back, whatever sessions do and in whatever order."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import SessionError
from app.core.grant import Allowance, Bounds, Grant
from app.core.purse import AHEAD_MS, Pot, Purse
from app.core.record import Record, Tally
from app.quota.account import Account
from app.quota.books import Lease, MemoryBooks
from app.quota.quota import Quota, QuotaTerms
from tests.stores import CONFIG, record

BYTES_PER_MS = 32
FREE = Allowance()


def purse(*pots: Pot) -> Purse:
    return Purse(pots, rate=32_000)


def audio(limit: int, held: int) -> Pot:
    return Pot("audio", limit, bills=False, held=held, used=held)


def budget(limit: int, held: int) -> Pot:
    return Pot("budget", limit, bills=True, held=held, used=held)


def test_there_is_room_for_what_is_held_of_the_scarcest() -> None:
    one = purse(audio(9000, 1000), budget(9000, 500))
    assert one.room == 500 * BYTES_PER_MS
    one.hear(200 * BYTES_PER_MS)
    assert one.room == 300 * BYTES_PER_MS
    assert one.empty().name == "budget"


def test_the_next_reservation_comes_before_it_is_needed() -> None:
    pot = audio(60_000, AHEAD_MS)
    one = purse(pot)
    assert one.lacks(pot) == 0
    one.hear(AHEAD_MS * BYTES_PER_MS // 2)
    assert one.lacks(pot) == 0
    one.hear(BYTES_PER_MS)
    assert one.lacks(pot) == AHEAD_MS // 2 + 1
    assert one.room > 0, "nobody has to wait for it"


def test_a_bill_over_what_was_heard_counts_and_what_comes_after_it_too() -> None:
    """Audio that was heard twice is billed twice; what is heard from then on is not billed yet."""
    seconds, bills = audio(60_000, 10_000), budget(60_000, 10_000)
    one = purse(seconds, bills)
    one.hear(3000 * BYTES_PER_MS)
    one.bill(4000)
    assert (one.spent(seconds), one.spent(bills)) == (3000, 4000)
    one.hear(1000 * BYTES_PER_MS)
    assert (one.spent(seconds), one.spent(bills)) == (4000, 5000)
    one.bill(11_000)
    assert one.room == 0


def test_silence_that_went_unheard_counts_as_it_came() -> None:
    bills = budget(60_000, 10_000)
    one = purse(bills)
    one.hear(3000 * BYTES_PER_MS)
    one.bill(1000)
    assert one.spent(bills) == 3000


@pytest.mark.parametrize(("used", "scarce"), [(7999, False), (8000, True), (10_000, True)])
def test_a_client_is_to_know_at_80_percent_whoever_has_used_them(used: int, scarce: bool) -> None:
    assert bool(purse(Pot("x", 10_000, bills=True, held=0, used=used)).scarce()) is scarce


# Many sessions, in any order --------------------------------------------------------------------

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "open", "send", "send", "send", "bill", "end", "crash"]),
        st.integers(0, 7),
        st.integers(1, 9000),
    ),
    max_size=60,
)
LIMITS = st.integers(1, 40)


@dataclass
class One:
    account: Account
    budget_ms: int
    heard_bytes: int = 0
    billed_ms: int = 0
    extra_ms: int = 0

    @property
    def heard_ms(self) -> int:
        return -(-self.heard_bytes // BYTES_PER_MS)


@dataclass
class World:
    quota: Quota
    books: MemoryBooks
    limits: Allowance
    grant: Grant
    running: list[One] = field(default_factory=list)
    over: list[One] = field(default_factory=list)
    crashed: list[One] = field(default_factory=list)
    refused: int = 0

    @property
    def everyone(self) -> list[One]:
        return [*self.running, *self.over, *self.crashed]

    async def act(self, what: str, which: int, amount: int) -> None:
        if what == "open":
            return await self.open(budget_seconds=1 + amount // 1000)
        if not self.running:
            return None
        one = self.running[which % len(self.running)]
        match what:
            case "send":
                allowed = await one.account.allow(amount * BYTES_PER_MS)
                one.heard_bytes += allowed
                assert one.heard_ms <= one.budget_ms
            case "bill":
                one.billed_ms += amount
                one.extra_ms = max(0, one.billed_ms - one.heard_ms)
                one.account.bill(one.billed_ms)
            case "end":
                self.running.remove(one)
                await one.account.close(over=True)
                self.over.append(one)
            case "crash":
                self.running.remove(one)
                self.crashed.append(one)
        return None

    async def open(self, budget_seconds: int) -> None:
        session: Record = record(str(len(self.everyone) + self.refused), bounds=Bounds(budget_seconds=budget_seconds))
        code = None
        try:
            account = await self.quota.open(session, self.grant)
            self.running.append(One(account, 1000 * budget_seconds))
        except SessionError as error:
            code = error.code
            self.refused += 1
        assert code in {None, "budget_exhausted"}

    async def counted(self, name: str) -> int:
        [counter] = [c for c in self.quota._counters(self.grant) if c.name.startswith(name)]
        return await self.books.add(counter.key(0), 0, 1)


async def live(actions: Sequence[tuple[str, int, int]], limits: Allowance) -> World:
    clock = asyncio.get_running_loop().time
    books = MemoryBooks(clock, Lease())
    quota = Quota(books, QuotaTerms(principal=limits, everybody=FREE), lambda: 0.0)
    world = World(quota, books, limits, Grant(principal="p"))
    bills = False
    for action in actions:
        await world.act(*action)
        bills |= action[0] == "bill"
        heard = sum(one.heard_ms for one in world.everyone)
        assert heard <= 1000 * (limits.audio_seconds_per_day or 0), "not a millisecond more than there was"
        if not bills:
            assert heard <= 1000 * (limits.budget_seconds or 0)
            assert await world.counted("budget") <= 1000 * (limits.budget_seconds or 0)
    for one in list(world.running):
        await world.act("end", 0, 0)
        assert one in world.over
    await books.close()
    return world


@given(ACTIONS, LIMITS, LIMITS)
def test_no_more_is_heard_than_there_was_and_nothing_is_leaked(
    actions: list[tuple[str, int, int]], audio_seconds: int, budget_seconds: int
) -> None:
    limits = Allowance(audio_seconds_per_day=audio_seconds, budget_seconds=budget_seconds)

    async def run() -> None:
        world = await live(actions, limits)
        spent_audio = sum(one.heard_ms for one in world.over)
        spent_budget = sum(one.heard_ms + one.extra_ms for one in world.over)
        lost = [pot.held for one in world.crashed for pot in one.account._purse.pots if not pot.bills]
        assert await world.counted("audio") == spent_audio + sum(lost)
        assert all(held - one.heard_ms <= AHEAD_MS for held, one in zip(lost, world.crashed, strict=True))
        lost = [counter.pot.held for one in world.crashed for counter in one.account._counters if counter.pot.bills]
        assert await world.counted("budget") == spent_budget + sum(lost)

    asyncio.run(run())


async def test_a_session_that_goes_on_elsewhere_has_what_is_left_of_its_budget() -> None:
    """What was billed counts, or what is settled where that is more: the rest is sent again."""
    books = MemoryBooks(lambda: 0.0, Lease())
    quota = Quota(books, QuotaTerms(principal=FREE, everybody=FREE), lambda: 0.0)

    async def left(**known: Any) -> int:
        session = record(bounds=Bounds(budget_seconds=10), **known)
        account = await quota.go_on(session, Grant(principal="p"))
        return await account.allow(10**9)

    second = 32_000
    assert CONFIG.audio.sample_rate_hertz * 2 == second
    assert await left() == 10 * second
    assert await left(tally=Tally(billed_ms=7000), settled=6 * second) == 3 * second
    assert await left(tally=Tally(billed_ms=2000), settled=6 * second) == 4 * second
    assert await left(tally=Tally(gaps={"muted": second}), settled=6 * second) == 5 * second
    assert await left(tally=Tally(billed_ms=17_000), settled=6 * second) == 0
