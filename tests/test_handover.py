"""Every byte of a session is heard once, whatever is cut, fails or is handed back: app/core/handover.py."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.core.handover import Handover, Stretch

PIECE = 3
"""Bytes that are read at a time."""


@dataclass
class Leg:
    """An upstream stream that hears what it is fed and finalises it piece by piece."""

    stretch: Stretch
    start: int
    heard: bytearray
    done: int = 0
    """Bytes of `heard` that it has finalised."""
    unsaid: list[tuple[int, bytes]] = field(default_factory=list)
    """Finals (end offset in the session, bytes) that wait until the leg's stretch is the oldest."""


def hear(handover: Handover, stretch: Stretch) -> bytes:
    """What a new leg for `stretch` is fed."""
    at, heard = handover.restart(stretch), b""
    while chunk := handover.read(stretch, at + len(heard)):
        heard += chunk
    return heard


class Session(RuleBasedStateMachine):
    """A random life. What was finalised and counted must be what was said, byte for byte."""

    def __init__(self) -> None:
        super().__init__()
        self.handover = Handover(PIECE)
        self.said = bytearray()
        """The audio of the session; 0 for what was skipped, or lost."""
        self.legs: list[Leg] = []
        self.retired: list[Leg] = []
        self.final = bytearray()
        """Everything finalised that counted, in the order in which it came."""

    # What happens -------------------------------------------------------------------------------

    @rule(size=st.integers(1, 9))
    def audio_comes(self, size: int) -> None:
        chunk = bytes(1 + (len(self.said) + i) % 255 for i in range(size))
        self.said += chunk
        stretch = self.handover.append(chunk)
        leg = self.leg_of(stretch)
        if leg is None:
            self.open(stretch)
        else:
            leg.heard += chunk

    @rule(size=st.integers(1, 9))
    def the_client_skips(self, size: int) -> None:
        self.handover.skip(size)
        self.said += bytes(size)

    @rule()
    def the_open_stretch_is_cut(self) -> None:
        self.handover.cut()

    @precondition(lambda self: self.legs)
    @rule(data=st.data())
    def a_leg_says_a_final(self, data: st.DataObject) -> None:
        leg = data.draw(st.sampled_from(self.legs))
        self.say_final(leg, data.draw(st.integers(leg.done, len(leg.heard))))

    @precondition(lambda self: self.retired)
    @rule(data=st.data())
    def a_retired_leg_says_a_final_that_does_not_count(self, data: st.DataObject) -> None:
        leg = data.draw(st.sampled_from(self.retired))
        assert not self.handover.settle(leg.stretch, leg.start + len(leg.heard))

    @rule()
    def the_rest_is_handed_back_after_a_final(self) -> None:
        old = self.handover.open
        if self.handover.hand_back():
            leg = next(leg for leg in self.legs if leg.stretch is old)
            self.legs.remove(leg)
            self.retired.append(leg)
            if self.handover.open is not None:
                self.open(self.handover.open)

    @precondition(lambda self: self.handover.open)
    @rule(data=st.data())
    def silence_is_guessed(self, data: st.DataObject) -> None:
        """The old leg has heard more than it owns from now on."""
        leg = self.legs[-1]
        offset = data.draw(st.integers(leg.start + leg.done, len(self.said)))
        stretch = self.handover.cut_behind(offset)
        if stretch is not None:
            del leg.heard[offset - leg.start :]
            self.open(stretch)

    @precondition(lambda self: self.legs and self.legs[0].stretch.guessed)
    @rule()
    def the_guess_was_wrong(self) -> None:
        after = self.handover.take_back(self.legs[0].stretch)
        known = [leg.stretch for leg in self.legs[1:]]
        assert after and after == known[: len(after)]
        assert all(stretch.guessed for stretch in after[:-1])
        assert not after[-1].guessed or len(after) == len(known)
        self.retired += self.legs[: 1 + len(after)]
        del self.legs[: 1 + len(after)]
        assert self.handover.head is not None
        self.open(self.handover.head, first=True)

    @precondition(lambda self: self.legs)
    @rule()
    def a_leg_fails(self) -> None:
        """Only the oldest is looked at: a younger leg's failure is dealt with when it is the oldest."""
        leg = self.legs.pop(0)
        self.handover.drop_heard()
        self.try_again(leg)

    @precondition(lambda self: self.legs)
    @rule(data=st.data())
    def a_leg_fails_once_too_often(self, data: st.DataObject) -> None:
        """What it did not make final is heard in two parts."""
        leg = self.legs.pop(0)
        begin, end = max(leg.start, self.handover.settled), leg.start + len(leg.heard)
        self.handover.drop_heard()
        if leg.stretch is not self.handover.head or end - begin < 2:
            self.try_again(leg)
            return
        self.handover.split(data.draw(st.integers(begin + 1, end - 1)))
        first, second, *_ = self.handover.stretches
        self.open(second, first=True)
        self.open(first, first=True)

    @precondition(lambda self: self.legs)
    @rule(keep=st.integers(1, 20))
    def a_leg_fails_and_the_upstream_is_away_for_long(self, keep: int) -> None:
        """What the oldest leg had to hear is lost, where too much is kept; not what others hear."""
        leg = self.legs.pop(0)
        heard_from = self.legs[0].stretch.start if self.legs else None
        settled, kept = self.handover.settled, self.handover.kept
        lost = self.handover.give_up(keep, heard_from)
        if lost is None:
            assert kept <= keep or settled == heard_from or not any(self.said[settled:heard_from])
        else:
            self.lose(*lost)
            assert lost[0] == settled
            assert self.handover.kept <= keep or self.handover.settled == heard_from
        self.handover.drop_heard()
        self.try_again(leg)

    @rule()
    def nobody_hears_the_rest(self) -> None:
        settled, kept = self.handover.settled, self.handover.kept
        lost = self.handover.abandon()
        assert lost == ((settled, len(self.said)) if kept else None)
        self.lose(settled, len(self.said))
        self.retired += self.legs
        self.legs.clear()

    @precondition(lambda self: self.legs and self.legs[0].stretch.end is not None)
    @rule()
    def the_oldest_leg_flushes_and_ends(self) -> None:
        leg = self.legs[0]
        self.say_final(leg, len(leg.heard))
        self.handover.complete(leg.stretch)
        self.legs.remove(leg)
        self.hear_next()

    # How ----------------------------------------------------------------------------------------

    def leg_of(self, stretch: Stretch) -> Leg | None:
        return next((leg for leg in self.legs if leg.stretch is stretch), None)

    def open(self, stretch: Stretch, *, first: bool = False) -> None:
        heard = hear(self.handover, stretch)
        end = stretch.start + len(heard)
        assert heard == self.said[stretch.start : end], "a leg hears the session's own bytes"
        assert stretch.end in (None, end), "and all of its stretch"
        self.legs.insert(0 if first else len(self.legs), Leg(stretch, stretch.start, bytearray(heard)))

    def try_again(self, failed: Leg) -> None:
        if failed.stretch in self.handover.stretches:
            self.open(failed.stretch, first=True)
        else:
            self.hear_next()

    def hear_next(self) -> None:
        """What the leg that is the oldest now has said meanwhile."""
        if self.legs:
            unsaid, self.legs[0].unsaid = self.legs[0].unsaid, []
            for end, text in unsaid:
                self.count(self.legs[0], end, text)

    def lose(self, start: int, end: int) -> None:
        self.said[start:end] = bytes(end - start)

    def say_final(self, leg: Leg, upto: int) -> None:
        text, end = bytes(leg.heard[leg.done : upto]), leg.start + upto
        leg.done = upto
        if leg.stretch is self.handover.head:
            self.count(leg, end, text)
        else:
            leg.unsaid.append((end, text))

    def count(self, leg: Leg, end: int, text: bytes) -> None:
        assert self.handover.settle(leg.stretch, end)
        self.final += text

    # What always holds --------------------------------------------------------------------------

    @invariant()
    def what_counted_is_what_was_said_once(self) -> None:
        spoken = bytes(byte for byte in self.said[: self.handover.settled] if byte)
        assert self.final == spoken

    @invariant()
    def what_is_not_settled_is_kept(self) -> None:
        assert self.handover.kept == sum(1 for byte in self.said[self.handover.settled :] if byte)

    @invariant()
    def stretches_touch_and_only_the_newest_is_open(self) -> None:
        stretches = list(self.handover.stretches)
        assert all(stretch.end is not None for stretch in stretches[:-1])
        assert [leg.stretch for leg in self.legs] == stretches

    def teardown(self) -> None:
        """The client stops, every leg flushes: everything was heard."""
        self.handover.cut()
        while self.legs:
            self.the_oldest_leg_flushes_and_ends()
        assert self.handover.settled == len(self.said)
        self.what_counted_is_what_was_said_once()


TestSession = Session.TestCase
TestSession.settings = settings(max_examples=2000, stateful_step_count=30, deadline=None)


def test_giving_up_names_exactly_the_bytes_that_nobody_hears() -> None:
    handover = Handover(PIECE)
    stretch = handover.append(b"0123456789")
    assert handover.give_up(keep=10) is None
    assert handover.give_up(keep=4) == (0, 6)
    assert hear(handover, stretch) == b"6789"
    assert handover.give_up(keep=4) is None


def test_giving_up_spares_what_is_being_heard() -> None:
    handover = Handover(PIECE)
    handover.append(b"012345")
    handover.cut()
    heard = handover.append(b"6789")
    assert handover.give_up(keep=2, before=heard.start) == (0, 6)
    assert handover.head is heard
    assert handover.give_up(keep=2, before=heard.start) is None
    assert hear(handover, heard) == b"6789"


def test_giving_up_passes_over_whole_stretches() -> None:
    handover = Handover(PIECE)
    handover.append(b"012345")
    handover.cut()
    rest = handover.append(b"6789")
    assert handover.give_up(keep=2) == (0, 8)
    assert handover.head is rest
    assert hear(handover, rest) == b"89"
