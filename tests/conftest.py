"""Tests run on uvloop, as the gateway does. Fixtures: the scripted upstream with a gateway in front of it, per test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.gateway import Gateway, run_gateway
from tests.upstream import ScriptedUpstream


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the gateway runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """In front of the scripted upstream, with default settings but for the pace."""
    async with run_gateway(upstream=f"grpc://{upstream.address}") as running:
        yield running
