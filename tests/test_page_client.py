"""The page's client, under Node, over a network that fails: no sample is missing or twice, and its state is true."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.flaky import Flaky, flaky
from tests.gateway import Gateway, run_gateway
from tests.node_client import NODE, NodeClient, node_client
from tests.scripted import Peer, in_turn, scripted
from tests.test_seams import names_samples, sound
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")

QUICK = {"retry": 20, "retryCap": 100}


@pytest.fixture
async def lasting(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    upstream.script = names_samples()
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60) as gateway:
        yield gateway


@pytest.fixture
async def network(lasting: Gateway) -> AsyncIterator[Flaky]:
    async with flaky(lasting.port) as proxy:
        yield proxy


@asynccontextmanager
async def client_of(network: Flaky, folder: Path, **options: Any) -> AsyncIterator[NodeClient]:
    url = f"ws://127.0.0.1:{network.port}/ws/transcribe"
    async with node_client(url, folder, **{"overflow": "wait", "timing": QUICK} | options) as client:
        yield client


async def test_a_session_is_heard_to_its_end(network: Flaky, tmp_path: Path) -> None:
    async with client_of(network, tmp_path) as client:
        await client.call("send", sound(48_000)[:20_001])
        await client.call("send", sound(48_000)[20_001:])
        stopped = await client.call("stop")
        assert client.samples == list(range(24_000))
        assert client.states == ["connecting", "live", "stopped"]
        assert stopped["audio_ms"] == 1500
        assert stopped["sessions"] == 1
        assert await client.call("send", bytes(2)) is False


async def test_a_cut_connection_is_opened_again_and_nothing_is_lost(network: Flaky, tmp_path: Path) -> None:
    audio = sound(64_000)
    async with client_of(network, tmp_path) as client:
        await client.call("send", audio[:32_000])
        await client.hear("final")
        network.cut()
        await client.call("send", audio[32_000:])
        stopped = await client.call("stop")
        assert client.samples == list(range(32_000))
        assert client.states == ["connecting", "live", "reconnecting", "live", "stopped"]
        assert stopped["resumes"] == 1


async def test_a_user_goes_on_speaking_while_there_is_no_network(network: Flaky, tmp_path: Path) -> None:
    audio = sound(96_000)
    async with client_of(network, tmp_path, overflow="gap") as client:
        await client.call("send", audio[:32_000])
        await client.hear("final")
        network.refuses = True
        network.cut()
        await client.until(lambda: len(client.states) > 5)
        attempts = [values[1] for name, values in client.heard if name == "state" and values[0] == "reconnecting"]
        assert [attempt["attempt"] for attempt in attempts] == list(range(1, len(attempts) + 1))
        assert all(0 <= attempt["in_ms"] <= 100 for attempt in attempts)
        assert {attempt["error"]["code"] for attempt in attempts} == {"connection_lost"}
        await client.call("send", audio[32_000:])
        network.refuses = False
        await client.call("stop")
        assert client.samples == list(range(48_000))
        assert client.told("gap") == []


@pytest.mark.parametrize("seed", range(12))
async def test_random_cuts_cost_no_sample(
    network: Flaky, upstream: ScriptedUpstream, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    upstream.script = names_samples(every=dice.choice([1000, 3200, 20_000]))
    audio = sound(120_000)
    async with client_of(network, tmp_path) as client:
        at = asked = 0
        while at < len(audio):
            frame = audio[at : at + dice.choice([641, 3200, 9600])]
            await client.call("send", frame)
            at += len(frame)
            if dice.random() < 0.15:
                network.cut()
            if dice.random() < 0.1:
                client.begin("networkChanged")
            if dice.random() < 0.1:
                client.begin("finalize", "the same")
                asked += 1
            if dice.random() < 0.1:
                await client.hear("ack", len(client.told("ack")) + 1)
        stopping = client.begin("stop")
        if dice.random() < 0.5:
            network.cut()
        stopped = await stopping
        assert client.samples == list(range(60_000))
        assert len(client.told("finalized")) == asked
        assert stopped["event"] == len([1 for name, values in client.heard if "event" in (values[0] or {})])
        assert stopped["finals"] == len(client.told("final"))


@pytest.mark.parametrize("seed", range(6))
async def test_random_moves_to_a_gateway_that_knows_nothing_cost_no_sample(
    network: Flaky, lasting: Gateway, upstream: ScriptedUpstream, tmp_path: Path, seed: int
) -> None:
    """Twice is what lasts less than a millisecond, the unit of times: where a final came and its `ack` did not."""
    dice = random.Random(seed)
    upstream.script = names_samples(every=dice.choice([1000, 3200, 20_000]))
    audio = sound(120_000)
    async with a_gateway(upstream) as other, client_of(network, tmp_path) as client:
        for at in range(0, len(audio), 2000):
            await client.call("send", audio[at : at + 2000])
            if dice.random() < 0.15:
                network.leads_to(dice.choice([lasting, other]).port)
                network.cut()
            if dice.random() < 0.1:
                client.begin("finalize", at)
            if dice.random() < 0.2:
                await client.hear("ack", len(client.told("ack")) + 1)
        stopped = await client.call("stop")
    heard = client.samples
    assert sorted(set(heard)) == list(range(60_000))
    assert len(heard) - 60_000 <= 16 * (stopped["sessions"] - 1)
    finals = client.told("final")
    assert all(before["end_ms"] <= after["start_ms"] for before, after in pairwise(finals))
    asked = [answer["id"] for answer in client.told("finalized")]
    assert asked == sorted(set(asked))
    assert abs(stopped["audio_ms"] - 3750) <= 2 * stopped["sessions"]


async def test_another_network_is_used_before_the_old_one_is_given_up(network: Flaky, tmp_path: Path) -> None:
    audio = sound(64_000)
    async with client_of(network, tmp_path) as client:
        await client.call("send", audio[:32_000])
        await client.hear("final")
        network.go_silent()
        client.begin("networkChanged")
        await client.call("send", audio[32_000:])
        stopped = await client.call("stop")
        assert client.samples == list(range(32_000))
        assert stopped["resumes"] == 1
        assert "reconnecting" not in client.states


async def test_a_connection_that_is_silent_is_dead(network: Flaky, tmp_path: Path) -> None:
    """Nobody says that it broke; what was sent had no answer."""
    audio = sound(64_000)
    async with client_of(network, tmp_path, timing=QUICK | {"silent": 1500}) as client:
        await client.call("send", audio[:32_000])
        await client.hear("final")
        network.go_silent()
        await client.call("send", audio[32_000:])
        stopped = await client.call("stop")
        assert client.samples == list(range(32_000))
        assert stopped["resumes"] == 1
        assert "reconnecting" in client.states


async def test_a_resumed_that_never_came_costs_nothing(network: Flaky, tmp_path: Path) -> None:
    """The gateway has resumed the session, and the client does not know: its old token still works."""
    audio = sound(64_000)
    async with client_of(network, tmp_path) as client:
        await client.call("send", audio[:32_000])
        await client.hear("final")
        network.cuts_before = b'"resumed"'
        network.cut()
        await client.call("send", audio[32_000:])
        await client.until(lambda: client.states.count("reconnecting") >= 3)
        network.cuts_before = None
        stopped = await client.call("stop")
        assert client.samples == list(range(32_000))
        assert stopped["resumes"] >= 2


async def test_a_gateway_that_began_anew_hears_what_is_not_final(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """It was restarted and knows nothing: what the reader sees goes on as if nothing had been."""
    upstream.script = names_samples()
    audio = sound(64_000)
    async with AsyncExitStack() as gateways:
        before = await gateways.enter_async_context(a_gateway(upstream))
        async with flaky(before.port) as network, client_of(network, tmp_path) as client:
            await client.call("send", audio[:30_000])
            await client.hear("final", 9)
            await gateways.aclose()
            async with a_gateway(upstream) as after:
                network.leads_to(after.port)
                await client.call("send", audio[30_000:])
                client.begin("finalize", "so far")
                stopped = await client.call("stop")
        assert client.samples == list(range(32_000))
        assert len(client.told("started")) == 2
        finals = client.told("final")
        assert [(final["start_ms"], final["end_ms"]) for final in finals[:20]] == [
            (100 * n, 100 * (n + 1)) for n in range(20)
        ]
        assert [final["event"] for final in finals] == list(range(1, len(finals) + 1))
        assert (await client.hear("finalized"))["id"] == "so far"
        assert stopped["sessions"] == 2
        assert stopped["audio_ms"] == 2000
        assert stopped["finals"] == len(finals)


async def test_a_session_that_reaches_its_longest_time_is_followed_by_the_next(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script = names_samples()
    audio = sound(64_000)
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_session_seconds=1) as gateway:
        async with flaky(gateway.port) as network, client_of(network, tmp_path) as client:
            await client.call("send", audio[:32_000])
            await client.hear("started", 2)
            await client.call("send", audio[32_000:])
            stopped = await client.call("stop")
        assert client.samples == list(range(32_000))
        assert stopped["audio_ms"] == 2000
        assert stopped["sessions"] >= 2


async def test_a_microphone_that_has_no_room_skips_in_sight(
    network: Flaky, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """What cannot be kept becomes one gap, in its place; the rest is heard."""
    answers = asyncio.Event()

    async def late(call: Any) -> AsyncIterator[Any]:
        async for response in names_samples()(call):
            await answers.wait()
            yield response

    upstream.script = late
    limits = {"replay_seconds": 10, "max_utterance_seconds": 5}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **limits) as gateway:
        network.leads_to(gateway.port)
        async with client_of(network, tmp_path, overflow="gap") as client:
            window = (await client.hear("started"))["limits"]["window_bytes"]
            for _ in range(0, window + 64_000, 16_000):
                await client.call("send", bytes(16_000))
            assert await client.get("kept") <= window
            assert client.told("held") == [True]
            answers.set()
            await client.until(lambda: client.told("held") == [True, False])
            await client.call("send", bytes(16_000))
            stopped = await client.call("stop")
            position = await client.get("position")
    (gap,) = client.told("gap")
    assert gap["reason"] == "overflow"
    assert stopped["gap_ms"] == gap["end_ms"] - gap["start_ms"] >= 2000
    told = sorted((part["start_ms"], part["end_ms"]) for part in [gap, *client.told("final")])
    assert [end for _, end in told[:-1]] == [start for start, _ in told[1:]], "a hole that nobody is told of"
    assert (told[0][0], told[-1][1]) == (0, position // 32)


async def test_a_file_waits_for_room(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.begin(window=1000)
        await peer.hear_audio(1000)
        await peer.ack(final=600, window=1000)
        await peer.hear_audio(1600)
        await peer.ack(final=1600, window=1000)
        await peer.hear_until("stop")
        assert len(peer.audio) == 2000
        await peer.stopped(1, audio_ms=62)

    async with scripted(script) as url, node_client(url, tmp_path, overflow="wait") as client:
        await client.hear("started")
        sending = client.begin("send", bytes(2000))
        await client.until(lambda: client.told("held"))
        assert await client.get("position") <= 1600
        stopping = client.begin("stop")
        assert await sending is True
        assert (await stopping)["audio_ms"] == 62


async def test_it_goes_to_another_gateway_before_this_one_goes_away(tmp_path: Path) -> None:
    """`go_away`: the old connection goes on until the new one is answered; then it may be closed `superseded`."""
    first, second = asyncio.Event(), asyncio.Event()
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        async with asyncio.timeout(60):  # a test that fails waits for its script
            await (leaving(peer) if len(peers) == 1 else resumed(peer))

    async def leaving(peer: Peer) -> None:
        await peer.begin()
        await peer.hear_audio(3200)
        await peer.final(1, "one", 0, 100)
        await peer.say("go_away", time_left_ms=20_000, reason="drain")
        await second.wait()
        await peer.hear_audio(6400)
        await peer.final(2, "two", 100, 200)
        first.set()
        await peer.say("error", code="superseded", message="another connection", retryable=False)
        await peer.socket.close(4409)

    async def resumed(peer: Peer) -> None:
        said = await peer.hear()
        assert said == {"type": "resume", "session_id": "s1", "resume_token": "r1", "last_event": 1}
        second.set()
        await first.wait()
        await peer.say("resumed", offset=3200, resume_token="r2", replayed=1)
        await peer.final(2, "two", 100, 200)
        await peer.hear_until("stop")
        assert len(peer.audio) == 3200
        await peer.stopped(3, audio_ms=200)

    async with scripted(script) as url, node_client(url, tmp_path) as client:
        await client.call("send", bytes(3200))
        await client.hear("go_away")
        await second.wait()
        await client.call("send", bytes(3200))
        await client.call("stop")
        assert [final["text"] for final in client.told("final")] == ["one", "two"]
        assert client.states == ["connecting", "live", "stopped"]


@pytest.mark.parametrize(("healthy", "attempts"), [(10_000, [1, 2, 3]), (0, [1, 2, 1])])
async def test_retry_after_is_kept(tmp_path: Path, healthy: int, attempts: list[int]) -> None:
    """The newest token is the one that counts; a connection that has lived for long makes up for those that failed."""
    tokens: list[str] = []

    async def script(peer: Peer) -> None:
        said = await peer.hear()
        assert isinstance(said, dict)
        tokens.append(str(said.get("resume_token", said["type"])))
        match len(tokens):
            case 1:
                await peer.started()
                await peer.socket.close(1012)
            case 2:
                await peer.say("error", code="overloaded", message="full", retryable=True, retry_after_ms=300)
                await peer.socket.close(1013)
            case 3:
                await peer.say("resumed", offset=0, resume_token="r2", replayed=0)
                await peer.socket.close(1011)
            case 4:
                await peer.say("resumed", offset=0, resume_token="r3", replayed=0)
                await peer.hear_until("stop")
                await peer.stopped(1, audio_ms=0)

    timing = QUICK | {"healthy": healthy}
    async with scripted(script) as url, node_client(url, tmp_path, timing=timing) as client:
        await client.until(lambda: client.states.count("live") == 3)
        await client.call("stop")
    assert tokens == ["start", "r1", "r1", "r2"]
    waits = [values[1] for name, values in client.heard if values[0] == "reconnecting"]
    assert [wait["in_ms"] >= 300 for wait in waits] == [False, True, False]
    assert [wait["attempt"] for wait in waits] == attempts


@pytest.mark.parametrize("lost", [True, False], ids=["an attempt was lost before", "none was"])
async def test_where_an_attempt_of_its_own_came_late_the_token_before_is_tried(tmp_path: Path, lost: bool) -> None:
    """The gateway has heard the lost one after the one that came through, and before anything was said on that."""
    tokens: list[str] = []

    async def script(peer: Peer) -> None:
        said = await peer.hear()
        assert isinstance(said, dict)
        tokens.append(str(said.get("resume_token", said["type"])))
        match tokens:
            case ["start"]:
                await peer.started()
                await peer.socket.close(1012)
            case ["start", "r1"] if lost:
                peer.socket.transport.abort()
            case [*_, "r2"]:
                await peer.say("error", code="session_unknown", message="not the token", retryable=False)
                await peer.socket.close(4404)
            case [*_, "r2", "r1"]:
                await peer.say("resumed", offset=0, resume_token="r3", replayed=0)
                await peer.hear_until("stop")
                await peer.stopped(1, audio_ms=0)
            case [*_, "r1"]:
                await peer.say("resumed", offset=0, resume_token="r2", replayed=0)
                await peer.socket.close(1012)
            case _:
                await peer.started()
                await peer.hear_until("stop")
                await peer.stopped(1, audio_ms=0)

    async with scripted(script) as url, node_client(url, tmp_path, timing=QUICK) as client:
        await client.until(lambda: client.states.count("live") == 3)
        await client.call("stop")
    assert tokens == (["start", "r1", "r1", "r2", "r1"] if lost else ["start", "r1", "r2", "start"])


async def test_a_new_session_is_told_only_what_has_no_answer(tmp_path: Path) -> None:
    """A final came, though no `ack` did; a gap was told; a `finalize` was not answered."""

    async def script(peer: Peer) -> None:
        said = await peer.hear()
        assert isinstance(said, dict)
        peers.append(peer)
        await (lost, unknown, anew)[len(peers) - 1](peer)

    async def lost(peer: Peer) -> None:
        await peer.started()
        await peer.hear_until("gap")
        await peer.hear_audio(6400)
        await peer.final(1, "one", 0, 50)
        await peer.say("gap", event=2, start_ms=100, end_ms=200, reason="muted")
        await peer.socket.close(1012)

    async def unknown(peer: Peer) -> None:
        await peer.say("error", code="session_unknown", message="who?", retryable=False)
        await peer.socket.close(4404)

    async def anew(peer: Peer) -> None:
        await peer.started()
        finalize = await peer.hear_until("finalize")
        assert len(peer.audio) == 0
        await peer.hear_until("gap")
        assert len(peer.audio) == 1600
        await peer.say("finalized", event=1, id=finalize["id"], end_ms=0)
        await peer.say("gap", event=2, start_ms=50, end_ms=150, reason="muted")
        await peer.final(3, "two", 0, 50, words=[{"word": "two", "start_ms": 10, "end_ms": 50}])
        await peer.hear_until("stop")
        await peer.final(4, "three", 150, 250)
        await peer.stopped(5, audio_ms=150, gap_ms=100, finals=2, billed_ms=3)

    peers: list[Peer] = []
    async with scripted(script) as url, node_client(url, tmp_path, timing=QUICK) as client:
        client.begin("send", bytes(800))
        client.begin("finalize", "mine")
        client.begin("send", bytes(2400))
        client.begin("gap", 3200)
        client.begin("send", bytes(3200))
        stopped = await client.call("stop")
        finals = [(final["text"], final["start_ms"], final["end_ms"]) for final in client.told("final")]
        assert finals == [("one", 0, 50), ("two", 50, 100), ("three", 200, 300)]
        assert client.told("final")[1]["words"] == [{"word": "two", "start_ms": 60, "end_ms": 100}]
        assert [gap["event"] for gap in client.told("gap")] == [2]
        assert [(answer["id"], answer["event"]) for answer in client.told("finalized")] == [("mine", 3)]
    counts = {"audio_ms": 200, "billed_ms": 3, "finals": 3, "gap_ms": 100, "sessions": 2, "event": 6}
    assert stopped | counts == stopped


async def test_a_finalize_that_is_said_twice_is_answered_once(tmp_path: Path) -> None:
    """Two of the same name are two, all the same."""
    asked: list[Any] = []

    async def script(peer: Peer) -> None:
        said = await peer.hear()
        assert isinstance(said, dict)
        if said["type"] == "start":
            await peer.started()
            asked.append(await peer.hear_until("finalize"))
            await peer.socket.close(1012)
            return
        await peer.say("resumed", offset=3200, resume_token="r2", replayed=0)
        for event in (1, 3):
            asked.append(await peer.hear_until("finalize"))
            await peer.say("finalized", event=event, id=asked[-1]["id"], end_ms=100)
            await peer.say("finalized", event=event + 1, id=asked[-1]["id"], end_ms=100)
        await peer.hear_until("stop")
        await peer.stopped(5, audio_ms=100)

    async with scripted(script) as url, node_client(url, tmp_path, timing=QUICK) as client:
        client.begin("send", bytes(3200))
        client.begin("finalize", "same")
        await client.hear("finalized")
        client.begin("finalize", "same")
        await client.call("stop")
        assert [answer["id"] for answer in client.told("finalized")] == ["same", "same"]
    assert asked[0] == asked[1] != asked[2]


async def test_a_refusal_that_is_for_good_is_told(network: Flaky, tmp_path: Path) -> None:
    start = {"audio": {"encoding": "LINEAR16", "sample_rate_hertz": 16_000}, "language_codes": ["english!"]}
    async with client_of(network, tmp_path, start=start) as client:
        assert await client.call("stop") is None
        assert client.states == ["connecting", "failed"]
        failed = client.heard[-1][1][1]
        assert failed["code"] == "invalid_config"
        assert failed["param"].startswith("language_codes")
    assert network.connections == 1


@pytest.mark.parametrize("renewed_in", [{}, {"retry_after_ms": 60_001}, {"retry_after_ms": 2_592_000_000}])
async def test_a_budget_that_is_not_renewed_soon_is_the_end(tmp_path: Path, renewed_in: dict[str, Any]) -> None:
    """Nobody waits for next month, and no timer of a browser could."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.final(1, "0")
        await peer.fail(4429, "budget_exhausted", retryable=True, **renewed_in)

    async with scripted(in_turn(script)) as url, node_client(url, tmp_path, timing=QUICK) as client:
        await client.until(lambda: client.states[-1:] == ["failed"])
        assert client.states == ["connecting", "live", "failed"]
        assert len(client.told("final")) == 1


async def test_a_budget_that_is_renewed_soon_is_waited_for(tmp_path: Path) -> None:
    """The session is over: a new one goes on."""

    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.fail(4429, "budget_exhausted", retryable=True, retry_after_ms=50)

    async def over(peer: Peer) -> None:
        await peer.resume()
        await peer.fail(4410, "session_ended")

    async def second(peer: Peer) -> None:
        await peer.accept("s2")
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(in_turn(first, over, second)) as url:
        async with node_client(url, tmp_path, timing=QUICK) as client:
            await client.until(lambda: client.states.count("live") == 2)
            await client.call("stop")
            assert client.states == ["connecting", "live", "reconnecting", "live", "stopped"]


async def test_who_leaves_ends_the_session(lasting: Gateway, network: Flaky, tmp_path: Path) -> None:
    async with client_of(network, tmp_path) as client:
        await client.hear("started")
        await client.call("close")
        assert client.states == ["connecting", "live", "stopped"]
        await lasting.until_no_session()


async def test_silence_is_kept_alive(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        for _ in range(3):
            assert await peer.hear() == {"type": "keepalive"}
        await peer.say("warning", code="idle", message="enough")
        await peer.hear_until("stop")
        await peer.stopped(1, audio_ms=0)

    timing = QUICK | {"keepalive": 50, "silent": 20}
    async with scripted(script) as url, node_client(url, tmp_path, timing=timing) as client:
        await client.hear("warning")
        assert client.states == ["connecting", "live"], "a keepalive needs no answer"
        await client.call("stop")


def a_gateway(upstream: ScriptedUpstream) -> Any:
    return run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60)
