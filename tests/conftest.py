"""Fixtures: the scripted upstream with a gateway in front of it, per test."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway import Gateway, run_gateway
from tests.upstream import ScriptedUpstream


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """In front of the scripted upstream, with default settings but for the pace."""
    async with run_gateway(upstream=f"grpc://{upstream.address}") as running:
        yield running
