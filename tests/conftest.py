"""Tests run on uvloop, as the gateway does. Fixtures: for each test an upstream that follows a script, and a gateway
before it; for all of them one emulator.

A test that waits for what never comes ends by a timeout of asyncio: the signal of pytest-timeout does not reach a
test on uvloop, which swallows what a signal's handler raises.
"""

import asyncio
import functools
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.emulator_client import serve
from tests.gateway import Gateway, run_gateway
from tests.redis_server import RedisServer, redis_server
from tests.upstream import ScriptedUpstream

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import ONNX Runtime by themselves, too
TEST_SECONDS = 300
"""Below pytest's own `timeout`, which ends the whole run. Most of the longest tests take 20 s on two idle cores."""

settings.register_profile(
    "any machine", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("any machine")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Half of a test's own `timeout`, where it has one."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        own = item.get_closest_marker("timeout")
        item.obj = _bounded(item.obj, own.args[0] / 2 if own else TEST_SECONDS)


def _bounded(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **fixtures: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **fixtures)

    return bounded


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the gateway runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """Of one emulator for all tests that change nothing about it."""
    yield from serve()


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """Of all tests that do no harm to it. Each has keys of its own."""
    with redis_server() as running:
        yield running


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """In front of the scripted upstream, with default settings but for the pace."""
    async with run_gateway(upstream=f"grpc://{upstream.address}") as running:
        yield running
