"""The client's clock, numbering and outbox, without a network: what one session after another makes of them."""

import pytest

from app.client.errors import EventsMissingError, SessionEndedError
from app.client.outbox import Outbox
from app.client.timeline import Timeline
from app.core.audio import AudioFormat
from app.core.protocol import (
    Ack,
    Audio,
    Final,
    Finalize,
    Finalized,
    Gap,
    GapEvent,
    Limits,
    Resumed,
    SessionConfig,
    Started,
    Stop,
    Stopped,
    WarningMessage,
)


def started(rate: int = 16_000) -> Started:
    config = SessionConfig(audio=Audio("LINEAR16", rate), language_codes=["en-US"])
    return Started("s1", "r1", 60_000, config, Limits(65_536, 1_000_000, 60_000, 3_600_000))


def beginning(rate: int = 16_000) -> tuple[Timeline, Outbox]:
    outbox = Outbox()
    timeline = Timeline(AudioFormat.of(started(rate).config.audio), outbox)
    timeline.begin(started(rate))
    return timeline, outbox


def final(event: int, start_ms: int, end_ms: int) -> Final:
    return Final(event, "text", start_ms, end_ms, 0.9, "en-US", 1)


def stopped(event: int, audio_ms: int, gap_ms: int = 0) -> Stopped:
    return Stopped(event, audio_ms, billed_ms=1000, finals=1, gap_ms=gap_ms, upstream_streams=1, resumes=0)


def drained(outbox: Outbox) -> list[object]:
    """What goes out, without the places."""
    return [item for _, item in iter(outbox.next, None)]


# Sessions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_at_every_rate_a_new_session_begins_at_a_sample_and_after_the_last_final(rate: int) -> None:
    """And never so far after it that the clock would run ahead of the audio for more than a millisecond."""
    timeline, outbox = beginning(rate)
    outbox.audio(bytes(200 * rate))
    ours = number = 0
    for end_ms in (31, 77, 1001, 13):
        told = timeline.take(final(1, 0, end_ms))
        assert isinstance(told, Final)
        assert told.start_ms >= ours
        assert told.end_ms <= (timeline.base + 2 * rate * end_ms / 1000) * 1000 / (2 * rate) + 1
        ours, number = told.end_ms, told.event
        timeline.lose()
        assert timeline.base % 2 == 0
        timeline.begin(started(rate))
    assert number == 4


def test_what_is_settled_decides_where_no_final_says_more() -> None:
    timeline, outbox = beginning()
    outbox.audio(bytes(64_000))
    assert outbox.next() is not None
    timeline.take(final(1, 0, 500))
    timeline.take(Ack(received=64_000, final=32_001, window=1))
    timeline.lose()
    assert (timeline.base, timeline.settled, timeline.received) == (32_000, 32_000, 32_000)
    assert timeline.resume() is None


def test_the_sums_are_those_of_all_sessions() -> None:
    """What a lost one has cost upstream nobody knows."""
    timeline, outbox = beginning()
    outbox.audio(bytes(32_000))
    outbox.gap(32_000, "muted")
    outbox.audio(bytes(64_000))
    timeline.take(final(1, 0, 1000))
    timeline.take(GapEvent(2, 1000, 2000, "muted"))
    timeline.take(final(3, 2000, 2500))
    timeline.lose()
    timeline.begin(started())
    timeline.go_on(Resumed(0, "r2", 0))
    outbox.stop()
    drained(outbox)
    assert timeline.take(stopped(1, 1500)) == Stopped(4, 3000, 1000, 3, 1000, 1, resumes=0)
    assert timeline.resumes == 1


def test_a_session_that_ends_for_its_age_hands_over_where_it_stopped_hearing() -> None:
    """`stopped` without a `stop` of ours; or with one that came when it took no more audio."""
    timeline, outbox = beginning()
    outbox.audio(bytes(64_000))
    drained(outbox)
    with pytest.raises(SessionEndedError):
        timeline.take(stopped(1, 1000))
    assert timeline.base == 32_000
    timeline.begin(started())
    outbox.stop()
    drained(outbox)
    timeline.take(WarningMessage("session_limit", "m"))
    with pytest.raises(SessionEndedError):
        timeline.take(stopped(1, 500))
    assert timeline.base == 48_000
    timeline.begin(started())
    assert drained(outbox) == [bytes(16_000), Stop()]
    assert timeline.take(stopped(1, 500)) == Stopped(1, 2000, 3000, 3, 0, 3, resumes=0)


def test_a_gap_that_was_told_is_told_for_the_rest_only() -> None:
    timeline, outbox = beginning()
    outbox.gap(3 * 32_000, "overflow")
    assert timeline.take(GapEvent(1, 0, 1000, "overflow")) == GapEvent(1, 0, 1000, "overflow")
    timeline.lose()
    timeline.begin(started())
    assert timeline.take(GapEvent(1, 0, 3000, "overflow")) == GapEvent(2, 1000, 3000, "overflow")


def test_events_are_taken_in_order_and_once() -> None:
    timeline, _ = beginning()
    timeline.take(final(1, 0, 10))
    assert timeline.take(final(1, 0, 10)) is None
    with pytest.raises(EventsMissingError, match="after event 1 it has said event 3"):
        timeline.take(final(3, 20, 30))
    resume = timeline.resume()
    assert resume is not None
    assert resume.last_event == 1


# What was said ----------------------------------------------------------------------------------


def test_an_answer_is_for_the_finalize_of_its_place() -> None:
    """Two without a name, of which the first was said twice: its second answer is not the other's."""
    timeline, outbox = beginning()
    outbox.audio(bytes(32_000))
    outbox.finalize(Finalize())
    outbox.audio(bytes(32_000))
    outbox.finalize(Finalize())
    drained(outbox)
    assert timeline.take(Finalized(1, None, 1000)) == Finalized(1, None, 1000)
    assert timeline.take(Finalized(2, None, 1000)) is None
    assert timeline.take(Finalized(3, None, 2000)) == Finalized(2, None, 2000), "no number is missing"


def test_a_new_session_hears_every_finalize_that_has_no_answer() -> None:
    """One of a place that is final already stands at its beginning."""
    timeline, outbox = beginning()
    outbox.audio(bytes(32_000))
    outbox.finalize(Finalize("a"))
    outbox.audio(bytes(16_000))
    drained(outbox)
    timeline.take(final(1, 0, 1250))
    timeline.lose()
    timeline.begin(started())
    assert drained(outbox) == [Finalize("a"), bytes(8000)]
    assert timeline.take(Finalized(1, "a", 0)) == Finalized(2, "a", 1250)


def test_gaps_that_follow_each_other_are_one_while_there_is_no_connection() -> None:
    outbox = Outbox()
    outbox.gap(100, "overflow")
    drained(outbox)
    outbox.gap(100, "overflow")
    assert drained(outbox) == [Gap(100, "overflow")]
    outbox.lost()
    outbox.gap(100, "overflow")
    outbox.gap(100, "muted")
    assert drained(outbox) == [Gap(100, "overflow"), Gap(200, "overflow"), Gap(100, "muted")]


def test_no_audio_is_longer_than_the_gateway_takes() -> None:
    outbox = Outbox()
    outbox.audio(bytes(250))
    outbox.audio(bytes(50))
    sent = list(iter(lambda: outbox.next(100), None))
    assert [(place, len(item)) for place, item in sent if isinstance(item, bytes)] == [
        (0, 100),
        (100, 100),
        (200, 50),
        (250, 50),
    ]


def test_a_gateway_that_wants_more_than_there_is_hears_of_a_gap() -> None:
    """Else what it hears would be at another time than it was said."""
    outbox = Outbox()
    outbox.audio(bytes(300))
    drained(outbox)
    outbox.settle(200)
    outbox.rewind(50)
    assert drained(outbox) == [Gap(150, "interrupted"), bytes(100)]
