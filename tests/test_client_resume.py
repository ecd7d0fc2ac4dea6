"""The client library over a network that fails: the session goes on by itself, and no sample is missing or twice."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from app.client import Audio, ConnectionLostError, GatewayError, Message, SessionConfig, Transcriber
from app.client import keeper as client_keeper
from app.core.protocol import Final, Finalized, GapEvent, Stopped
from tests.flaky import Flaky, flaky
from tests.gateway import Gateway, run_gateway
from tests.test_seams import names_samples, numbers, sound, until
from tests.upstream import ScriptedUpstream

CONFIG = SessionConfig(audio=Audio("LINEAR16", 16_000), language_codes=["en-US"])


@pytest.fixture
async def lasting(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    upstream.script = names_samples()
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60) as gateway:
        yield gateway


@pytest.fixture
async def network(lasting: Gateway) -> AsyncIterator[Flaky]:
    async with flaky(lasting.port) as proxy:
        yield proxy


def through(network: Flaky) -> str:
    return f"ws://127.0.0.1:{network.port}/ws/transcribe"


def samples(messages: list[Message]) -> list[int]:
    return [n for message in messages if isinstance(message, Final) for n in numbers(message.text)]


async def everything(transcriber: Transcriber) -> list[Message]:
    return [message async for message in transcriber.messages()]


async def test_a_cut_connection_is_opened_again_and_nothing_is_lost(network: Flaky) -> None:
    audio = sound(64_000)
    async with Transcriber(through(network), CONFIG) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        await transcriber.send(audio[:32_000])
        network.cut()
        await transcriber.send(audio[32_000:])
        await transcriber.stop()
        messages = await hearing
    assert samples(messages) == list(range(32_000))
    assert isinstance(messages[-1], Stopped)
    assert messages[-1].resumes == transcriber.resumes == 1


async def test_a_user_goes_on_speaking_while_there_is_no_network(network: Flaky) -> None:
    """Audio is kept, and goes out when the network is back."""
    audio = sound(96_000)
    async with Transcriber(through(network), CONFIG) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        await transcriber.send(audio[:32_000])
        network.refuses = True
        network.cut()
        await until(lambda: network.connections > 3)  # it tries and tries
        await transcriber.send(audio[32_000:])
        network.refuses = False
        await transcriber.stop()
        assert samples(await hearing) == list(range(48_000))


@pytest.mark.parametrize("seed", range(20))
async def test_random_cuts_cost_no_sample(network: Flaky, upstream: ScriptedUpstream, seed: int) -> None:
    dice = random.Random(seed)
    upstream.script = names_samples(every=dice.choice([1000, 3200, 20_000]))
    audio = sound(120_000)
    async with Transcriber(through(network), CONFIG, framing=dice.choice(["binary", "base64"])) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        at = 0
        while at < len(audio):
            frame = audio[at : at + dice.choice([641, 3200, 9600])]
            await transcriber.send(frame)
            at += len(frame)
            if dice.random() < 0.15:
                network.cut()
            if dice.random() < 0.1:
                await transcriber.finalize(f"at {at}")
        await transcriber.stop()
        if dice.random() < 0.5:
            network.cut()
        messages = await hearing
    assert samples(messages) == list(range(60_000))
    names = [message.id for message in messages if isinstance(message, Finalized)]
    assert len(names) == len(set(names)), "a finalize is answered once"


async def test_another_network_is_used_before_the_old_one_is_given_up(network: Flaky) -> None:
    """The phone says so; the old connection may be dead without anybody knowing."""
    audio = sound(64_000)
    async with Transcriber(through(network), CONFIG) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        await transcriber.send(audio[:32_000])
        await until(lambda: transcriber.received == 32_000)
        network.go_silent()
        transcriber.network_changed()
        await transcriber.send(audio[32_000:])
        await transcriber.stop()
        messages = await hearing
    assert samples(messages) == list(range(32_000))
    assert transcriber.resumes == 1


async def test_a_session_that_is_gone_fails_with_what_broke_it(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=0.6) as gateway:
        async with flaky(gateway.port) as network, Transcriber(through(network), CONFIG) as transcriber:
            await transcriber.send(bytes(3200))
            await until(lambda: transcriber.received == 3200)
            network.refuses = True
            network.cut()
            await gateway.until_no_session()
            network.refuses = False
            with pytest.raises(ConnectionLostError):
                await everything(transcriber)


async def test_a_refusal_that_is_for_good_is_not_tried_again(network: Flaky) -> None:
    async with Transcriber(through(network), CONFIG) as transcriber:
        await transcriber._keeper._socket.send('{"type": "nonsense"}')
        with pytest.raises(GatewayError):
            await everything(transcriber)
    assert network.connections == 1


async def test_a_microphone_that_has_no_credit_skips_in_sight(network: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be kept becomes a gap with a reason; the rest is heard."""
    monkeypatch.setattr(client_keeper, "RETRY_CAP", 0.1)
    audio = sound(64_000)
    async with Transcriber(through(network), CONFIG, overflow="gap") as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        network.refuses = True
        network.cut()
        await until(lambda: network.connections > 2)
        transcriber._window = 32_000
        await transcriber.send(audio[:32_000])
        await transcriber.send(audio[32_000:48_000])
        network.refuses = False
        await until(lambda: transcriber.settled >= 48_000)
        await transcriber.send(audio[48_000:])
        await transcriber.stop()
        messages = await hearing
    gaps = [(gap.start_ms, gap.end_ms, gap.reason) for gap in messages if isinstance(gap, GapEvent)]
    assert gaps == [(1000, 1500, "overflow")]
    assert samples(messages) == [*range(16_000), *range(24_000, 32_000)]
