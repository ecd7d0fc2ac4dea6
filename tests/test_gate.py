"""The silence gate: long silence goes unheard, and no word with it. With real speech: test_voice.py."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.speech.gate import DOUBT, VOICE, Gate, Passed

PATIENCE, LEAD_IN = 50, 10
SILENCE, SOFT, SPEECH = b"s", b"d", b"v"
LIKELY = {SILENCE: 0.0, SOFT: DOUBT, SPEECH: VOICE}


def gate() -> Gate:
    """One that knows a chunk by its first byte."""
    return Gate(lambda chunk: LIKELY[chunk[:1]], patience=PATIENCE, lead_in=LEAD_IN)


class Session:
    """Audio through a gate, and where its bytes went."""

    def __init__(self) -> None:
        self.gate = gate()
        self.came = self.passed = b""
        """`passed`: what went up, in its place among dots for what went unheard."""

    def say(self, *chunks: bytes, busy: bool = False) -> None:
        for chunk in chunks:
            self.came += chunk
            self._note(self.gate.take(chunk, len(self.came), busy=busy))

    def rest(self) -> None:
        self._note(self.gate.rest())

    def _note(self, passed: Passed) -> None:
        self.passed += b"." * passed.unheard + b"".join(passed.heard)


def test_speech_and_short_silence_go_up_as_they_come() -> None:
    session = Session()
    session.say(*[SILENCE] * 49, SPEECH, *[SILENCE] * 49, SPEECH, *[SILENCE] * 49)
    assert session.passed == session.came


def test_long_silence_goes_unheard_while_it_lasts() -> None:
    """Not only at its end: all but the lead-in is settled as it comes."""
    session = Session()
    session.say(SPEECH, *[SILENCE] * 49)
    for more in range(1, 100):
        session.say(SILENCE)
        assert not session.gate.is_open
        assert session.passed == SPEECH + SILENCE * 49 + b"." * max(0, more - LEAD_IN)


def test_a_voice_opens_and_the_lead_in_goes_up_first() -> None:
    session = Session()
    session.say(SPEECH, *[SILENCE] * 100, SPEECH, SILENCE)
    unheard = 100 - 49 - LEAD_IN
    assert session.passed == SPEECH + SILENCE * 49 + b"." * unheard + SILENCE * LEAD_IN + SPEECH + SILENCE


def test_a_voice_within_the_lead_in_costs_nothing() -> None:
    session = Session()
    session.say(SPEECH, *[SILENCE] * (PATIENCE + LEAD_IN - 1), SPEECH)
    assert session.passed == session.came


def test_it_stays_open_while_the_upstream_hears_somebody() -> None:
    session = Session()
    session.say(SPEECH, *[SILENCE] * 200, busy=True)
    assert session.passed == session.came
    session.say(SILENCE)
    assert not session.gate.is_open


def test_silence_counts_from_the_last_words_of_the_upstream() -> None:
    session = Session()
    session.say(SPEECH, *[SILENCE] * 30)
    session.gate.words(0, 20, is_final=True)
    session.say(*[SILENCE] * (20 + PATIENCE - 31 - 1))
    assert session.gate.is_open
    session.say(SILENCE)
    assert not session.gate.is_open


def test_words_where_the_detector_heard_no_voice_keep_it_open_for_good() -> None:
    """A detector that misses this speaker once would miss the next words, too, and nobody else would hear them."""
    session = Session()
    session.say(SPEECH, *[SILENCE] * 30)
    session.gate.words(5, 20, is_final=False)
    session.gate.words(5, 20, is_final=True)
    session.say(*[SILENCE] * 500)
    assert session.passed == session.came


def test_such_words_may_come_after_it_has_closed() -> None:
    session = Session()
    session.say(SPEECH, *[SILENCE] * (PATIENCE + 4))
    session.gate.words(30, 40, is_final=True)
    session.say(SILENCE)
    assert session.passed == session.came


@pytest.mark.parametrize(("last", "heard"), [(SILENCE, False), (SOFT, True)])
def test_what_waits_at_the_end_is_heard_unless_it_surely_is_silence(last: bytes, heard: bool) -> None:
    session = Session()
    session.say(SPEECH, *[SILENCE] * 100, last)
    session.rest()
    waited = SILENCE * (LEAD_IN - 1) + last
    assert session.passed[-LEAD_IN:] == (waited if heard else b"." * LEAD_IN)
    assert len(session.passed) == len(session.came)


say = st.tuples(st.sampled_from([SILENCE, SOFT, SPEECH]), st.integers(1, 40), st.booleans())
words = st.tuples(st.integers(0, 300), st.integers(0, 50))


@given(st.lists(say | words | st.none(), max_size=60))
def test_whatever_comes_every_byte_goes_one_way_in_order(steps: list[tuple[Any, ...] | None]) -> None:
    session = Session()
    for step in steps:
        match step:
            case (bytes() as kind, int() as size, bool() as busy):
                session.say(kind * size, busy=busy)
                assert session.gate.is_open or kind != SPEECH
            case (start, length):
                session.gate.words(start, start + length, is_final=True)
            case None:
                session.rest()
    session.rest()
    for was, came in zip(session.passed, session.came, strict=True):
        assert was == came or (was == ord(".") and came != ord(SPEECH))
