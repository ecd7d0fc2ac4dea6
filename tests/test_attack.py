"""One attacker of each kind beside somebody who speaks: every byte of theirs is heard once, and of the attacker nothing
is left. How long anybody waits for it is measured elsewhere: `python -m bench.attack`.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress

import pytest

from bench.attackers import WAYS, Attacker, attack
from tests.credentials import Keyring
from tests.fuzz.arena import Arena
from tests.fuzz.doors import bearer
from tests.gateway import Client

FINALS = 6
"""Of the bystander, while the attacker is at work."""
HALF_OPEN = 800
"""More than may wait."""


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return Keyring(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def arena(ring: Keyring) -> Iterator[Arena]:
    pings = {"ping_interval_seconds": 1, "ping_timeout_seconds": 3}  # who has left a flood is noticed by them alone
    settings = {"resume_window_seconds": 0, "max_messages_per_second": 500, **pings, **ring.settings}
    with Arena(bearer(ring.keys["app"]), **settings) as opened:
        yield opened


@pytest.mark.parametrize("name", WAYS)
def test_an_attacker_costs_nobody_a_word(arena: Arena, ring: Keyring, name: str) -> None:
    attacker = Attacker(arena.gateway.port, ring.keys["other"], HALF_OPEN)
    with arena.beside_a_bystander() as client:
        arena.run(_attacked(attack(name, attacker), client))


async def _attacked(work: Coroutine[None, None, None], client: Client) -> None:
    attacking = asyncio.create_task(work)
    enough = len(client.heard("final")) + FINALS
    while len(client.heard("final")) < enough:
        await asyncio.sleep(0.005)
    attacking.cancel()
    with suppress(asyncio.CancelledError):
        await attacking
