"""The client library over a network that fails: the session goes on by itself, and no sample is missing or twice."""

import asyncio
import random
from collections.abc import AsyncIterator
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

import pytest

from app.client import (
    Audio,
    ConnectionLostError,
    GatewayError,
    Message,
    Reconnecting,
    SessionConfig,
    Transcriber,
)
from app.client import connect as client_connect
from app.client import keeper as client_keeper
from app.client import link as client_link
from app.core.protocol import Final, Finalized, GapEvent, Stopped
from tests.flaky import Flaky, flaky
from tests.gateway import Gateway, run_gateway
from tests.scripted import Peer, in_turn, scripted
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


async def test_a_session_that_has_waited_too_long_is_followed_by_a_new_one(upstream: ScriptedUpstream) -> None:
    upstream.script = names_samples()
    audio = sound(64_000)
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=0.6) as gateway:
        async with flaky(gateway.port) as network, Transcriber(through(network), CONFIG) as transcriber:
            hearing = asyncio.create_task(everything(transcriber))
            await transcriber.send(audio[:32_000])
            await until(lambda: transcriber.received == 32_000)
            network.refuses = True
            network.cut()
            await gateway.until_no_session()
            network.refuses = False
            await transcriber.send(audio[32_000:])
            await transcriber.stop()
            messages = await hearing
    assert samples(messages) == list(range(32_000))
    assert transcriber.sessions == 2


# A network that carries nothing, and tells nobody -----------------------------------------------


async def test_a_connection_on_which_audio_has_no_answer_is_dead(
    network: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_link, "SILENT_SECONDS", 0.5)
    audio = sound(64_000)
    async with Transcriber(through(network), CONFIG) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        await transcriber.send(audio[:32_000])
        await until(lambda: transcriber.received == 32_000)
        network.go_silent()
        await transcriber.send(audio[32_000:])
        await transcriber.stop()
        messages = await hearing
    assert samples(messages) == list(range(32_000))
    assert Reconnecting("nothing came from the gateway for 0.5 s") in messages
    assert transcriber.resumes == 1


async def test_a_connection_that_is_silent_without_audio_is_dead_too(
    network: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pings have no answer."""
    monkeypatch.setattr(client_link, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(client_connect, "PING_SECONDS", 0.1)
    async with Transcriber(through(network), CONFIG) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        await until(lambda: network.connections == 1)
        network.go_silent()
        await until(lambda: transcriber.resumes == 1)
        await transcriber.stop()
        await hearing


async def test_a_network_that_swallows_new_connections_too_is_tried_until_it_carries(
    network: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_link, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(client_connect, "OPEN_SECONDS", 0.3)
    monkeypatch.setattr(client_keeper, "RETRY_CAP", 0.05)
    audio = sound(64_000)
    async with Transcriber(through(network), CONFIG) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        network.dark = True
        network.go_silent()
        await transcriber.send(audio)
        await until(lambda: network.connections >= 3)
        network.dark = False
        await transcriber.stop()
        assert samples(await hearing) == list(range(32_000))


def transport_is_full(socket: client_connect.Socket) -> bool:
    return socket.transport.get_write_buffer_size() > 32_768


async def test_leaving_while_nothing_is_carried_does_not_wait_for_an_answer(
    network: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where more audio was written than the network takes."""
    monkeypatch.setattr(client_connect, "CLOSE_SECONDS", 0.1)
    async with Transcriber(through(network), CONFIG) as transcriber:
        link = transcriber._keeper._link
        assert link is not None
        link.socket.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, 65_536)
        network.stop_reading()
        sending = asyncio.create_task(transcriber.send(bytes(3_800_000)))
        await until(lambda: transport_is_full(link.socket))
    with pytest.raises(ConnectionLostError):
        await sending


async def test_a_gateway_that_takes_no_more_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has said `throttle`: pings are stuck behind the audio, and so it has more time."""
    monkeypatch.setattr(client_link, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(client_connect, "PING_SECONDS", 0.05)

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.say("throttle", state="on", queued_ms=1000)
        transport: Any = peer.socket.transport
        transport.pause_reading()
        await asyncio.sleep(1)  # far beyond what another gateway would have
        transport.resume_reading()
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(in_turn(script)) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.send(bytes(3200))
        await transcriber.stop()
        messages = await everything(transcriber)
    assert not any(isinstance(message, Reconnecting) for message in messages)


async def test_a_refusal_that_is_for_good_is_not_tried_again(network: Flaky) -> None:
    async with Transcriber(through(network), CONFIG) as transcriber:
        assert transcriber._keeper._link is not None
        await transcriber._keeper._link.socket.send('{"type": "nonsense"}')
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
        transcriber._timeline.window = 32_000
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


async def test_a_stopped_that_was_missed_is_told_on_the_next_connection(lasting: Gateway) -> None:
    """At once, before `stop` could be said again. No other session is begun for it."""
    async with flaky(lasting.port) as network:
        network.cuts_before = b'"type":"stopped"'
        async with Transcriber(f"ws://127.0.0.1:{network.port}/ws/transcribe", CONFIG) as transcriber:
            await transcriber.send(sound(6400))
            await until(lambda: transcriber.settled == 6400)
            first = network.connections
            await transcriber.stop()
            hearing = asyncio.create_task(everything(transcriber))
            await until(lambda: network.connections > first)
            network.cuts_before = None
            assert isinstance((await hearing)[-1], Stopped)
            assert transcriber.sessions == 1
