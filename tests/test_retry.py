"""When a session's next leg is opened, on a clock that the test moves."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.core.breaker import Breaker, BreakerState
from app.core.recognition import Event, Retrying
from app.speech.errors import Code, Ending, Verdict
from app.speech.retry import Retry

DOWN = Ending(Code.UNAVAILABLE, "down", Verdict.LATER)
OVER = Ending(Code.ABORTED, "over", Verdict.AT_ONCE)


@dataclass(eq=False)
class Timer:
    at: float
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Timers:
    now: float = 100.0
    waiting: list[Timer] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        self.waiting.append(Timer(self.now + delay, callback))
        return self.waiting[-1]

    def move_to(self, end: float) -> None:
        """Whatever is due till then happens at its time."""
        while due := [timer for timer in self.waiting if timer.at <= end]:
            timer = min(due, key=lambda timer: timer.at)
            self.waiting.remove(timer)
            self.now = max(self.now, timer.at)
            if not timer.cancelled:
                timer.callback()
        self.now = end


class Session:
    """A `Retry`, and what came of it. `dice` is 1 at first: the longest backoff, and the widest spread."""

    def __init__(self, breaker: Breaker | None = None, timers: Timers | None = None) -> None:
        self.timers = timers or Timers()
        self.breaker = breaker or Breaker(threshold=20, cool_down=5.0)
        self.events: list[Event] = []
        self.opened: list[float] = []
        self.dice = 1.0
        self.retry = Retry(self.breaker, self.events.append, self._again, timers=self.timers, dice=lambda: self.dice)

    def _again(self) -> None:
        self.opened.append(self.timers.now)


def an_open_breaker(at: float) -> Breaker:
    breaker = Breaker(threshold=1, cool_down=5.0)
    breaker.failed(at)
    return breaker


def test_a_failed_leg_is_followed_after_a_backoff_and_the_client_is_told() -> None:
    session = Session()
    session.retry.after(DOWN, worked=False)
    assert session.retry.waiting
    session.timers.move_to(200.0)
    assert (session.opened, session.retry.waiting) == ([100.5], False)
    assert session.events == [Retrying("Speech-to-Text: UNAVAILABLE: down; audio is kept meanwhile", 500)]


def test_two_legs_that_reached_their_limit_are_followed_at_once_a_third_is_not() -> None:
    session = Session()
    for now in (100.0, 110.0, 120.0):
        session.timers.move_to(now)
        session.retry.after(OVER, worked=False)
    session.timers.move_to(200.0)
    assert session.opened == [100.0, 110.0, 122.0]


def test_what_waits_for_the_breaker_and_then_fails_too_is_one_wait() -> None:
    """A stretch waits since the upstream fails for everybody; then the session's own leg fails."""
    session = Session(an_open_breaker(100.0))
    assert session.retry.must_wait()
    session.timers.move_to(100.0)
    session.retry.after(DOWN, worked=False)
    session.timers.move_to(200.0)
    assert session.opened == [107.5]


def test_a_later_reason_shortens_no_backoff() -> None:
    """The breaker lets everybody through long before the session's own backoff is over."""
    session = Session()
    for _ in range(6):
        session.retry.after(DOWN, worked=False)
    assert session.retry.must_wait(), "what comes meanwhile waits with the others"
    session.retry.after(OVER, worked=False)
    session.timers.move_to(200.0)
    assert session.opened == [110.0]


def test_a_later_failure_makes_the_wait_longer() -> None:
    session = Session()
    session.retry.after(DOWN, worked=False)
    session.timers.move_to(100.4)
    session.retry.after(DOWN, worked=False)
    session.timers.move_to(200.0)
    assert session.opened == [101.4]


def test_one_whose_own_backoff_goes_on_is_not_the_one_that_probes() -> None:
    timers = Timers()
    breaker = an_open_breaker(95.0)
    waits, comes = Session(breaker, timers), Session(breaker, timers)
    waits.retry.after(Ending(Code.RESOURCE_EXHAUSTED, "quota", Verdict.LATER), worked=False)
    timers.move_to(100.0)
    assert not comes.retry.must_wait()


def test_what_any_session_hears_begins_the_count_anew() -> None:
    """One that is well, too."""
    breaker = Breaker(threshold=2, cool_down=5.0)
    fails, hears = Session(breaker), Session(breaker)
    fails.retry.after(DOWN, worked=False)
    hears.retry.answers()
    fails.retry.after(DOWN, worked=False)
    assert breaker.state is BreakerState.CLOSED


def test_nothing_is_opened_once_the_session_is_over() -> None:
    session = Session(an_open_breaker(100.0))
    session.retry.must_wait()
    session.timers.move_to(100.0)
    session.retry.after(DOWN, worked=False)
    told = len(session.events)
    session.retry.close()
    session.retry.after(DOWN, worked=False)
    assert session.retry.must_wait(), "what is not opened yet never will be"
    session.timers.move_to(200.0)
    assert (session.opened, len(session.events)) == ([], told)
