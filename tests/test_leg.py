"""One leg by itself, over a call that does as it is told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.core.audio import AudioFormat, Pace
from app.core.handover import Stretch
from app.core.protocol import Audio, SessionConfig
from app.speech.activity import DOUBTS, MUTE_DOUBTS, Activity
from app.speech.change import Change, Changes
from app.speech.leg import Leg
from app.speech.limits import LegLimits
from app.speech.responses import ResponseReader
from app.speech.v2 import SpeechV2

CONFIG = SessionConfig(audio=Audio("LINEAR16", 16_000), language_codes=["en-US"])
DIALECT = SpeechV2(project="p", location="global")


class Lease:
    """A place whose call ends well: when it was asked to, or at once."""

    def __init__(self, *, waits: bool) -> None:
        self.client: Any = self
        self._waits = waits

    async def streaming_recognize(self, requests: AsyncIterator[Any], **_: Any) -> AsyncIterator[Any]:
        return self._responses(requests)

    async def _responses(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        for _ in range(2):  # its config, and all of its audio
            await anext(requests)
        if self._waits:
            async for request in requests:
                yield request

    def answers(self) -> None: ...
    def suspect(self) -> None: ...
    def release(self) -> None: ...


@pytest.mark.parametrize("asked", [True, False])
async def test_a_leg_is_complete_only_if_it_was_asked_to_end(asked: bool) -> None:
    """All that it has to hear went up, and its call ends well in both; unasked it has not said its last words."""
    leg = Leg(
        stretch := Stretch(0),
        start=0,
        replays_until=0,
        now=0.0,
        config=CONFIG,
        dialect=DIALECT,
        reader=ResponseReader(DIALECT.names, CONFIG, AudioFormat.of(CONFIG.audio), 0, {}),
        kept=lambda at: b"" if at else bytes(3200),
        backlog_bytes=0,
        progress=lambda: None,
        pace=Pace(1e9, 1e9),
        queue_chunks=1,
        hold=False,
    )
    ended = asyncio.Event()

    async def acquire() -> Any:
        return Lease(waits=asked)

    leg.open(acquire, lambda *_: None, lambda _: ended.set())
    if asked:
        stretch.end = 3200
        leg.half_close(0.0)
    await ended.wait()
    stretch.end = 3200
    leg.half_close(0.0)  # too late where it has ended
    assert leg.is_complete is asked
    await leg.close()


def test_who_says_nothing_is_likelier_to_be_dead_than_to_hear_noise() -> None:
    """Others have told of speech there. Legs that tell of it again, and have no words, hear noise."""
    telling, mute, heard = Activity(CONFIG), Activity(CONFIG), Activity(CONFIG)
    for _ in range(DOUBTS):
        telling.doubt(mute=False)
        mute.doubt(mute=True)
        heard.doubt(mute=True)
    heard.believe()
    assert [each.is_noise for each in (telling, mute, heard)] == [True, False, False]
    assert [each.is_doubtful for each in (telling, mute, heard)] == [True, True, False]
    for _ in range(MUTE_DOUBTS - DOUBTS):
        mute.doubt(mute=True)
    assert mute.is_noise


@pytest.mark.parametrize(
    ("noise", "silent", "change"),
    [(False, 60.0, Change.CUT), (True, 1.0, Change.CUT), (True, 60.0, Change.GUESS)],
)
def test_what_is_too_long_is_cut_unless_the_leg_may_be_dead(noise: bool, silent: float, change: Change) -> None:
    """In noise nobody gives up a leg that says nothing. Its last words will tell, or that there are none."""
    changes, limits = Changes(LegLimits(), "LINEAR16"), LegLimits()
    changes.keep(0)
    due = changes.due(b"", age=100.0, silent=silent, unsettled=limits.utterance, settled=0, quiet=noise, noise=noise)
    assert due is change
