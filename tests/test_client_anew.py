"""The client library where the gateway has lost the session: a new one hears what is not final, and the reader sees one
clock, one numbering and one sum.
"""

import asyncio
import os
import random
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, Literal

import pytest

from app.client import (
    Audio,
    ConnectionLostError,
    GatewayError,
    Message,
    Reconnected,
    Reconnecting,
    SessionConfig,
    Transcriber,
    UnreachableError,
)
from app.client import keeper as client_keeper
from app.core.protocol import Durable, Final, Finalized, GapEvent, SpeechStarted, Stopped, WordInfo
from tests.flaky import Flaky, flaky
from tests.gateway import run_gateway
from tests.scripted import Peer, in_turn, scripted
from tests.test_seams import names_samples, numbers, sound, until
from tests.upstream import ScriptedUpstream

CONFIG = SessionConfig(audio=Audio(encoding="LINEAR16", sample_rate_hertz=16_000), language_codes=["en-US"])
SECOND = 32_000


async def everything(transcriber: Transcriber) -> list[Message]:
    return [message async for message in transcriber.messages()]


def texts(messages: list[Message]) -> list[str]:
    return [message.text for message in messages if isinstance(message, Final)]


def check(messages: list[Message], size: int) -> None:
    """Every sample once; one numbering, one clock, one sum. `size` in bytes."""
    finals = [message for message in messages if isinstance(message, Final)]
    assert [n for final in finals for n in numbers(final.text)] == list(range(size // 2))
    events = [message.event for message in messages if isinstance(message, Durable)]
    assert events == list(range(1, len(events) + 1))
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(finals))
    assert abs(finals[-1].end_ms - size / 32) <= 1, "the clock is that of the whole"
    stopped = messages[-1]
    assert isinstance(stopped, Stopped)
    assert (stopped.finals, stopped.gap_ms) == (len(finals), 0)
    assert abs(stopped.audio_ms - size / 32) <= 2


def through(network: Flaky) -> str:
    return f"ws://127.0.0.1:{network.port}/ws/transcribe"


# What the new session is told, and what is told of it -------------------------------------------


async def refuses_as(peer: Peer, close_code: int, code: str) -> None:
    await peer.resume()
    await peer.fail(close_code, code)


@pytest.mark.parametrize(
    ("close_code", "code"), [(4404, "session_unknown"), (4410, "session_ended"), (4410, "resume_window_expired")]
)
async def test_what_is_not_final_goes_to_a_new_session_with_the_same_config(close_code: int, code: str) -> None:
    """From where the last final ended: its ack was lost."""
    audio = bytes(range(250)) * 512
    starts: list[dict[str, Any]] = []

    async def first(peer: Peer) -> None:
        starts.append(await peer.accept())
        await peer.hear_audio(3 * SECOND)
        await peer.ack(final=SECOND)
        await peer.final(1, "one", 0, 1000)
        await peer.final(2, "two", 1000, 1500)
        await peer.say("speech_started", at_ms=1700)
        await peer.cut()

    async def second(peer: Peer) -> None:
        starts.append(await peer.accept("s2"))
        await peer.hear_until("stop")
        assert bytes(peer.audio) == audio[3 * SECOND // 2 :]
        await peer.say("speech_started", at_ms=200)
        words = [{"word": "three", "start_ms": 200, "end_ms": 900}]
        await peer.final(1, "three", 200, 900, words=words)
        await peer.say("finalized", event=2, id="x", end_ms=2500)
        counts = {"audio_ms": 2500, "billed_ms": 3000, "finals": 1, "upstream_streams": 2, "resumes": 0}
        await peer.stopped(3, **counts)

    lost = in_turn(first, lambda peer: refuses_as(peer, close_code, code), second)
    async with scripted(lost) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.send(audio[: 3 * SECOND])
        await transcriber.send(audio[3 * SECOND :])
        await transcriber.finalize("x")
        await transcriber.stop()
        messages = await everything(transcriber)
        assert transcriber.started.session_id == "s2"
    assert starts[0] == starts[1]
    told = [message for message in messages if not isinstance(message, Reconnecting | Reconnected)]
    assert told[2] == SpeechStarted(1700)
    assert told[3] == SpeechStarted(1700)
    assert isinstance(told[4], Final)
    assert (told[4].event, told[4].start_ms, told[4].end_ms) == (3, 1700, 2400)
    assert told[4].words == [WordInfo("three", 1700, 2400)]
    assert told[5] == Finalized(4, "x", 4000)
    assert told[6] == Stopped(5, 4000, 3000, finals=3, gap_ms=0, upstream_streams=2, resumes=0)
    assert messages.index(Reconnected(resumed=False)) > messages.index(
        Reconnecting("the connection broke without a closing frame")
    )


async def test_a_session_that_cannot_be_resumed_is_followed_by_a_new_one_at_once() -> None:
    async def first(peer: Peer) -> None:
        await peer.begin()
        await peer.hear_audio(SECOND)
        await peer.cut()

    async def second(peer: Peer) -> None:
        await peer.begin()
        await peer.hear_until("stop")
        assert len(peer.audio) == SECOND
        await peer.stopped(1)

    async with scripted(in_turn(first, second)) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.send(bytes(SECOND))
        await transcriber.stop()
        await everything(transcriber)
    assert (transcriber.sessions, transcriber.resumes) == (2, 0)


async def test_a_gateway_that_has_only_the_beginning_of_a_session_has_lost_it() -> None:
    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.final(1, "one", 0, 0)
        await peer.cut()

    async def knows_less(peer: Peer) -> None:
        assert (await peer.resume())["last_event"] == 1
        await peer.fail(4400, "invalid_config", param="last_event")

    async def second(peer: Peer) -> None:
        await peer.accept("s2")
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(in_turn(first, knows_less, second)) as url, Transcriber(url, CONFIG) as transcriber:
        assert isinstance(await anext(transcriber.messages()), Final)
        await transcriber.stop()
        await everything(transcriber)
    assert transcriber.sessions == 2


async def test_a_gap_is_told_once_though_two_sessions_hear_of_it() -> None:
    """A longer one is told for the rest of it; it counts once in the sum."""

    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.hear_audio(SECOND)
        await peer.hear_until("gap")
        await peer.say("gap", event=1, start_ms=1000, end_ms=3000, reason="muted")
        await peer.cut()

    async def second(peer: Peer) -> None:
        await peer.accept("s2")
        await peer.hear_audio(SECOND)
        assert (await peer.hear_until("gap"))["bytes"] == 2 * SECOND
        await peer.say("gap", event=1, start_ms=1000, end_ms=3000, reason="muted")
        assert (await peer.hear_until("gap"))["bytes"] == SECOND
        await peer.say("gap", event=2, start_ms=3000, end_ms=4000, reason="muted")
        await peer.hear_until("stop")
        await peer.stopped(3, audio_ms=1000, gap_ms=3000)

    lost = in_turn(first, lambda peer: refuses_as(peer, 4404, "session_unknown"), second)
    async with scripted(lost) as url, Transcriber(url, CONFIG) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        await transcriber.send(bytes(SECOND))
        await transcriber.gap(2 * SECOND, "muted")
        await until(lambda: transcriber.sessions == 2)
        await transcriber.gap(SECOND, "muted")
        await transcriber.stop()
        messages = await hearing
    gaps = [(gap.event, gap.start_ms, gap.end_ms) for gap in messages if isinstance(gap, GapEvent)]
    assert gaps == [(1, 1000, 3000), (2, 3000, 4000)]
    assert isinstance(messages[-1], Stopped)
    assert (messages[-1].audio_ms, messages[-1].gap_ms) == (1000, 3000)


# Who never gives up, and who does ---------------------------------------------------------------


async def test_a_gateway_that_is_away_is_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever answers meanwhile: nobody, a proxy, a gateway that is full."""
    monkeypatch.setattr(client_keeper, "RETRY_CAP", 0.01)

    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.cut()

    async def is_full(peer: Peer) -> None:
        await peer.resume()
        await peer.fail(4429, "too_many_sessions", retryable=True, retry_after_ms=1)

    async def is_there(peer: Peer) -> None:
        await peer.resume()
        await peer.resumed(0)
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(in_turn(first, *[is_full] * 3, is_there)) as url:
        async with flaky(int(url.split(":")[2].split("/")[0])) as network:
            async with Transcriber(through(network), CONFIG) as transcriber:
                network.refuses = True
                await until(lambda: network.connections > 10)
                network.refuses = False
                await transcriber.stop()
                await everything(transcriber)
    assert transcriber.sessions == 1


async def test_who_wants_a_bound_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is that of a connection: only the first one raises UnreachableError."""
    monkeypatch.setattr(client_keeper, "RETRY_CAP", 0.01)

    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.socket.wait_closed()

    async with scripted(first) as url:
        transcriber = await Transcriber(url, CONFIG, give_up_seconds=0.3).__aenter__()
    with pytest.raises(ConnectionLostError, match="connection refused"):
        await everything(transcriber)
    await transcriber.__aexit__(None, None, None)
    with pytest.raises(UnreachableError):
        await Transcriber(url, CONFIG, give_up_seconds=60).__aenter__()


@pytest.mark.parametrize(
    ("close_code", "code"),
    [(4400, "bad_order"), (4401, "token_expired"), (4403, "forbidden"), (4400, "invalid_config")],
)
async def test_a_refusal_for_good_ends_it(close_code: int, code: str) -> None:
    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.cut()

    async def refuses(peer: Peer) -> None:
        await peer.resume()
        await peer.fail(close_code, code)

    async with scripted(in_turn(first, refuses)) as url, Transcriber(url, CONFIG) as transcriber:
        with pytest.raises(GatewayError, match=code):
            await everything(transcriber)


@pytest.mark.parametrize("renewed_in", [{}, {"retry_after_ms": 60_001}, {"retry_after_ms": 2_592_000_000}])
async def test_a_budget_that_is_not_renewed_soon_ends_it(renewed_in: dict[str, Any]) -> None:
    """Nobody waits for next month; what was final was told."""

    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.final(1, "one")
        await peer.fail(4429, "budget_exhausted", retryable=True, **renewed_in)

    async with scripted(in_turn(first)) as url, Transcriber(url, CONFIG) as transcriber:
        messages = transcriber.messages()
        assert texts([await anext(messages)]) == ["one"]
        with pytest.raises(GatewayError, match="budget_exhausted"):
            await anext(messages)


async def test_a_budget_that_is_renewed_soon_is_waited_for() -> None:
    """The session is over: a new one goes on."""

    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.fail(4429, "budget_exhausted", retryable=True, retry_after_ms=50)

    async def second(peer: Peer) -> None:
        await peer.accept("s2")
        await peer.hear_until("stop")
        await peer.stopped(1)

    over = in_turn(first, lambda peer: refuses_as(peer, 4410, "session_ended"), second)
    async with scripted(over) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.stop()
        await everything(transcriber)
    assert transcriber.sessions == 2


@pytest.mark.parametrize("close_code", [1003, 1007, 4400, 4401, 4403, 4409])
async def test_a_close_code_for_good_ends_it_without_an_error_too(close_code: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.socket.close(close_code)

    async with scripted(in_turn(script)) as url, Transcriber(url, CONFIG) as transcriber:
        with pytest.raises(ConnectionLostError, match=str(close_code)):
            await everything(transcriber)


async def test_a_client_comes_back_no_earlier_than_it_is_asked_to() -> None:
    clock = asyncio.get_running_loop().time
    times: list[float] = []

    async def first(peer: Peer) -> None:
        await peer.accept()
        times.append(clock())
        await peer.fail(1013, "upstream_unavailable", retryable=True, retry_after_ms=300)

    async def second(peer: Peer) -> None:
        await peer.resume()
        times.append(clock())
        await peer.resumed(0)
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(in_turn(first, second)) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.stop()
        await everything(transcriber)
    assert times[1] - times[0] >= 0.3


# Real gateways ----------------------------------------------------------------------------------


@asynccontextmanager
async def forgetful(upstream: ScriptedUpstream) -> AsyncIterator[tuple[Flaky, list[int]]]:
    """Two gateways that know nothing of each other's sessions, behind one network; the ports of both."""
    settings: dict[str, Any] = {"upstream": f"grpc://{upstream.address}", "resume_window_seconds": 60}
    async with run_gateway(**settings) as one, run_gateway(**settings) as other, flaky(one.port) as network:
        yield network, [one.port, other.port]


@pytest.mark.parametrize("seed", range(20))
async def test_random_cuts_moves_and_losses_cost_no_sample(
    upstream: ScriptedUpstream, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finals end at whole milliseconds here: the place where a lost session's last final ended is known no better."""
    monkeypatch.setattr(client_keeper, "RETRY_CAP", 0.05)
    dice = random.Random(seed)
    upstream.script = names_samples(every=dice.choice([960, 3200, 9600]))
    audio = sound(120_000)
    framing: Literal["binary", "base64"] = dice.choice(["binary", "base64"])
    async with forgetful(upstream) as (network, ports):
        async with Transcriber(through(network), CONFIG, framing=framing) as transcriber:
            hearing = asyncio.create_task(everything(transcriber))
            at = 0
            while at < len(audio):
                frame = audio[at : at + dice.choice([641, 3200, 9600])]
                await transcriber.send(frame)
                at += len(frame)
                _suffer(dice, network, transcriber, ports)
                if dice.random() < 0.7:
                    await until(lambda: transcriber.connected)
                if dice.random() < 0.1:
                    await transcriber.finalize(f"at {at}")
            await transcriber.stop()
            if dice.random() < 0.5:
                network.cut()
            messages = await hearing
    check(messages, len(audio))
    names = [message.id for message in messages if isinstance(message, Finalized)]
    assert len(names) == len(set(names)), "a finalize is answered once"


def _suffer(dice: random.Random, network: Flaky, transcriber: Transcriber, ports: list[int]) -> None:
    if dice.random() < 0.2:
        network.cut()
    if dice.random() < 0.2:
        transcriber.network_changed()
    if dice.random() < 0.2:  # a gateway that knows nothing, found by the next connection
        network.leads_to(dice.choice(ports))
    if dice.random() < 0.05:
        network.go_silent()
        transcriber.network_changed()


async def test_a_session_that_reaches_its_longest_time_is_followed_by_the_next(upstream: ScriptedUpstream) -> None:
    upstream.script = names_samples(every=3200)
    audio = sound(120_000)
    settings: dict[str, Any] = {"upstream": f"grpc://{upstream.address}", "resume_window_seconds": 60}
    async with run_gateway(**settings, max_session_seconds=1) as gateway:
        async with Transcriber(gateway.url, CONFIG) as transcriber:
            hearing = asyncio.create_task(everything(transcriber))
            await transcriber.send(audio[:60_000])
            await until(lambda: transcriber.sessions == 2)
            await transcriber.send(audio[60_000:])
            await transcriber.stop()
            check(await hearing, len(audio))


class Killable:
    """A gateway process on one port, that can be killed and started again: it remembers nothing."""

    def __init__(self, upstream: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        settings = {"HOST": "127.0.0.1", "PORT": self.port, "UPSTREAM": upstream, "LOG_LEVEL": "ERROR"}
        self._environment = os.environ | {f"GATEWAY_{name}": str(value) for name, value in settings.items()}
        self._process: Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(sys.executable, "-m", "app", env=self._environment)

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def until_it_listens(self) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@pytest.mark.parametrize("seed", range(2))
async def test_a_gateway_that_is_killed_costs_no_sample(upstream: ScriptedUpstream, seed: int) -> None:
    dice = random.Random(seed)
    upstream.script = names_samples(every=3200)
    audio = sound(120_000)
    gateway = Killable(f"grpc://{upstream.address}")
    await gateway.start()
    try:
        await gateway.until_it_listens()
        async with Transcriber(f"ws://127.0.0.1:{gateway.port}/ws/transcribe", CONFIG) as transcriber:
            hearing = asyncio.create_task(everything(transcriber))
            kills = sorted(dice.sample(range(0, len(audio), 3200), 2))
            for at in range(0, len(audio), 3200):
                await transcriber.send(audio[at : at + 3200])
                if at in kills:
                    await gateway.kill()
                    await gateway.start()
            await transcriber.stop()
            messages = await hearing
    finally:
        await gateway.kill()
    check(messages, len(audio))
    assert transcriber.sessions >= 2
