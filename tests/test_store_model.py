"""Whatever is written, claimed and read, by whatever epochs and in whatever order: both stores do as the model does."""

import asyncio
from typing import Any

import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from app.core.errors import SessionError
from app.core.record import Change
from app.store import Stored
from tests.paper.store import Model
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
