"""A session's life over any links and gateways, whatever breaks, crashes or forgets: what docs/protocol.md promises."""

import sys
from collections.abc import Callable
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.core.protocol import Final, GapEvent, Resume, parse_server
from app.core.record import Record, fingerprint
from app.core.resume_tokens import MAX_GIVEN
from tests.paper.audio import SESSION, UNIT
from tests.paper.gateway import Gateway
from tests.paper.world import World

UNITS = st.integers(1, 6)
WHICH = st.integers(0, 3)
MOST_TWICE = 4
"""Times that the network brings a `resume` twice: more than a few tokens that nobody uses are not kept."""


def when(condition: Callable[[World], object]) -> Callable[..., Callable[..., None]]:
    """While the client goes on with its session."""
    return precondition(lambda self: not self.world.over and bool(condition(self.world)))


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self._seen: Record | None = None

    def gateway(self, which: int) -> Gateway:
        """The newest is 0."""
        return self.world.gateways[::-1][which % len(self.world.gateways)]

    def any_place(self, which: int) -> Gateway | None:
        """A gateway that has the session, or none of them."""
        places = [*self.world.gateways[::-1], None]
        return places[which % len(places)]

    # Most of the time all goes well -------------------------------------------------------------

    @when(lambda world: not world.client.stopping)
    @rule(units=UNITS, spoken=st.booleans(), heard=UNITS)
    def a_word_comes_and_is_heard(self, units: int, spoken: bool, heard: int) -> None:
        self.world.client.record(units, spoken=spoken)
        self.world.exchange()
        if gateway := self.world.serving:
            gateway.upstream.hear(heard)

    @when(lambda world: world.serving)
    @rule()
    def all_is_written_and_told(self) -> None:
        gateway, client = self.world.serving, self.world.client
        assert gateway is not None
        gateway.save()
        gateway.written()
        settled = gateway.session.transcript.settled
        self.world.exchange()
        if self.world.serving is gateway and not gateway.session.ended:
            assert client.final >= settled, "what is settled may be forgotten"

    @when(lambda world: world.client.wire)
    @rule()
    def what_is_due_is_told(self) -> None:
        self.world.exchange()

    # The client says ----------------------------------------------------------------------------

    @when(lambda world: not world.client.stopping)
    @rule(says=st.lists(st.sampled_from(["word", "word", "silence", "muted", "overflow", "finalize"]), max_size=4))
    def the_client_says(self, says: list[str]) -> None:
        for what in says:
            match what:
                case "word" | "silence":
                    self.world.client.record(2, spoken=what == "word")
                case "muted" | "overflow":
                    self.world.client.skip(2, what)
                case "finalize":
                    self.world.client.finalize()
        self.world.speak()

    @when(lambda world: not world.client.stopping)
    @rule(finalize=st.booleans())
    def the_client_stops(self, finalize: bool) -> None:
        if finalize:
            self.world.client.finalize()
        self.world.client.stop()
        self.world.speak()

    # The upstream says --------------------------------------------------------------------------

    @when(lambda world: world.gateways)
    @rule(which=WHICH, units=UNITS)
    def words_are_heard(self, which: int, units: int) -> None:
        self.gateway(which).upstream.hear(units)

    @when(lambda world: world.gateways)
    @rule(which=WHICH, units=UNITS)
    def words_are_guessed(self, which: int, units: int) -> None:
        self.gateway(which).upstream.draft(units)

    @when(lambda world: world.gateways)
    @rule(which=WHICH, units=UNITS, settles=st.booleans())
    def audio_is_lost(self, which: int, units: int, settles: bool) -> None:
        self.gateway(which).upstream.lose(units, settles=settles)

    # The store writes ---------------------------------------------------------------------------

    @when(lambda world: world.gateways)
    @rule(which=WHICH, arrives=st.booleans())
    def a_write_begins(self, which: int, arrives: bool) -> None:
        gateway = self.gateway(which)
        gateway.begin_write()
        if arrives:
            gateway.write_arrives()

    @when(lambda world: any(gateway.write for gateway in world.gateways))
    @rule(arrives=st.booleans())
    def writes_are_answered_or_given_up(self, arrives: bool) -> None:
        for gateway in self.world.gateways:
            if gateway.write and arrives:
                gateway.write_arrives()
            if gateway.write:
                gateway.write_is_answered()

    @when(lambda world: world.store.late)
    @rule()
    def a_write_that_was_given_up_arrives(self) -> None:
        self.world.store.save(self.world.store.late.pop(0))

    @when(lambda world: world.gateways)
    @rule(which=WHICH, noticed=st.booleans())
    def the_store_goes_away_or_comes_back(self, which: int, noticed: bool) -> None:
        """For one gateway."""
        gateway = self.gateway(which)
        gateway.cut_off = not gateway.cut_off
        if noticed:
            gateway.save()

    # The network --------------------------------------------------------------------------------

    @when(lambda world: world.gateways)
    @rule(which=WHICH)
    def a_gateway_tells_what_is_due(self, which: int) -> None:
        """Nobody reads it yet."""
        self.gateway(which).tell()
        self.world.bury()

    @when(lambda world: world.client.wire)
    @rule(read=st.integers(0, 3), noticed=st.booleans())
    def the_link_breaks(self, read: int, noticed: bool) -> None:
        self.world.read(read)
        self.world.break_link(noticed=noticed)

    @when(lambda world: any(gateway.wire not in (None, world.client.wire) for gateway in world.gateways))
    @rule()
    def dead_links_are_noticed(self) -> None:
        for gateway in self.world.gateways:
            if gateway.wire not in (None, self.world.client.wire):
                self.world.notice(gateway)

    @when(lambda world: True)
    @rule(which=WHICH, fewer=st.integers(0, 3), greeted=st.booleans())
    def the_client_comes_back(self, which: int, fewer: int, greeted: bool) -> None:
        """With all events that it has; or with fewer, where these are the same everywhere."""
        client = self.world.client
        last = len(client.events) - (0 if client.is_warned else fewer)
        self.world.come_back(self.any_place(which), max(0, last))
        if greeted:
            self.world.exchange()

    @when(lambda world: world.resumes and len(world.twice) < MOST_TWICE)
    @rule(which=WHICH)
    def a_resume_comes_twice(self, which: int) -> None:
        """Nobody reads the link that it gets."""
        world = self.world
        world.repeat(world.resumes[-1], self.any_place(which))

    @when(lambda world: world.store.held)
    @rule(which=WHICH, what=st.sampled_from(["wrong token", "old token", "event"]))
    def a_resume_is_not_allowed(self, which: int, what: Literal["wrong token", "old token", "event"]) -> None:
        world, held = self.world, self.world.store.held
        to = world.serving if what == "old token" else self.any_place(which)
        last = to.session.transcript.history.last if to else held.record.last_event if held else 0
        match what:
            case "wrong token":
                assert not world.admits(Resume(SESSION, "wrong", 0), to)
            case "old token":
                assert to is None or not world.admits(Resume(SESSION, world.client.old_token, 0), to)
            case "event":
                assert not world.admits(Resume(SESSION, world.client.token, last + 1), to)

    # Gateways and time --------------------------------------------------------------------------

    @when(lambda world: True)
    @rule(seconds=st.sampled_from([1.0, 1.0, 1.0, 120.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @when(lambda world: world.gateways)
    @rule(which=WHICH, what=st.sampled_from(["crashes", "crashes", "crashes", "hears no more", "closes"]))
    def a_gateway_goes(self, which: int, what: str) -> None:
        gateway = self.gateway(which)
        match what:
            case "crashes":
                self.world.crash(gateway)
            case "hears no more":
                gateway.upstream.fail()
            case "closes":
                self.world.client.cut_short = True
                gateway.close()

    @when(lambda world: world.store.held and all(map(world.is_owner, world.gateways)))
    @rule(writes=st.integers(0, 3), noticed=st.booleans())
    def the_store_loses_its_memory(self, writes: int, noticed: bool) -> None:
        """All of it, or its last writes. Who else thinks that it has the session might write it anew, as its own:
        docs/store.md."""
        if writes and self.world.store.can_forget_last:
            self.world.store.forget_last(writes)
        else:
            self.world.store.forget()
        if noticed:
            for gateway in self.world.gateways:
                gateway.save()

    @precondition(lambda self: self.world.over)
    @rule()
    def another_session_begins(self) -> None:
        self.world = World()

    # What always holds --------------------------------------------------------------------------

    @invariant()
    def what_is_written_stands_by_itself(self) -> None:
        """Events, what is being lost, and silence are all that is settled, each once."""
        held = self.world.store.held
        if held is None or held.record is self._seen:
            return
        self._seen = record = held.record
        said, settled = self.world.client.said, record.settled // UNIT
        covered = [False] * len(said)
        for start, end in [*map(extent, held.events.values()), units(record.losing)]:
            assert not any(covered[start:end]), "nothing is told twice"
            covered[start:end] = [True] * (end - start)
        for unit, is_covered in zip(said[:settled], covered, strict=False):
            assert is_covered or (unit and not unit[1]), "what may be forgotten is told"
        losing = range(*units(record.losing))
        assert not any(covered[at] for at in range(settled, len(said)) if at not in losing), "what is told is settled"

    @invariant()
    def what_the_client_has_the_store_has(self) -> None:
        """Its gateway may go at this very moment."""
        client, held = self.world.client, self.world.store.held
        if self.world.over or held is None or not client.token:
            return
        written = list(held.events.values())[: len(client.events)] == client.events
        admitted = fingerprint(client.token, "") in held.record.tokens and held.record.over is None
        told = written and admitted and held.record.settled >= client.final
        assert told or client.is_warned or self.world.is_late

    @invariant()
    def only_what_is_not_settled_is_kept(self) -> None:
        for gateway in self.world.gateways:
            session = gateway.session
            heard = session.transcript
            assert all(waiting.at > heard.settled for waiting in heard._waiting)
            assert len(heard._interims) <= 1
            assert len(session._tokens.fingerprints) <= MAX_GIVEN + 2
            assert session.link.attached or not session.link.replies

    def teardown(self) -> None:
        """Whatever has happened, the session can be brought to a good end."""
        if sys.exc_info()[0] is None:  # else that is what is to be shown
            self.world.bring_to_an_end()


def extent(event: str) -> tuple[int, int]:
    """The units that an event is about."""
    message = parse_server(event)
    return (message.start_ms, message.end_ms) if isinstance(message, Final | GapEvent) else (0, 0)


def units(extent: tuple[int, int] | None) -> tuple[int, int]:
    return (extent[0] // UNIT, extent[1] // UNIT) if extent else (0, 0)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=500, stateful_step_count=40, deadline=None)
