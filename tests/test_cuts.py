"""The short form of `python -m bench.cuts`: real speech through a network that breaks in every way, to two gateways of
which one is killed, comes back word for word.
"""

import asyncio

import pytest

from tests.redis_server import BINARY
from tests.speech_files import sample

pytest.importorskip("onnxruntime")

from bench.compared import Compared
from bench.cuts import travel
from bench.misfortunes import Misfortune
from bench.transcription import Plan, transcribe_elsewhere

MINUTES = 20 / 60
NETWORK = (
    Misfortune(1.5, "within a frame", dice=0.2),
    Misfortune(4, "black hole", 1.5, dice=0.9),
    Misfortune(7, "half-open"),
    Misfortune(9.5, "reset"),
    Misfortune(12, "offline", 1.5),
    Misfortune(16, "close"),
    Misfortune(17.5, "within a frame", dice=0.7),
)
PROCESSES = (Misfortune(5.5, "kill"),)


@pytest.mark.skipif(sample() is None, reason="the recognizer's package has no recording")
@pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
@pytest.mark.timeout(1200)
async def test_no_word_is_lost_to_the_network_or_with_a_gateway() -> None:
    """A word that was final may not be told twice, either; event numbers go on, and no gap is told."""
    base, journey = await asyncio.gather(
        transcribe_elsewhere(Plan("uninterrupted", MINUTES, own=True)),
        travel(Plan("cut", MINUTES, own=True), [NETWORK, PROCESSES]),
    )
    assert len(base.words) > 30
    compared = Compared.to(base, journey.run, journey.world.wrong)
    assert compared.good, (compared, journey.world.notes)
    assert journey.world.counts.total() == len(NETWORK) + len(PROCESSES)
    assert journey.resumes >= len(PROCESSES) + 4
