"""The port `Store`: what holds for both of them."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from app.core.errors import SessionError
from app.core.record import Tally
from app.store import FENCED, MemoryStore, Store, Stored
from app.store_redis import RedisStore
from tests.stores import InMemory, Kept, change, events, in_redis, record


@pytest.fixture(params=["memory", "redis"])
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    if request.param == "memory":
        yield InMemory()
        return
    async with in_redis(request.getfixturevalue("redis").url) as running:
        yield running


@pytest.fixture
def store(kept: Kept) -> Store:
    return kept.store


async def refused(store: Store, session_id: str = "s", token: str = "t") -> SessionError:
    with pytest.raises(SessionError) as caught:
        await store.claim(session_id, token)
    return caught.value


# What is written --------------------------------------------------------------------------------


async def test_what_is_written_can_be_read(store: Store) -> None:
    tally = Tally(finals=2, legs=1, gaps={"muted": 320})
    whole = change(last=2, principal="p", tokens=("t", "u"), settled=64_000, tally=tally)
    assert await store.save([whole]) == [2]
    assert await store.read("s", 0) == Stored(whole.record, events(1, 2))


async def test_events_are_added_to_those_that_are_held(store: Store) -> None:
    assert await store.save([change(last=2)]) == [2]
    assert await store.save([change(first=3, last=4, settled=9)]) == [4]
    assert await store.read("s", 0) == Stored(record(last=4, settled=9), events(1, 4))


async def test_events_that_are_held_already_are_not_held_twice(store: Store) -> None:
    await store.save([change(last=3)])
    assert await store.save([change(first=2, last=5)]) == [5]
    assert await store.save([change(first=1, last=5)]) == [5]
    assert await store.read("s", 0) == Stored(record(last=5), events(1, 5))


async def test_a_change_may_have_no_events(store: Store) -> None:
    assert await store.save([change()]) == [0]
    assert await store.read("s", 0) == Stored(record(), ())
    await store.save([change(last=2)])
    assert await store.save([change(first=3, last=2, settled=7)]) == [2]
    assert await store.read("s", 0) == Stored(record(last=2, settled=7), events(1, 2))


async def test_where_events_are_missing_nothing_is_written_and_the_held_number_is_told(store: Store) -> None:
    await store.save([change(last=2)])
    assert await store.save([change(first=4, last=5, settled=9)]) == [2]
    assert await store.read("s", 0) == Stored(record(last=2), events(1, 2))
    assert await store.save([change(first=3, last=5, settled=9)]) == [5]


async def test_a_session_that_is_not_held_needs_its_events_from_the_first_on(store: Store) -> None:
    assert await store.save([change(first=3, last=4)]) == [0]
    assert await store.save([change(first=3, last=2)]) == [0]
    assert await store.read("s", 0) is None
    assert await store.save([change(first=1, last=4)]) == [4]


async def test_a_newer_epoch_needs_all_events_and_replaces_what_was_held(store: Store) -> None:
    await store.save([change(last=4)])
    assert await store.save([change(epoch=2, first=4, last=5)]) == [0]
    assert await store.read("s", 0) == Stored(record(last=4), events(1, 4))
    assert await store.save([change(epoch=2, last=2)]) == [2]
    assert await store.read("s", 0) == Stored(record(epoch=2, last=2), events(1, 2, epoch=2))


async def test_a_newer_epoch_without_events_replaces_what_was_held(store: Store) -> None:
    await store.save([change(last=4)])
    assert await store.save([change(epoch=2)]) == [0]
    assert await store.read("s", 0) == Stored(record(epoch=2), ())


async def test_an_older_epoch_is_fenced_and_changes_nothing(store: Store) -> None:
    await store.save([change(epoch=3, last=2)])
    assert await store.save([change(epoch=2, first=3, last=3), change(epoch=1, last=9)]) == [FENCED, FENCED]
    assert await store.read("s", 0) == Stored(record(epoch=3, last=2), events(1, 2, epoch=3))


async def test_every_change_of_one_save_has_an_answer_of_its_own(store: Store) -> None:
    await store.save([change("fenced", epoch=5), change("hole", last=1)])
    changes = [
        change("new", last=3),
        change("fenced", epoch=4, last=1),
        change("hole", first=3, last=4),
        change("unknown", first=2, last=2),
        change("last", last=1),
    ]
    assert await store.save(changes) == [3, FENCED, 1, 0, 1]
    assert await store.read("last", 0) == Stored(record("last", last=1), events(1, 1))
    assert await store.save([]) == []


async def test_a_session_may_come_twice_in_one_save(store: Store) -> None:
    assert await store.save([change(last=1), change(first=2, last=3), change(first=4, last=3, settled=5)]) == [1, 3, 3]
    assert await store.read("s", 0) == Stored(record(last=3, settled=5), events(1, 3))


@pytest.mark.parametrize("text", ["", " ", '"\\/\\u001e\n\r\t\0\x7f', "ß 漢 🎉 \u2028", "*1\r\n$1\r\n", "[1,{}]"])
async def test_an_event_is_kept_to_the_letter(store: Store, text: str) -> None:
    whole = msgspec.structs.replace(change(last=2), events=(text, "b"))
    await store.save([whole])
    found = await store.read("s", 0)
    assert found and found.events == (text, "b")
    assert (await store.claim("s", "t")).events == (text, "b")


async def test_a_long_session_is_written_at_once(store: Store) -> None:
    assert await store.save([change(last=20_000)]) == [20_000]
    found = await store.read("s", 19_000)
    assert found and found.events == events(19_001, 20_000)
    assert len((await store.claim("s", "t")).events) == 20_000


# Who goes on with a session ---------------------------------------------------------------------


async def test_who_claims_a_session_gets_all_of_it_and_the_next_epoch(store: Store) -> None:
    await store.save([change(epoch=4, last=3, tokens=("t", "u"))])
    assert await store.claim("s", "u") == Stored(record(epoch=5, last=3, tokens=("t", "u")), events(1, 3, epoch=4))
    assert await store.read("s", 3) == Stored(record(epoch=5, last=3, tokens=("t", "u")), ())


async def test_after_a_claim_only_the_new_owner_writes(store: Store) -> None:
    await store.save([change(last=2)])
    claimed = (await store.claim("s", "t")).record
    assert await store.save([change(first=3, last=3)]) == [FENCED]
    assert await store.save([change(epoch=claimed.epoch, first=3, last=4)]) == [4]
    found = await store.read("s", 0)
    assert found and found.events == events(1, 2) + events(3, 4, epoch=2)


async def test_every_claim_is_an_epoch_of_its_own(store: Store) -> None:
    await store.save([change(last=2)])
    claims = await asyncio.gather(*(store.claim("s", "t") for _ in range(20)))
    assert sorted(claim.record.epoch for claim in claims) == list(range(2, 22))
    assert {claim.events for claim in claims} == {events(1, 2)}


async def test_nobody_can_tell_a_wrong_token_from_a_session_that_is_not_there(store: Store) -> None:
    await store.save([change(tokens=("t", "tt")), change("over", over="left"), change("closed", tokens=())])
    for session_id, token in [("s", "x"), ("s", ""), ("s", "t tt"), ("over", "x"), ("closed", ""), ("none", "t")]:
        error = await refused(store, session_id, token)
        assert error.code == "session_unknown"
        assert error.message == (await refused(store, "none", "x")).message.replace("none", session_id)
    assert (await store.claim("s", "tt")).record.epoch == 2, "a claim that is refused is no epoch"


async def test_what_is_over_is_not_claimed_but_can_be_read(store: Store) -> None:
    await store.save([change(last=2, over="stopped"), change("late", over="resume_window_expired")])
    error = await refused(store)
    assert error.code == "session_ended" and error.message.endswith("has ended: stopped")
    assert (await refused(store, "late")).code == "resume_window_expired"
    assert await store.read("s", 1) == Stored(record(last=2, over="stopped"), events(2, 2))


async def test_a_session_waits_for_its_client_as_long_as_was_said_last(kept: Kept) -> None:
    await kept.store.save([change(last=1, resume=100)])
    await kept.passes(90)
    await kept.store.save([change(first=2, last=1, resume=100)])
    await kept.passes(90)
    assert (await kept.store.claim("s", "t")).record.epoch == 2
    await kept.passes(20)
    assert (await refused(kept.store)).code == "resume_window_expired"
    assert (await refused(kept.store, token="x")).code == "session_unknown"
    assert await kept.store.read("s", 0) == Stored(record(epoch=2, last=1), events(1, 1))


async def test_a_session_that_is_not_to_be_resumed_is_expired_at_once(store: Store) -> None:
    await store.save([change(resume=0)])
    assert (await refused(store)).code == "resume_window_expired"


# What is read, and for how long -----------------------------------------------------------------


async def test_what_is_read_begins_after_a_number(store: Store) -> None:
    await store.save([change(last=3)])
    for after in (*range(5), 10**30):
        assert await store.read("s", after) == Stored(record(last=3), events(after + 1, 3))


async def test_what_is_not_there_cannot_be_read(store: Store) -> None:
    assert await store.read("none", 0) is None
    assert await store.read("", 5) is None
    assert await store.read("\ud800", 0) is None
    assert (await refused(store, "\ud800")).code == "session_unknown"


async def test_what_is_not_written_any_more_is_forgotten(kept: Kept) -> None:
    await kept.store.save([change(last=2, keep=100, resume=1000), change("other", last=1, keep=300)])
    await kept.passes(90)
    await kept.store.save([change(first=3, last=3, keep=100, resume=1000)])
    await kept.passes(90)
    assert await kept.store.read("s", 0) == Stored(record(last=3), events(1, 3))
    await kept.passes(20)
    assert await kept.store.read("s", 0) is None
    assert (await refused(kept.store)).code == "session_unknown"
    assert await kept.store.read("other", 0) is not None


async def test_a_claim_keeps_nothing_longer(kept: Kept) -> None:
    await kept.store.save([change(last=2, keep=100)])
    await kept.passes(60)
    await kept.store.claim("s", "t")
    await kept.passes(60)
    assert await kept.store.read("s", 0) is None


async def test_what_is_forgotten_neither_fences_nor_helps(kept: Kept) -> None:
    await kept.store.save([change(epoch=7, last=2, keep=100), change("other", last=2, keep=100)])
    await kept.passes(110)
    assert await kept.store.save([change(epoch=1, last=1), change("other", first=3, last=3)]) == [1, 0]


async def test_what_is_not_to_be_kept_is_not_there(store: Store) -> None:
    assert await store.save([change(last=1, keep=0)]) == [1]
    assert await store.read("s", 0) is None


@pytest.mark.parametrize("session_id", ["", "}", "{", "a}{b", "a:events", "*", "ß\n", "x" * 64])
async def test_a_session_may_have_any_name(store: Store, session_id: str) -> None:
    """Clients say what they want."""
    assert (await refused(store, session_id)).code == "session_unknown"
    assert await store.save([change(session_id, last=2), change(session_id + "x", last=1)]) == [2, 1]
    assert (await store.claim(session_id, "t")).events == events(1, 2)


# Each of them -----------------------------------------------------------------------------------


def test_only_one_of_them_is_shared() -> None:
    assert not MemoryStore.shared and RedisStore.shared


async def test_in_memory_those_that_were_written_longest_ago_are_forgotten() -> None:
    store = MemoryStore(lambda: 0.0, max_sessions=2)
    await store.save([change("a"), change("b")])
    await store.save([change("a"), change("c")])
    assert [await store.read(name, 0) is None for name in "abc"] == [False, True, False]


async def test_a_closed_memory_is_empty() -> None:
    store = MemoryStore(lambda: 0.0)
    await store.save([change()])
    await store.close()
    assert await store.read("s", 0) is None


# Texts ------------------------------------------------------------------------------------------


async def test_a_text_is_kept_for_its_time(kept: Kept) -> None:
    assert await kept.store.get("k") is None
    assert await kept.store.put("k", "text", 10)
    await kept.passes(9)
    assert await kept.store.get("k") == "text"
    await kept.passes(2)
    assert await kept.store.get("k") is None


async def test_of_many_who_put_one_does(store: Store) -> None:
    did = await asyncio.gather(*[store.put("k", str(number), 10) for number in range(20)])
    assert sum(did) == 1
    assert await store.get("k") == str(did.index(True))
