"""The life of one session, without I/O: app/core/session.py and app/core/history.py."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from app.core.errors import SessionError
from app.core.protocol import MAX_FRAME_BYTES, Alternative, AudioMessage, Finalize, Gap, Resume, WordInfo, parse
from app.core.recognition import (
    ActivityTimeout,
    Failed,
    Finished,
    LegEnded,
    Losing,
    Lost,
    Result,
    Settled,
    SpeechActivity,
    Throttled,
)
from app.core.record import Record
from app.core.session import Phase, Session
from app.core.timers import Timers

SECOND = 32_000
START = {"type": "start", "audio": {"encoding": "LINEAR16", "sample_rate_hertz": 16000}, "language_codes": ["en-US"]}


def session(principal: str = "", **start: Any) -> Session:
    config: Any = parse(json.dumps(START | start))
    record = Record(
        session_id="s", principal=principal, config=config, epoch=1, tokens=(), settled=0, last_event=0, opened_at=0.0
    )
    return from_record(record)


def from_record(record: Record, events: Sequence[str] = (), age: float = 0.0) -> Session:
    timers = Timers(idle=60, max_session=600)
    return Session(record, events, timers=timers, window_seconds=10, now=0.0, age=age)


def hear_audio(a_session: Session, seconds: int) -> None:
    for _ in range(seconds):
        a_session.receive_audio(bytes(SECOND))


def due(a_session: Session, kind: str | None = None) -> list[dict[str, Any]]:
    """What is due once the store has all of it."""
    a_session.wrote(a_session.mark())
    return due_unwritten(a_session, kind)


def due_unwritten(a_session: Session, kind: str | None = None) -> list[dict[str, Any]]:
    messages = [json.loads(message) for message in a_session.due()]
    return [message for message in messages if kind is None or message["type"] == kind]


def final(text: str, start_ms: int, end_ms: int, **more: Any) -> Result:
    alternatives = (Alternative(text, 0.9), Alternative(text + "?", 0.1))
    return Result(
        text, start_ms, end_ms, is_final=True, language_code="en-us", channel=1, alternatives=alternatives, **more
    )


def interim(text: str, channel: int = 1) -> Result:
    return Result(text, 0, 100, is_final=False, language_code="en-us", channel=channel, stability=0.5)


# What is due ------------------------------------------------------------------------------------


def test_started_tells_the_whole_config_and_the_limits() -> None:
    a_session = session()
    a_session.started("token", 0)
    started = due(a_session)[0]
    assert started["config"]["enable_automatic_punctuation"] is True
    assert started["limits"] == {
        "max_frame_bytes": 65536,
        "window_bytes": 10 * SECOND,
        "idle_timeout_ms": 60_000,
        "max_session_ms": 600_000,
    }


def test_events_are_numbered_without_a_hole_and_sent_once() -> None:
    a_session = session()
    for i in range(3):
        a_session.receive(final(f"word {i}", i, i + 1))
    assert [(m["event"], m["text"]) for m in due(a_session)] == [(1, "word 0"), (2, "word 1"), (3, "word 2")]
    assert due(a_session) == []


def test_a_returning_reader_only_has_a_smaller_cursor() -> None:
    a_session = session()
    for i in range(3):
        a_session.receive(final(f"word {i}", i, i + 1))
    due(a_session)
    a_session.link.cursor = 1
    assert [m["event"] for m in due(a_session)] == [2, 3]


def test_a_slow_link_loses_interims_never_finals() -> None:
    a_session = session()
    for i in range(5):
        a_session.receive(interim(f"so {i}"))
    a_session.receive(final("so far", 0, 100))
    a_session.receive(interim("and"))
    a_session.receive(interim("and on"))
    assert [(m["type"], m["text"]) for m in due(a_session)] == [("final", "so far"), ("interim", "and on")]


def test_an_interim_replaces_the_one_of_its_channel_only() -> None:
    a_session = session()
    for text, channel in (("a", 1), ("b", 2), ("c", 1)):
        a_session.receive(interim(text, channel))
    assert {(m["channel"], m["text"]) for m in due(a_session)} == {(1, "c"), (2, "b")}


def test_nobody_gets_interims_who_did_not_ask() -> None:
    a_session = session(interim_results=False)
    a_session.receive(interim("x"))
    assert due(a_session) == []


def test_voice_activity_is_told_only_when_asked_for() -> None:
    asked, silent = session(enable_voice_activity_events=True), session()
    for a_session in (asked, silent):
        a_session.receive(SpeechActivity(active=True, at_ms=10))
        a_session.receive(SpeechActivity(active=False, at_ms=20))
    assert due(asked) == [{"type": "speech_started", "at_ms": 10}, {"type": "speech_ended", "at_ms": 20}]
    assert due(silent) == []


def test_alternatives_and_words_come_only_where_they_were_asked_for() -> None:
    plain, full = session(), session(max_alternatives=2)
    plain.receive(final("a", 0, 1))
    full.receive(final("a", 0, 1, words=(WordInfo("a", 0, 1),)))
    assert "alternatives" not in due(plain)[0]
    assert due(full)[0] | {"event": 0} == {
        "type": "final",
        "event": 0,
        "text": "a",
        "start_ms": 0,
        "end_ms": 1,
        "confidence": 0.9,
        "language_code": "en-us",
        "channel": 1,
        "alternatives": [{"text": "a", "confidence": 0.9}, {"text": "a?", "confidence": 0.1}],
        "words": [{"word": "a", "start_ms": 0, "end_ms": 1}],
    }


# Acknowledgement --------------------------------------------------------------------------------


def test_ack_comes_after_the_final_that_it_speaks_of() -> None:
    a_session = session()
    a_session.receive_audio(bytes(SECOND))
    a_session.receive(final("a", 0, 500))
    a_session.receive(Settled(SECOND // 2))
    assert [m["type"] for m in due(a_session)] == ["final", "ack"]


def test_ack_is_cumulative_and_never_goes_back() -> None:
    a_session = session()
    a_session.receive_audio(bytes(SECOND))
    a_session.receive(Settled(SECOND))
    a_session.receive(Settled(SECOND // 2))
    assert due(a_session) == [{"type": "ack", "received": SECOND, "final": SECOND, "window": 10 * SECOND}]


def test_ack_follows_the_audio_at_every_tick() -> None:
    a_session = session()
    a_session.receive_audio(b"ab")
    assert due(a_session) == []
    a_session.tick(1.0)
    assert due(a_session, "ack")[0]["received"] == 2
    a_session.tick(2.0)
    assert due(a_session) == []


# Offsets ----------------------------------------------------------------------------------------


def test_an_overlap_is_trimmed_and_a_hole_is_an_error() -> None:
    a_session = session()
    assert a_session.receive_audio_message(AudioMessage(b"abcd", 0)) == b"abcd"
    assert a_session.receive_audio_message(AudioMessage(b"cdef", 2)) == b"ef"
    assert a_session.receive_audio_message(AudioMessage(b"ab", 0)) == b""
    assert a_session.receive_audio_message(AudioMessage(b"gh")) == b"gh"
    with pytest.raises(SessionError, match="offset 9 leaves a hole: the next byte expected is 8") as error:
        a_session.receive_audio_message(AudioMessage(b"x", 9))
    assert error.value.code == "audio_hole"


def test_a_frame_over_the_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(SessionError, match="65537 bytes is over the limit of 65536"):
        session().receive_audio(bytes(MAX_FRAME_BYTES + 1))


def test_a_gap_moves_the_cursor_and_is_an_event() -> None:
    a_session = session()
    a_session.receive_gap(Gap(SECOND, "overflow"))
    assert a_session.received == SECOND
    assert due(a_session, "gap") == [{"type": "gap", "event": 1, "start_ms": 0, "end_ms": 1000, "reason": "overflow"}]


def test_a_gap_is_told_when_everything_before_it_is_settled() -> None:
    """Else a gateway that goes on with the session would be sent it again, after it was told."""
    a_session = session()
    a_session.receive_audio(bytes(SECOND))
    a_session.receive_gap(Gap(SECOND, "muted"))
    a_session.receive_gap(Gap(SECOND, "muted"))
    assert due(a_session, "gap") == []
    a_session.receive(Settled(SECOND))
    assert due(a_session, "gap") == [
        {"type": "gap", "event": 1, "start_ms": 1000, "end_ms": 3000, "reason": "muted"}
    ], "one gap that goes on is one gap"
    assert a_session.transcript.settled == 3 * SECOND


def test_what_the_client_skipped_in_audio_that_is_lost_is_told_once_and_in_its_place() -> None:
    a_session = session()
    for _ in range(2):
        a_session.receive_audio(bytes(SECOND))
        a_session.receive_gap(Gap(SECOND, "muted"))
    a_session.receive_audio(bytes(SECOND))
    a_session.receive(Losing(0, SECOND // 2))
    a_session.receive(Losing(0, 3 * SECOND))
    a_session.receive(Settled(3 * SECOND))
    a_session.receive(Lost(0, 5 * SECOND))
    gaps = [(gap["start_ms"], gap["end_ms"], gap["reason"]) for gap in due(a_session, "gap")]
    assert gaps == [
        (0, 1000, "upstream"),
        (1000, 2000, "muted"),
        (2000, 3000, "upstream"),
        (3000, 4000, "muted"),
        (4000, 5000, "upstream"),
    ]
    assert a_session.transcript.gap_bytes == 5 * SECOND


def test_no_interim_follows_the_gap_that_it_is_in() -> None:
    a_session = session()
    hear_audio(a_session, 1)
    a_session.receive(interim("so"))
    a_session.receive(Losing(0, SECOND))
    a_session.receive(Lost(0, SECOND))
    assert [m["type"] for m in due(a_session)] == ["gap", "ack"]


# Finalize and stop ------------------------------------------------------------------------------


def test_finalized_comes_once_everything_before_it_is_settled() -> None:
    a_session = session()
    a_session.receive_audio(bytes(SECOND))
    a_session.finalize(Finalize("x"))
    a_session.receive(Settled(SECOND - 2))
    assert due(a_session, "finalized") == []
    a_session.receive(Settled(SECOND))
    assert due(a_session, "finalized") == [{"type": "finalized", "event": 1, "id": "x", "end_ms": 1000}]


def test_stopped_is_the_last_event_and_has_the_sums() -> None:
    a_session = session()
    a_session.receive_audio(bytes(SECOND))
    a_session.receive_gap(Gap(SECOND, "muted"))
    a_session.stop()
    a_session.receive(final("a", 0, 1000))
    a_session.receive(Settled(2 * SECOND))
    assert not a_session.ended, "the bill is still to come"
    a_session.receive(LegEnded(1000))
    a_session.receive(Finished())
    assert due(a_session)[-1] == {
        "type": "stopped",
        "event": 3,
        "audio_ms": 1000,
        "billed_ms": 1000,
        "finals": 1,
        "gap_ms": 1000,
        "upstream_streams": 1,
        "resumes": 0,
        "replayed_ms": 0,
    }
    assert a_session.ended


@pytest.mark.parametrize("again", ["audio", "gap"])
def test_after_stop_no_more_audio_may_come(again: str) -> None:
    """`stop` and `finalize` say nothing new: a client that has resumed does not know whether they were heard."""
    a_session = session()
    a_session.stop()
    assert a_session.takes("keepalive")
    assert not a_session.stop()
    assert not a_session.finalize(Finalize())
    with pytest.raises(SessionError) as error:
        a_session.takes(again)
    assert error.value.code == "bad_order"


def test_while_the_gateway_closes_what_the_client_says_is_ignored() -> None:
    a_session = session()
    a_session.receive(ActivityTimeout())
    assert a_session.phase is Phase.CLOSING
    assert a_session.receive_audio(b"ab") == b""
    assert not a_session.stop()
    assert not a_session.finalize(Finalize())


# Time and failure -------------------------------------------------------------------------------


def test_silence_on_the_socket_is_warned_of_and_then_an_error() -> None:
    a_session = session()
    a_session.tick(44.0)
    assert due(a_session) == []
    a_session.tick(45.0)
    warning = due(a_session)[0]
    assert (warning["code"], warning["in_ms"]) == ("idle", 15_000)
    with pytest.raises(SessionError, match="60 s"):
        a_session.tick(60.0)


def test_any_frame_resets_the_idle_timer() -> None:
    a_session = session()
    a_session.tick(45.0)
    a_session.heard_from_client(50.0)
    a_session.tick(100.0)
    a_session.tick(105.0)
    assert [m["code"] for m in due(a_session)] == ["idle", "idle"]


def quiet_session() -> Session:
    """For which 100 s without audio are too long."""
    a_session = session()
    a_session._timers.silent = 100
    return a_session


def keep_alive(a_session: Session, seconds: range) -> None:
    for now in seconds:
        a_session.heard_from_client(now)
        a_session.tick(now)


def test_keepalives_alone_are_warned_of_and_then_an_error() -> None:
    """Once, though each of them resets the idle timer."""
    a_session = quiet_session()
    keep_alive(a_session, range(0, 75, 5))
    assert due(a_session) == []
    keep_alive(a_session, range(75, 100, 5))
    assert [(m["code"], m["in_ms"]) for m in due(a_session, "warning")] == [("idle", 25_000)]
    with pytest.raises(SessionError, match="no audio and no gap for 100 s"):
        keep_alive(a_session, range(100, 105))


def test_audio_and_gaps_reset_the_silent_timer_and_an_empty_frame_does_not() -> None:
    a_session = quiet_session()
    keep_alive(a_session, range(0, 95, 5))
    a_session.receive_audio(bytes(2))
    keep_alive(a_session, range(95, 190, 5))
    a_session.receive_gap(Gap(2, "muted"))
    keep_alive(a_session, range(190, 285, 5))
    a_session.receive_audio(b"")
    with pytest.raises(SessionError, match="no audio and no gap for 100 s"):
        keep_alive(a_session, range(285, 300, 5))


def test_a_client_that_waits_for_us_or_is_away_is_not_silent() -> None:
    a_session = quiet_session()
    hear_audio(a_session, 10)
    keep_alive(a_session, range(0, 500, 5))
    a_session.receive(Settled(10 * SECOND))
    keep_alive(a_session, range(500, 595, 5))
    a_session.waits(595)
    keep_alive(a_session, range(595, 690, 5))
    a_session.detach(690)
    a_session.tick(900)
    a_session.resume(Resume("s", "token", 0), "next", 901)
    keep_alive(a_session, range(901, 990, 5))
    with pytest.raises(SessionError, match="no audio and no gap for 100 s"):
        keep_alive(a_session, range(990, 1010, 5))


def test_a_client_that_has_used_up_its_window_waits_for_us_and_is_not_idle() -> None:
    a_session = session()
    for _ in range(10):
        a_session.receive_audio(bytes(SECOND))
    a_session.tick(500.0)
    a_session.receive(Settled(8 * SECOND))
    a_session.tick(559.0)
    with pytest.raises(SessionError, match="no frame for 60 s"):
        a_session.tick(560.0)


def test_after_stop_the_client_may_be_silent_for_as_long_as_the_last_finals_take() -> None:
    a_session = session()
    a_session.stop()
    a_session.tick(3000.0)
    assert [m["code"] for m in due(a_session, "warning")] == ["session_limit"]


def test_the_longest_session_is_warned_of_and_then_closed() -> None:
    a_session = session()
    a_session.heard_from_client(545.0)
    a_session.tick(545.0)
    assert due(a_session)[0]["code"] == "session_limit"
    assert not a_session.is_too_old(599.0)
    assert a_session.is_too_old(600.0)


def test_throttle_is_told() -> None:
    a_session = session()
    a_session.receive(Throttled(active=True, queued_ms=2000))
    assert due(a_session) == [{"type": "throttle", "state": "on", "queued_ms": 2000}]


def test_who_comes_back_is_told_how_fast_it_may_be() -> None:
    """It was away when that changed."""
    a_session = session()
    a_session.started("first", 1000)
    a_session.detach(5.0)
    a_session.receive(Throttled(active=True, queued_ms=2000))
    a_session.receive(Throttled(active=False, queued_ms=0))
    due(a_session)
    a_session.resume(resume("first"), "second", 6.0)
    assert due(a_session)[1] == {"type": "throttle", "state": "off", "queued_ms": 0}


def test_the_first_failure_is_told_after_what_was_heard() -> None:
    a_session = session()
    a_session.receive(final("a", 0, 1))
    a_session.receive(Failed(SessionError("upstream_unavailable", "gone", retry_after_ms=1000)))
    a_session.fail(SessionError("internal", "later"))
    messages = due(a_session)
    assert [m["type"] for m in messages] == ["final", "error"]
    assert messages[-1] == {
        "type": "error",
        "code": "upstream_unavailable",
        "message": "gone",
        "retryable": True,
        "retry_after_ms": 1000,
        "session_id": "s",
    }


def test_no_failure_undoes_an_ended_session() -> None:
    a_session = session()
    a_session.stop()
    a_session.receive(Finished())
    a_session.fail(SessionError("internal", "too late"))
    assert a_session.error is None


def test_nothing_follows_an_error() -> None:
    a_session = session()
    a_session.receive_audio(bytes(SECOND))
    a_session.stop()
    a_session.receive(Failed(SessionError("upstream_unavailable", "gone")))
    a_session.receive(Settled(SECOND))
    a_session.receive(Finished())
    assert [m["type"] for m in due(a_session)] == ["error"]


def test_finalize_without_end_is_refused() -> None:
    a_session = session()
    a_session.receive_audio(bytes(SECOND))
    for _ in range(1000):
        a_session.finalize(Finalize())
    with pytest.raises(SessionError, match="`finalize`: 1000 wait"):
        a_session.finalize(Finalize())


# Links come and go ----------------------------------------------------------------------------


def resume(token: str, last_event: int = 0) -> Resume:
    return Resume("s", token, last_event)


def test_a_new_link_gets_what_the_old_one_had_not() -> None:
    a_session = session()
    a_session.started("first", 1000)
    a_session.receive_audio(bytes(SECOND))
    for i in range(3):
        a_session.receive(final(f"word {i}", i, i + 1))
    due(a_session)
    a_session.detach(5.0)
    a_session.receive(final("word 3", 3, 4))
    a_session.check_resume(resume("first", 2), "")
    a_session.resume(resume("first", 2), "second", 6.0)
    resumed, *events = due(a_session)
    assert resumed == {"type": "resumed", "offset": SECOND, "resume_token": "second", "replayed": 2}
    assert [message["event"] for message in events] == [3, 4]


def test_what_is_for_the_moment_is_not_kept_for_a_client_that_is_away() -> None:
    a_session = session(enable_voice_activity_events=True)
    a_session.started("first", 1000)
    due(a_session)
    a_session.detach(5.0)
    a_session.receive(SpeechActivity(active=True, at_ms=10))
    a_session.resume(resume("first"), "second", 6.0)
    assert [message["type"] for message in due(a_session)] == ["resumed"]


def test_a_resume_that_comes_twice_takes_no_token_from_the_client() -> None:
    a_session = session()
    a_session.started("first", 1000)
    a_session.resume(resume("first"), "the client's", 1.0)
    a_session.resume(resume("first"), "nobody's", 1.0)
    a_session.check_resume(resume("the client's"), "")
    a_session.resume(resume("the client's"), "newest", 2.0)
    a_session.heard_from_client(3.0)
    for dead in ("first", "the client's", "nobody's"):
        with pytest.raises(SessionError):
            a_session.check_resume(resume(dead), "")


@pytest.mark.parametrize("token", ["", "firs", "first ", "FIRST", "second"])
def test_only_the_newest_token_admits(token: str) -> None:
    a_session = session()
    a_session.started("old", 1000)
    a_session.resume(resume("old"), "first", 1.0)
    a_session.check_resume(resume("old"), "")  # `resumed` may have been lost on its way
    a_session.heard_from_client(2.0)
    a_session.check_resume(resume("first"), "")
    for wrong in (token, "old"):
        with pytest.raises(SessionError) as error:
            a_session.check_resume(resume(wrong), "")
        assert error.value.code == "session_unknown"


def test_a_client_that_is_away_is_not_idle() -> None:
    a_session = session()
    a_session.detach(0.0)
    a_session.tick(1000.0)
    a_session.resume(resume(""), "second", 1000.0)
    with pytest.raises(SessionError) as error:
        a_session.tick(1061.0)
    assert error.value.code == "idle_timeout"


# What the store has ---------------------------------------------------------------------------


def test_what_is_durable_is_told_when_the_store_has_it() -> None:
    a_session = session()
    a_session.receive_audio(bytes(SECOND))
    a_session.receive(final("so", 0, 1000))
    a_session.receive(Settled(SECOND))
    a_session.receive(interim("and"))
    before = a_session.mark()
    a_session.receive(final("and on", 1000, 2000))
    assert due_unwritten(a_session) == [], "not even an interim, which would come before the final before it"
    a_session.wrote(before)
    assert [(m["type"], m.get("text"), m.get("final")) for m in due_unwritten(a_session)] == [
        ("final", "so", None),
        ("ack", None, SECOND),
    ]
    a_session.wrote(a_session.mark())
    assert [m["text"] for m in due_unwritten(a_session)] == ["and on"]


def test_the_store_gets_what_it_lacks() -> None:
    a_session = session()
    for i in range(3):
        a_session.receive(final(f"word {i}", i, i + 1))
    record, events = a_session.record()
    assert (record.last_event, len(events)) == (3, 3)
    a_session.wrote(a_session.mark())
    a_session.receive(final("word 3", 3, 4))
    assert not a_session.is_written
    assert len(a_session.record()[1]) == 1
    a_session.lacks_events(0)
    assert len(a_session.record()[1]) == 4, "the store has lost its memory"


def test_without_the_store_the_session_goes_on_and_says_so() -> None:
    a_session = session()
    due(a_session)
    a_session.receive(final("so", 0, 1))
    a_session.goes_unwritten()
    a_session.goes_unwritten()
    told = due_unwritten(a_session)
    assert [(m["type"], m.get("code")) for m in told] == [("warning", "not_resumable"), ("final", None)]
    a_session.wrote(a_session.mark())
    assert [m["code"] for m in due_unwritten(a_session)] == ["resumable"]


def test_while_the_store_has_lost_its_memory_no_ack_is_ahead_of_its_final() -> None:
    a_session = session()
    a_session.receive_audio(bytes(SECOND))
    a_session.receive(final("so", 0, 1000))
    a_session.receive(Settled(SECOND))
    a_session.wrote(a_session.mark())
    a_session.lacks_events(0)
    a_session.tick(1.0)
    assert [m.get("final") for m in due_unwritten(a_session)] == [0]
    assert [(m["type"], m.get("final")) for m in due(a_session)] == [("final", None), ("ack", SECOND)]
    a_session.lacks_events(0)
    a_session.tick(2.0)
    assert due_unwritten(a_session) == [], "nor does it go back"


def test_the_session_is_resumable_again_when_the_store_has_all_that_was_told_without_it() -> None:
    a_session = session()
    a_session.goes_unwritten()
    before = a_session.mark()
    a_session.receive_audio(bytes(SECOND))
    a_session.receive(final("so", 0, 1000))
    a_session.receive(Settled(SECOND))
    assert [m["type"] for m in due_unwritten(a_session)] == ["warning", "final", "ack"]
    a_session.wrote(before)
    assert due_unwritten(a_session) == []
    a_session.wrote(a_session.mark())
    assert [m["code"] for m in due_unwritten(a_session)] == ["resumable"]


def test_who_comes_back_while_the_store_is_away_is_told_so() -> None:
    a_session = session()
    a_session.detach(1.0)
    a_session.goes_unwritten()
    a_session.receive(final("so", 0, 1))
    a_session.resume(resume(""), "second", 2.0)
    told = due_unwritten(a_session)
    assert [(m["type"], m.get("code")) for m in told] == [
        ("resumed", None),
        ("warning", "not_resumable"),
        ("final", None),
    ]


def test_a_session_goes_on_elsewhere_as_its_record_says() -> None:
    here = session()
    here.started("first", 1000)
    hear_audio(here, 3)
    here.receive(final("so", 0, 1000))
    here.receive(Settled(SECOND))
    here.receive_gap(Gap(SECOND, "muted"))
    here.receive(LegEnded(1000))
    record, events = here.record()
    there = from_record(record, events)
    there.check_resume(resume("first", 0), "")
    there.resume(resume("first", 0), "second", 1.0)
    resumed, so, *_ = due(there)
    assert resumed == {"type": "resumed", "offset": SECOND, "resume_token": "second", "replayed": 1}
    assert (so["event"], so["text"]) == (1, "so")
    hear_audio(there, 2)
    there.receive_gap(Gap(SECOND, "muted"))
    there.stop()
    there.receive(LegEnded(2000))
    there.receive(Settled(4 * SECOND))
    there.receive(Finished())
    gap, stopped = due(there)
    assert (gap["event"], gap["start_ms"], gap["end_ms"]) == (2, 3000, 4000), "told once, though it was said twice"
    assert {name: stopped[name] for name in ("event", "audio_ms", "billed_ms", "finals", "gap_ms", "resumes")} == {
        "event": 3,
        "audio_ms": 3000,
        "billed_ms": 3000,
        "finals": 1,
        "gap_ms": 1000,
        "resumes": 1,
    }


def test_what_was_being_lost_is_a_gap_elsewhere() -> None:
    here = session()
    hear_audio(here, 3)
    here.receive(Losing(0, SECOND))
    here.receive(Settled(SECOND))
    there = from_record(*here.record())
    assert due(there, "gap") == [{"type": "gap", "event": 1, "start_ms": 0, "end_ms": 1000, "reason": "upstream"}], (
        "the client may have forgotten that audio"
    )
    assert there.received == SECOND


def test_what_was_being_lost_and_is_still_kept_by_the_client_is_heard_elsewhere() -> None:
    here = session()
    hear_audio(here, 3)
    here.receive(Losing(0, SECOND))
    here.receive(Settled(SECOND))
    here.receive(Losing(0, 2 * SECOND))
    there = from_record(*here.record())
    assert [gap["end_ms"] for gap in due(there, "gap")] == [1000]
    assert there.received == SECOND
    nothing_settled = session()
    nothing_settled.receive(Losing(0, SECOND))
    assert due(from_record(*nothing_settled.record()), "gap") == []


def test_who_did_not_hear_stopped_may_come_back_for_it() -> None:
    here = session()
    here.started("first", 1000)
    here.stop()
    here.receive(Finished())
    record, events = here.record()
    assert (record.stopped, record.over) == (True, None)
    there = from_record(record, events)
    there.resume(resume("first"), "second", 1.0)
    assert [m["type"] for m in due(there)] == ["resumed", "stopped"]
    there.delivered = True
    assert there.record()[0].over == "stopped"


def test_a_failure_that_may_pass_ends_no_session() -> None:
    for code, over in (
        ("upstream_unavailable", None),
        ("internal", None),
        ("restarting", None),
        ("bad_order", "bad_order"),
    ):
        a_session = session()
        a_session.fail(SessionError(code, "so it is"))
        assert a_session.record()[0].over == over
        assert due(a_session)[-1]["code"] == code


def test_what_another_gateway_has_is_told_nothing_but_that() -> None:
    a_session = session()
    a_session.started("first", 1000)
    a_session.receive(final("so", 0, 1))
    a_session.fence()
    assert [m["code"] for m in due_unwritten(a_session)] == ["superseded"]


def test_the_longest_time_counts_from_the_very_beginning() -> None:
    assert not from_record(session().record()[0], age=599.0).is_too_old(0.0)
    assert from_record(session().record()[0], age=600.0).is_too_old(0.0)


def test_a_resume_token_is_another_one_for_anybody_else() -> None:
    """Who has stolen it, but not the credentials of who opened the session, learns nothing from it."""
    a_session = session(principal="somebody")
    a_session.started("first", 0)
    a_session.check_resume(resume("first"), "somebody")
    for other in ("", "somebody else", "somebody\0first"):
        with pytest.raises(SessionError, match="not known here, or not with this token"):
            a_session.check_resume(resume("first"), other)


# A budget is used up ----------------------------------------------------------------------------


def used_up() -> SessionError:
    return SessionError("budget_exhausted", "all of it is used up", retry_after_ms=1000)


def test_what_was_paid_for_becomes_final_before_the_error() -> None:
    one = session()
    hear_audio(one, 2)
    one.exhaust(used_up(), SECOND // 2)
    assert (one.phase, one.ended) == (Phase.CLOSING, False)
    assert one.receive_audio(bytes(SECOND)) == b"", "what comes now is ignored"
    one.receive(final("one", 0, 1500))
    one.receive(Finished())
    one.receive(final("never", 1500, 2000))
    told = due(one)
    kinds = [message["type"] for message in told]
    assert [kind for kind in kinds if kind != "ack"] == ["final", "error"]
    assert (told[-1]["code"], told[-1]["retry_after_ms"]) == ("budget_exhausted", 1000)
    assert told[-2]["final"] == 3 * SECOND // 2, "no more than was heard"
    assert (one.over, one.how_it_ended) == ("budget_exhausted", "budget_exhausted")


def test_what_was_acknowledged_and_goes_unheard_does_not_go_back() -> None:
    one = session()
    hear_audio(one, 2)
    one.tick(1.0)
    assert due(one, "ack")[-1]["received"] == 2 * SECOND
    one.exhaust(used_up(), SECOND)
    one.receive(Settled(SECOND))
    assert due(one, "ack") == [{"type": "ack", "received": 2 * SECOND, "final": SECOND, "window": 10 * SECOND}]


def test_a_client_is_warned_of_its_budget_once_and_when_it_is_there() -> None:
    one = session()
    one.detach(0.0)
    one.warn_of_budget("little is left")
    one.link.attached = True
    for _ in range(2):
        one.warn_of_budget("little is left")
    assert due(one, "warning") == [{"type": "warning", "code": "budget", "message": "little is left"}]
