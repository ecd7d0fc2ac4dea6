"""Hundreds of random lives: tests/lives.py. `python -m bench.lives` has more of them."""

import asyncio

import pytest

from tests.gateway import run_gateway
from tests.lives import live, upstream_of_lives
from tests.upstream import ScriptedUpstream

AT_A_TIME = 20


@pytest.mark.parametrize(
    ("seeds", "limits"),
    [
        (range(100), {}),
        (range(100, 200), {"leg_soft_limit_seconds": 0.05, "leg_hard_limit_seconds": 0.2}),
        (range(200, 240), {"leg_soft_limit_seconds": 0.001, "max_utterance_seconds": 1, "leg_quiet_seconds": 1}),
    ],
    ids=["long legs", "short legs", "short utterances"],
)
async def test_every_sample_of_a_random_life_is_heard_once(seeds: range, limits: dict[str, float]) -> None:
    async with ScriptedUpstream(upstream_of_lives()) as upstream:
        async with run_gateway(upstream=f"grpc://{upstream.address}", **limits) as gateway:
            turn = asyncio.Semaphore(AT_A_TIME)

            async def one(seed: int) -> None:
                async with turn:
                    await live(gateway, seed)

            await asyncio.gather(*[one(seed) for seed in seeds])
        assert upstream.open_calls == 0
