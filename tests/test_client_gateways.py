"""The client library with several gateways on one store: they drain, and their clients go on at another one."""

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from app.client import Audio, Message, Reconnecting, SessionConfig, Transcriber
from app.client import keeper as client_keeper
from app.core.protocol import Durable, Final, GoAway, Stopped, WarningMessage
from app.drain import drain
from bench.gateways import gateways as processes
from tests.flaky import Flaky, flaky
from tests.redis_server import RedisServer, redis_server
from tests.test_gateways import gateways
from tests.test_seams import names_samples, numbers, sound, until
from tests.upstream import ScriptedUpstream

LOAD = 24
"""Clients."""
CONFIG = SessionConfig(audio=Audio(encoding="LINEAR16", sample_rate_hertz=16_000), language_codes=["en-US"])


async def everything(transcriber: Transcriber) -> list[Message]:
    return [message async for message in transcriber.messages()]


async def warned(messages: AsyncIterator[Message], code: str) -> None:
    """Reads on until this warning."""
    while not (isinstance(message := await anext(messages), WarningMessage) and message.code == code):
        pass


def through(network: Flaky) -> str:
    return f"ws://127.0.0.1:{network.port}/ws/transcribe"


def check(messages: list[Message], audio: bytes) -> None:
    finals = [message for message in messages if isinstance(message, Final)]
    assert [n for final in finals for n in numbers(final.text)] == list(range(len(audio) // 2))
    events = [message.event for message in messages if isinstance(message, Durable)]
    assert events == list(range(1, len(events) + 1))
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(finals))
    assert isinstance(messages[-1], Stopped)


async def test_a_gateway_that_drains_is_left_without_a_pause(upstream: ScriptedUpstream, redis: RedisServer) -> None:
    """Long before it ends. The client has audio under way all the time, and never is without a connection."""
    upstream.script = names_samples()
    audio = sound(120_000)
    async with gateways(upstream, redis) as (one, two), flaky(one.port, two.port) as network:
        async with Transcriber(through(network), CONFIG) as transcriber:
            hearing = asyncio.create_task(everything(transcriber))
            draining = asyncio.create_task(drain(one.hub.registry, 25))
            at = 0
            while not draining.done():
                await transcriber.send(audio[at : at + 640])
                at = min(at + 640, len(audio))
                await asyncio.sleep(0.01)
            assert two.hub.sessions == 1
            await transcriber.send(audio[at:])
            await transcriber.stop()
            messages = await hearing
    check(messages, audio)
    assert any(isinstance(message, GoAway) for message in messages)
    assert not any(isinstance(message, Reconnecting) for message in messages)
    assert (transcriber.sessions, transcriber.resumes) == (1, 1)


async def test_a_gateway_that_drains_alone_is_followed_by_a_new_session(upstream: ScriptedUpstream) -> None:
    """Nobody else has the session: it goes on to its end, and what it flushed is not said again."""
    upstream.script = names_samples(every=9600)
    audio = sound(120_000)
    with redis_server() as redis, redis_server() as another_store:
        async with gateways(upstream, redis, 1) as (one,), gateways(upstream, another_store, 1) as (two,):
            async with flaky(one.port, two.port) as network, Transcriber(through(network), CONFIG) as transcriber:
                hearing = asyncio.create_task(everything(transcriber))
                await transcriber.send(audio[:50_000])
                await until(lambda: transcriber.received == 50_000)
                await drain(one.hub.registry, 5)
                await transcriber.send(audio[50_000:])
                await transcriber.stop()
                check(await hearing, audio)
    assert transcriber.sessions == 2


@pytest.mark.parametrize("seed", range(10))
async def test_random_moves_between_gateways_cost_no_sample(
    upstream: ScriptedUpstream, redis: RedisServer, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_keeper, "RETRY_CAP", 0.05)
    dice = random.Random(seed)
    upstream.script = names_samples(every=dice.choice([1000, 3200, 20_000]))
    audio = sound(120_000)
    async with gateways(upstream, redis) as (one, two), flaky(one.port, two.port) as network:
        async with Transcriber(through(network), CONFIG) as transcriber:
            hearing = asyncio.create_task(everything(transcriber))
            for at in range(0, len(audio), 4800):
                await transcriber.send(audio[at : at + 4800])
                if dice.random() < 0.2:
                    transcriber.network_changed()
                if dice.random() < 0.1:
                    network.cut()
                if dice.random() < 0.05:
                    network.go_silent()
                    transcriber.network_changed()
                if dice.random() < 0.7:
                    await until(lambda: transcriber.connected)
            await transcriber.stop()
            check(await hearing, audio)


@pytest.mark.timeout(300)
async def test_a_rolling_restart_under_load_costs_no_sample(
    upstream: ScriptedUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    """Two processes, drained and started again one after the other, while two dozen clients speak."""
    upstream.script = names_samples()
    audio = sound(130_000)
    settings = {"GATEWAY_UPSTREAM": f"grpc://{upstream.address}", "GATEWAY_STORE": redis.url}
    restarted, connected = asyncio.Event(), asyncio.Barrier(LOAD + 1)
    async with processes("AB", settings, tmp_path) as running, flaky(*running) as network:

        async def speak() -> int:
            async with Transcriber(through(network), CONFIG) as transcriber:
                hearing = asyncio.create_task(everything(transcriber))
                await until(lambda: transcriber.connected)
                await connected.wait()
                for at in range(0, len(audio), 1300):
                    await transcriber.send(audio[at : at + 1300])
                    await asyncio.sleep(0.1)
                await restarted.wait()
                await transcriber.stop()
                check(await hearing, audio)
                return transcriber.resumes

        speaking = [asyncio.create_task(speak()) for _ in range(LOAD)]
        await connected.wait()
        for gateway in running.values():
            await gateway.drain()
            await gateway.start()
        restarted.set()
        assert min(await asyncio.gather(*speaking)) >= 1


async def test_that_the_store_is_away_is_passed_on(upstream: ScriptedUpstream) -> None:
    upstream.script = names_samples()
    audio = sound(64_000)
    with redis_server() as redis:
        async with gateways(upstream, redis, 1) as (gateway,), Transcriber(gateway.url, CONFIG) as transcriber:
            messages = transcriber.messages()
            redis.kill()
            await transcriber.send(audio[:32_000])
            await warned(messages, "not_resumable")
            redis.restart(empty=True)
            await transcriber.send(audio[32_000:])
            await warned(messages, "resumable")
            await transcriber.stop()
            assert isinstance([message async for message in messages][-1], Stopped)
