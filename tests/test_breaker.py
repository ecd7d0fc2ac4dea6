"""When the upstream is tried again: each session's backoff, and the breaker that all sessions share."""

from app.core.breaker import Backoff, Breaker, BreakerState


def open_breaker(sessions: int = 300) -> Breaker:
    """It has seen `sessions` failures at second 100."""
    breaker = Breaker(threshold=20, cool_down=5.0)
    for _ in range(sessions):
        breaker.failed(100.0)
    return breaker


def test_it_opens_at_so_many_failures_in_a_row() -> None:
    breaker = Breaker(threshold=3, cool_down=5.0)
    breaker.failed(0.0)
    breaker.failed(0.0)
    breaker.succeeded()
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert breaker.delay(0.0) == 0.0
    breaker.failed(0.0)
    assert (breaker.state, breaker.delay(2.0)) == (BreakerState.OPEN, 3.0)


def test_of_300_sessions_one_finds_out_whether_the_upstream_is_back() -> None:
    breaker = open_breaker()
    assert all(breaker.delay(104.9) > 0 for _ in range(300))
    assert [breaker.delay(105.0) for _ in range(300)] == [0.0] + [5.0] * 299


def test_the_others_follow_once_it_is() -> None:
    breaker = open_breaker()
    breaker.delay(105.0)
    breaker.succeeded()
    assert [breaker.delay(105.1) for _ in range(299)] == [0.0] * 299


def test_if_it_is_not_everybody_waits_anew() -> None:
    breaker = open_breaker()
    breaker.delay(105.0)
    breaker.failed(107.0)
    assert breaker.delay(108.0) == 4.0


def test_a_probe_that_nobody_hears_of_again_does_not_stop_the_others() -> None:
    breaker = open_breaker()
    assert [breaker.delay(105.0), breaker.delay(110.0)] == [0.0, 0.0]


def test_a_probe_that_goes_on_is_enough_where_nothing_can_be_said() -> None:
    breaker = open_breaker()
    breaker.bears(since=105.0)
    assert breaker.delay(104.0) == 1.0, "nobody probes yet"
    breaker.delay(105.0)
    breaker.delay(110.0)
    breaker.bears(since=99.0)
    assert breaker.delay(110.0) > 0, "a call from before proves nothing"
    breaker.bears(since=105.0)
    assert breaker.delay(110.1) == 0.0


def test_calls_that_go_on_begin_no_count_anew() -> None:
    breaker = Breaker(threshold=2, cool_down=5.0)
    breaker.failed(0.0)
    breaker.bears(since=0.0)
    breaker.failed(0.0)
    assert breaker.state is BreakerState.OPEN


def test_it_says_when_it_tries_again_and_nothing_once_somebody_may() -> None:
    breaker = open_breaker()
    assert breaker.says(101.5) == "300 failures in a row, the next try in 3.5 s"
    assert breaker.says(105.0) is None
    breaker.succeeded()
    assert breaker.says(101.5) is None


def test_a_session_waits_longer_from_failure_to_failure_up_to_the_cap() -> None:
    backoff = Backoff(base=0.25, cap=10.0)
    assert [backoff.next(lambda: 1.0) for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff.next(lambda: 0.0) == 0.0
    backoff.reset()
    assert backoff.next(lambda: 1.0) == 0.5


def test_years_of_failures_overflow_nothing() -> None:
    backoff = Backoff(base=0.25, cap=10.0)
    backoff.failures = 100_000
    assert backoff.next(lambda: 1.0) == 10.0
