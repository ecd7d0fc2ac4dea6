"""What counts as a failure of the upstream for everybody, and what proves that it is back: a recognizer and a breaker
that one failure opens."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from app.core.breaker import Breaker, BreakerState
from app.core.protocol import Audio, SessionConfig
from app.core.recognition import Event, LegEnded
from app.speech import leg as leg_module
from app.speech.google import GoogleRecognizer
from app.speech.limits import LegLimits
from app.speech.pool import Pool
from app.speech.v2 import SpeechV2
from tests.test_pool import a_pool
from tests.upstream import Call, Script, ScriptedUpstream

CHUNK = bytes(3200)
OPENS, STAYS_CLOSED = BreakerState.OPEN, BreakerState.CLOSED


class Session:
    """`ended` has one for each leg that ended."""

    def __init__(self, pool: Pool, breaker: Breaker, answer: float) -> None:
        self.ended: asyncio.Queue[LegEnded] = asyncio.Queue()
        self.recognizer = GoogleRecognizer(
            SessionConfig(audio=Audio("LINEAR16", 16_000, 1), language_codes=["en-US"]),
            dialect=SpeechV2(project="p", location="global"),
            pool=pool,
            breaker=breaker,
            limits=LegLimits(speed=1000, answer=answer),
            gate=None,
            listen=self._hear,
        )

    def _hear(self, event: Event) -> None:
        if isinstance(event, LegEnded):
            self.ended.put_nowait(event)

    def tick(self) -> None:
        self.recognizer.tick(asyncio.get_running_loop().time())

    async def speak_until(self, done: Callable[[], bool]) -> None:
        while not done():
            await self.recognizer.send(CHUNK)
            self.tick()
            await asyncio.sleep(0.005)


@asynccontextmanager
async def a_session(upstream: ScriptedUpstream, breaker: Breaker, *, answer: float = 600.0) -> AsyncIterator[Session]:
    async with a_pool(upstream) as pool:
        session = Session(pool, breaker, answer)
        yield session
        await session.recognizer.close()


def ends(*codes: grpc.StatusCode, says: bool = False, takes: int = 1) -> Script:
    """One call after the other ends so, after `takes` chunks of audio, and having said something or nothing."""
    left = list(codes)

    async def script(call: Call) -> AsyncIterator[object]:
        async for _ in call.hear():
            if len(call.audio) >= takes * len(CHUNK) and left:
                if says:
                    yield call.interim("a", end=1600)
                if (code := left.pop(0)) is grpc.StatusCode.OK:
                    return
                await call.context.abort(code, "so")

    return script


@pytest.mark.parametrize(
    ("code", "then"),
    [
        (grpc.StatusCode.UNAVAILABLE, OPENS),
        (grpc.StatusCode.INTERNAL, OPENS),
        (grpc.StatusCode.ABORTED, OPENS),
        (grpc.StatusCode.OUT_OF_RANGE, OPENS),
        (grpc.StatusCode.OK, OPENS),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, STAYS_CLOSED),
    ],
)
async def test_a_leg_that_ends_without_a_word_counts(
    upstream: ScriptedUpstream, code: grpc.StatusCode, then: BreakerState
) -> None:
    upstream.script = ends(code)
    breaker = Breaker(threshold=1, cool_down=600.0)
    async with a_session(upstream, breaker) as session:
        await session.recognizer.send(CHUNK)
        assert (await session.ended.get()).code == code.name
        assert breaker.state is then


async def test_so_does_one_that_owes_an_answer_and_is_given_up(upstream: ScriptedUpstream) -> None:
    async def hears_on(call: Call) -> AsyncIterator[object]:
        async for _ in call.hear():
            pass
        await asyncio.Event().wait()
        yield None

    upstream.script = hears_on
    breaker = Breaker(threshold=1, cool_down=600.0)
    async with a_session(upstream, breaker, answer=0.0) as session:
        await session.recognizer.send(CHUNK)
        await upstream.called(1)
        await session.recognizer.finalize()
        while session.ended.empty():
            session.tick()
            await asyncio.sleep(0.005)
        assert breaker.state is OPENS


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED])
async def test_one_that_said_something_does_not(upstream: ScriptedUpstream, code: grpc.StatusCode) -> None:
    """A connection that is lost ends every leg on it: no sign that the upstream fails."""
    upstream.script = ends(code, says=True)
    breaker = Breaker(threshold=1, cool_down=600.0)
    async with a_session(upstream, breaker) as session:
        await session.recognizer.send(CHUNK)
        await session.ended.get()
        assert breaker.state is STAYS_CLOSED


async def test_one_that_took_audio_for_a_while_counts_only_as_the_second_in_a_row(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence says nothing, so a leg that heard silence may have been well."""
    monkeypatch.setattr(leg_module, "STEADY_SECONDS", 0.0)
    upstream.script = ends(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, takes=2)
    breaker = Breaker(threshold=1, cool_down=600.0)
    async with a_session(upstream, breaker) as session:
        await session.speak_until(lambda: not session.ended.empty())
        assert breaker.state is STAYS_CLOSED
        await session.speak_until(lambda: session.ended.qsize() == 2)
        assert breaker.state is OPENS


async def test_a_probe_that_takes_audio_closes_it_though_nothing_is_said(upstream: ScriptedUpstream) -> None:
    """Who comes back into silence holds up nobody."""
    upstream.script = ends(grpc.StatusCode.UNAVAILABLE)
    breaker = Breaker(threshold=1, cool_down=0.05)
    async with a_session(upstream, breaker) as session:
        await session.speak_until(lambda: not session.ended.empty())
        assert breaker.state is not STAYS_CLOSED
        await session.speak_until(lambda: breaker.state is STAYS_CLOSED)
        assert upstream.open_calls == 1


async def test_a_leg_from_before_proves_nothing(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on in silence while no new one gets through."""
    monkeypatch.setattr(leg_module, "STEADY_SECONDS", 0.0)
    heard = bytearray()

    async def listens(call: Call) -> AsyncIterator[object]:
        async for chunk in call.hear():
            heard.extend(chunk)
        yield call.billed(1)

    upstream.script = listens
    breaker = Breaker(threshold=1, cool_down=0.0)
    async with a_session(upstream, breaker) as session:
        await session.speak_until(lambda: len(heard) > 0)
        breaker.failed(asyncio.get_running_loop().time())
        breaker.delay(asyncio.get_running_loop().time())
        before = len(heard)
        await session.speak_until(lambda: len(heard) > before)
        assert breaker.state is BreakerState.PROBING
