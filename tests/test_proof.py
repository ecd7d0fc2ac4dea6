"""The short form of `make prove`: real speech, cut and failed in every way, comes back word for word.

Each run has a gateway and an emulator of its own, in processes of their own. What is compared depends on no clock: a
final depends on its audio alone, wherever a stream began.
"""

import asyncio

import pytest

from tests.speech_files import sample

pytest.importorskip("onnxruntime")

from bench.compared import Compared
from bench.runs import Run
from bench.transcription import Plan, transcribe_elsewhere

MINUTES = 44 / 60
SPEED = 2
AT_A_TIME = 2
"""A recognizer that falls far behind proves nothing."""
PLANS = (
    Plan("uninterrupted", MINUTES, SPEED, own=True),
    Plan("legs of 8 s", MINUTES, SPEED, 8, own=True),
    Plan("legs of 8 s, faults", MINUTES, SPEED, 8, ("every-kind",), 1, own=True),
    Plan("upstream away for 20 s", MINUTES, SPEED, down_seconds=20, own=True),
)


@pytest.mark.skipif(sample() is None, reason="the recognizer's package has no recording")
@pytest.mark.timeout(1200)
async def test_no_word_is_lost_and_none_is_told_twice() -> None:
    """With legs of 8 s, with faults of every kind, with both, and with the upstream away in the middle of speech."""
    turn = asyncio.Semaphore(AT_A_TIME)

    async def transcribe(plan: Plan) -> Run:
        async with turn:
            return await transcribe_elsewhere(plan)

    base, *others = await asyncio.gather(*[transcribe(plan) for plan in PLANS])
    assert len(base.words) > 100
    assert base.wrong() == []
    for run in others:
        compared = Compared.to(base, run)
        assert compared.good, compared
        assert run.streams > base.streams, run.name
