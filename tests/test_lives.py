"""Hundreds of random lives: tests/lives.py. `python -m bench.lives` has more of them."""

import pytest

from tests.lives import LIMITS, live_all


@pytest.mark.parametrize(
    ("seeds", "limits"),
    [(range(100), "long legs"), (range(100, 200), "short legs"), (range(200, 240), "short utterances")],
)
@pytest.mark.parametrize(("grpc", "turn"), [("core", 0), ("asyncio", 1)])
async def test_every_sample_of_a_random_life_is_heard_once(seeds: range, limits: str, grpc: str, turn: int) -> None:
    for life in await live_all(seeds[turn::2], LIMITS[limits], grpc):
        if isinstance(life, AssertionError):
            raise life
