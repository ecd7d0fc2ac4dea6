"""Full garbage collections stop the event loop: they wait until nobody is there, or until they are worth it."""

import gc
import platform
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import garbage
from app.garbage import collect_seldom
from tests.gateway import START, Client, run_gateway, transcribe
from tests.test_seams import until
from tests.upstream import ScriptedUpstream


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a gateway's own process, and nobody has to wait."""
    monkeypatch.setattr(garbage, "LOOK_SECONDS", 0.02)
    usual = gc.get_threshold()
    collect_seldom()
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()


def full_collections() -> int:
    count: int = gc.get_stats()[2]["collections"]
    return count


@pytest.mark.usefixtures("seldom")
async def test_nothing_is_collected_while_somebody_is_there(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway, Client.connect(gateway) as client:
        await client.say(START)
        await client.hear("started")
        before = full_collections()
        kept = [[number] for number in range(300_000)]  # much is new
        await transcribe(gateway, bytes(3200))
        assert full_collections() == before, f"{len(kept)} lists"


@pytest.mark.usefixtures("seldom")
async def test_what_is_left_behind_is_collected_when_nobody_is_there(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
        before = full_collections()
        await transcribe(gateway, bytes(3200))
        await until(lambda: full_collections() > before)


@pytest.mark.usefixtures("seldom")
async def test_what_is_left_behind_is_collected_when_it_is_much(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "LINKS", 3)
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway, Client.connect(gateway) as client:
        await client.say(START)
        await client.hear("started")
        before = full_collections()
        for _ in range(3):
            await transcribe(gateway, bytes(3200))
        await until(lambda: full_collections() > before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_memory_that_is_free_goes_back_to_the_system() -> None:
    """Between blocks that stay: glibc would keep it."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    blocks = [b"x" * (100_000 if number % 2 else 10_000) for number in range(4_000)]
    full = resident()
    del blocks[1::2]
    garbage.give_back()
    assert resident() < full - 100_000_000
    assert len(blocks) == 2_000
