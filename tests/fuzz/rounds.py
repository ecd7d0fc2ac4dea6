"""Rounds of visits. Each begins with a new bystander and ends with nothing left; between them memory is compared."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.credentials import Keyring
from tests.fuzz.arena import SLACK, Arena, census
from tests.fuzz.doors import NO_DOOR, Door, bearer, doors, upgrades
from tests.fuzz.frames import VISITS
from tests.test_bad_input import LEFT_SECONDS

PER_ROUND = 500
Game = Callable[[], Callable[[], None]]
"""Makes one under hypothesis, which wants a new one for each round."""


def visits_of_strangers(number: int, first: int | None = None) -> Counter[str]:
    """Nobody is asked who they are. Raises AssertionError, with the visit, for what should not be."""
    with Arena() as arena:
        play(arena, number, first, _talks(arena, st.just(NO_DOOR)))
    return arena.ends


def visits_with_credentials(number: int, folder: Path, first: int | None = None) -> Counter[str]:
    """`folder`: for the gateway's keys."""
    ring = Keyring(folder)
    with Arena(bearer(ring.keys["app"]), **ring.settings) as arena:
        play(arena, number, first, _talks(arena, doors(ring)))
    return arena.ends


def upgrades_by_hand(number: int, first: int | None = None) -> Counter[str]:
    with Arena() as arena:
        play(arena, number, first, lambda: given(upgrades())(lambda head: arena.run(arena.knock(head))))
    return arena.ends


def _talks(arena: Arena, ways: st.SearchStrategy[Door]) -> Game:
    return lambda: given(VISITS, ways)(lambda links, door: arena.run(arena.visit(links, door)))


def play(arena: Arena, number: int, first: int | None, game: Game) -> None:
    """`number` visits. `first`: the seed of the first round; none: always the same ones."""
    before = None
    for index, size in enumerate(_rounds(number)):
        with arena.beside_a_bystander():
            play_once(game(), size, None if first is None else first + index)
        before = before or census()
        arena.run(_no_more_than(before))


async def _no_more_than(before: Counter[str]) -> None:
    """Waits: what is closed is held by a timer for a while."""
    deadline = asyncio.get_running_loop().time() + LEFT_SECONDS
    while more := {kind: count for kind, count in (census() - before).items() if count > SLACK}:
        assert asyncio.get_running_loop().time() < deadline, f"objects that are left: {more}"
        await asyncio.sleep(0.1)


def play_once(game: Callable[[], None], size: int, first: int | None) -> None:
    """`first`: the seed."""
    chosen = settings(
        max_examples=size,
        deadline=None,
        database=None,
        derandomize=first is None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    chosen(game if first is None else seed(first)(game))()


def _rounds(number: int) -> list[int]:
    """At least two, for what is made once is not counted."""
    most = min(PER_ROUND, -(-number // 2))
    return [min(most, number - done) for done in range(0, number, most)]
