"""Whatever is written, claimed and read, by whatever epochs and in whatever order: both stores do as the model does."""

import asyncio
from dataclasses import dataclass
from typing import Any

import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from app.core.errors import SessionError
from app.core.record import Change, Record
from app.store import FENCED, Stored
from tests.redis_server import RedisServer
from tests.stores import InMemory, InRedis, Kept, change

SESSIONS = st.sampled_from(["a", "b"])
TOKENS = st.sampled_from(["t", "u"])
SECONDS = st.sampled_from([0, 100, 200, 300])
"""Steps so large that the time which the test itself takes makes no difference."""


@st.composite
def changes(draw: st.DrawFn) -> Change:
    first = draw(st.integers(1, 5))
    return change(
        draw(SESSIONS),
        epoch=draw(st.integers(1, 4)),
        first=first,
        last=draw(st.integers(first - 1, 6)),
        resume=draw(SECONDS),
        keep=draw(SECONDS),
        tokens=tuple(draw(st.sets(TOKENS))),
        over=draw(st.sampled_from([None, None, "stopped"])),
        settled=draw(st.integers(0, 99)),
    )


@dataclass
class Held:
    record: Record
    events: dict[int, str]
    resume_until: float
    keep_until: float


class Model:
    """What the docstrings of `Store` say, in the plainest way."""

    def __init__(self) -> None:
        self.now = 0.0
        self.all: dict[str, Held] = {}

    def held(self, session_id: str) -> Held | None:
        found = self.all.get(session_id)
        return found if found and self.now < found.keep_until else None

    def save(self, change: Change) -> int:
        record = change.record
        found = self.held(record.session_id)
        if found and found.record.epoch > record.epoch:
            return FENCED
        events = dict(found.events) if found and found.record.epoch == record.epoch else {}
        if missing := set(range(1, change.first)) - set(events):
            return min(missing) - 1
        for number, text in enumerate(change.events, change.first):
            events.setdefault(number, text)
        self.all[record.session_id] = Held(
            record, events, self.now + change.resume_seconds, self.now + change.keep_seconds
        )
        return record.last_event

    def claim(self, session_id: str, token: str) -> Stored | str:
        found = self.held(session_id)
        if not found or token not in found.record.tokens:
            return "session_unknown"
        if found.record.over:
            return "session_ended"
        if self.now >= found.resume_until:
            return "resume_window_expired"
        found.record = replace(found.record, epoch=found.record.epoch + 1)
        return Stored(found.record, tuple(found.events.values()))

    def read(self, session_id: str, after: int) -> Stored | None:
        found = self.held(session_id)
        if not found:
            return None
        return Stored(found.record, tuple(text for number, text in found.events.items() if number > after))


class SideBySide(RuleBasedStateMachine):
    url = ""
    """Of Redis."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.runner.get_loop()
        self.model = Model()
        self.redis = InRedis(self.url)
        self.kept: list[Kept] = [InMemory(), self.redis]

    def teardown(self) -> None:
        self.runner.run(self.redis.close())
        self.runner.close()

    def each(self, do: Any) -> list[Any]:
        async def both() -> list[Any]:
            return [await do(kept) for kept in self.kept]

        return self.runner.run(both())

    @rule(given=st.lists(changes(), min_size=1, max_size=3))
    def save(self, given: list[Change]) -> None:
        expected = [self.model.save(each) for each in given]
        assert self.each(lambda kept: kept.store.save(given)) == [expected] * 2

    @precondition(lambda self: self.model.all)
    @rule(data=st.data(), count=st.integers(0, 3))
    def go_on(self, data: st.DataObject, count: int) -> None:
        """The owner of a session writes its next events."""
        held = self.model.all[data.draw(st.sampled_from(sorted(self.model.all)))]
        record, last = held.record, len(held.events)
        given = change(record.session_id, epoch=record.epoch, first=last + 1, last=last + count, tokens=record.tokens)
        expected = self.model.save(given)
        assert self.each(lambda kept: kept.store.save([given])) == [[expected]] * 2

    @rule(session_id=SESSIONS, token=TOKENS)
    def claim(self, session_id: str, token: str) -> None:
        async def claimed(kept: Kept) -> Stored | str:
            try:
                return await kept.store.claim(session_id, token)
            except SessionError as error:
                return error.code

        expected = self.model.claim(session_id, token)
        assert self.each(claimed) == [expected] * 2

    @rule(session_id=SESSIONS, after=st.integers(0, 7))
    def read(self, session_id: str, after: int) -> None:
        expected = self.model.read(session_id, after)
        assert self.each(lambda kept: kept.store.read(session_id, after)) == [expected] * 2

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.model.now += seconds
        self.each(lambda kept: kept.passes(seconds))


def test_both_stores_do_as_the_model_does(redis: RedisServer) -> None:
    class Here(SideBySide):
        url = redis.url

    run_state_machine_as_test(Here, settings=settings(max_examples=100, stateful_step_count=25))
