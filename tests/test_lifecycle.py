"""How sessions and the gateway itself end: whatever vanishes leaves no session, task, call or process behind."""

import asyncio
import gc
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from app import embedded
from app.__main__ import main
from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.process import BOUND_SECONDS, all_end, environment, run_process, watch
from tests.test_bad_input import HANDSHAKE, content, frame, staged
from tests.upstream import BYTES_PER_SECOND, Call, ScriptedUpstream

ROOT = Path(__file__).parent.parent
SECOND = b"\1\2" * (BYTES_PER_SECOND // 2)
STOP = {"type": "stop"}
"""What takes longer does not happen at all."""

needs_emulator = pytest.mark.skipif(
    find_spec("onnxruntime") is None, reason="the extra `emulator` is not installed (onnxruntime is missing)"
)


def finals(messages: list[dict[str, Any]]) -> list[str]:
    return [message["text"] for message in messages if message["type"] == "final"]


async def until(condition: Callable[[], object]) -> None:
    """A test's own time limit bounds it."""
    while not condition():
        await asyncio.sleep(0.005)


async def never_reads(call: Call) -> AsyncIterator[Any]:
    """An upstream that takes the config, and then nothing."""
    await asyncio.Event().wait()
    yield  # pragma: no cover - makes this a generator


# A client vanishes ----------------------------------------------------------------------------------------


def aborts(socket: ClientConnection) -> None:
    socket.transport.abort()


def resets(client: ClientConnection) -> None:
    connection: socket.socket = client.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.transport.abort()


def breaks_off_inside_a_frame(client: ClientConnection) -> None:
    client.transport.write(b"\x82\xfe\x10\x00" + bytes(100))
    client.transport.close()


def says_goodbye(client: ClientConnection) -> None:
    client.transport.write(frame(0x88, b"\x03\xe9"))


@pytest.mark.parametrize("vanish", [aborts, resets, breaks_off_inside_a_frame, says_goodbye])
@pytest.mark.parametrize("hears", ["answers", "never answers"])
async def test_a_client_that_vanishes_leaves_nothing_behind(
    upstream: ScriptedUpstream, vanish: Callable[[ClientConnection], None], hears: str
) -> None:
    """No session, no task, no upstream call, even where the upstream is a black hole."""
    async with staged(upstream) as stage:
        if hears == "never answers":
            upstream.script = never_reads
        async with Client.connect(stage.gateway) as client:
            await client.say(START, SECOND[:6400])
            await upstream.called(2)
            vanish(client.socket)
            await stage.is_left_clean()


async def test_a_client_that_stops_without_a_word_is_noticed_by_pings(upstream: ScriptedUpstream) -> None:
    """Half-open: its connection stands, but nobody answers on it."""
    async with staged(upstream, ping_interval_seconds=0.2, ping_timeout_seconds=0.2) as stage:
        async with Client.connect(stage.gateway) as client:
            await client.say(START, SECOND[:6400])
            await upstream.called(2)
            client.socket.transport.pause_reading()
            await stage.gateway.until_no_session()
            await until(lambda: upstream.open_calls == 0)
            client.socket.transport.abort()
        await stage.is_left_clean()


async def test_a_client_that_only_answers_pings_is_alive(upstream: ScriptedUpstream) -> None:
    """A microphone that is muted says nothing for long."""
    async with staged(upstream, ping_interval_seconds=0.05, ping_timeout_seconds=1) as stage:
        async with Client.connect(stage.gateway) as client:
            await client.say(START)
            await client.hear("started")
            (connection,) = stage.gateway.hub.registry.relays.values()
            until_then = asyncio.get_running_loop().time() + 1.5
            await until(lambda: asyncio.get_running_loop().time() > until_then)
            assert list(stage.gateway.hub.registry.relays.values()) == [connection]
            await client.say(SECOND, STOP)
            assert finals(await client.hear_all()) == ["0-32000"]


class AnswersThenStalls(asyncio.Protocol):
    """Its pong goes out in time; then the loop of both ends stands still until the time is over."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket: socket.socket = transport.get_extra_info("socket")

    def data_received(self, data: bytes) -> None:
        self.heard += data
        _, found, ping = self.heard.partition(b"\x89\x04")
        if found and len(ping) == 4:
            pong = frame(0x8A, ping)
            assert os.write(self._socket.fileno(), pong) == len(pong)
            time.sleep(1.2)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


async def test_a_stall_of_the_gateway_costs_no_client_that_answered_in_time(upstream: ScriptedUpstream) -> None:
    """Its pong is not read yet when the timer is due."""
    async with staged(upstream, ping_interval_seconds=0.1, ping_timeout_seconds=1) as stage:
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_connection(AnswersThenStalls, "127.0.0.1", stage.gateway.port)
        transport.write(HANDSHAKE.encode() + b"\r\n")
        await until(lambda: client.closed.is_set() or client.heard.count(b"\x89\x04") == 2)
        transport.write(frame(0x81, b"no JSON"))
        await client.closed.wait()
        assert b"bad_json" in client.heard
        await stage.is_left_clean()


async def test_a_hundred_sessions_come_and_go(upstream: ScriptedUpstream) -> None:
    """A third stops in good order, a third is cut off, a third breaks the protocol; then all is as before."""

    async def visit(number: int) -> None:
        async with Client.connect(stage.gateway) as client:
            await client.say(START, SECOND)
            if number % 3 == 0:
                await client.say(STOP)
                assert finals(await client.hear_all()) == ["0-32000"]
            elif number % 3 == 1:
                client.socket.transport.abort()
            else:
                await client.say(START)
                await client.hear("error")

    async with staged(upstream) as stage:
        for wave in range(5):
            await asyncio.gather(*[visit(wave * 20 + number) for number in range(20)])
        await stage.is_left_clean()


async def test_sessions_that_ended_at_once_are_not_kept_until_somebody_comes(upstream: ScriptedUpstream) -> None:
    """Each has up to two minutes of audio."""
    async with staged(upstream) as stage, AsyncExitStack() as clients:
        for _ in range(12):
            client = await clients.enter_async_context(Client.connect(stage.gateway))
            await client.say(START, SECOND)
            await client.hear("final")
        lives = [weakref.ref(live) for live in stage.gateway.hub.registry.lives.values()]
        assert len(lives) == 12
        await clients.aclose()
        await stage.is_left_clean()
        await until(lambda: gc.collect() >= 0 and not [live for live in lives if live() is not None])


# The upstream goes ----------------------------------------------------------------------------------------


async def test_an_upstream_that_dies_is_told_and_its_return_awaited() -> None:
    """`warning upstream_retrying`; another server on the same port hears what was said meanwhile."""
    async with ScriptedUpstream() as upstream:
        port = int(upstream.address.rpartition(":")[2])
        async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
            async with Client.connect(gateway) as client:
                await client.say(START, SECOND, SECOND[:6400])
                await client.hear("final")
                await upstream._server.stop(None)
                assert (await client.hear("warning"))["code"] == "upstream_retrying"
                await client.say(SECOND)
                async with ScriptedUpstream(port=port):
                    await client.say({"type": "stop"})
                    messages = await client.hear_all()
    assert messages[-1]["type"] == "stopped"
    spans = [(m["start_ms"], m["end_ms"]) for m in messages if m["type"] == "final"]
    assert spans == [(0, 1000), (1000, 2000), (2000, 2200)]


@pytest.mark.parametrize("api", ["v1", "v2"])
async def test_a_timeout_that_was_asked_for_ends_even_an_upload(upstream: ScriptedUpstream, api: str) -> None:
    """The upstream hears no more while a client still waits to be taken: it gets `stopped`, and no second call."""

    async def times_out(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if len(call.audio) > 2 * BYTES_PER_SECOND:  # more than may go up at once: no write is on its way now
                break
        yield call.activity(2, 0)
        yield call.final("go", BYTES_PER_SECOND)
        yield call.activity(3, BYTES_PER_SECOND)
        if api == "v1":
            yield call.activity(4, 2 * BYTES_PER_SECOND)
            async for _ in call.hear():
                pass

    async with staged(upstream, speech_api=api, upstream_speed=1, chunk_ms=250) as stage:
        upstream.script = times_out
        upstream.calls.clear()
        async with Client.connect(stage.gateway) as client:
            await client.say(START | {"voice_activity_timeout": {"speech_end_ms": 600}})
            pushing = asyncio.create_task(client.say(*[SECOND] * 30))
            messages = await client.hear_all()
            assert client.close_code == 1000, messages[-1]
            await asyncio.gather(pushing, return_exceptions=True)
        assert finals(messages) == ["go"]
        assert messages[-1]["type"] == "stopped"
        assert len(upstream.calls) == 1
        await stage.is_left_clean()


async def test_base64_audio_that_comes_too_late_is_ignored_like_binary(upstream: ScriptedUpstream) -> None:
    """The gateway ends a session at its longest time: offsets that go on meanwhile are no hole."""

    async def waits(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        await over.wait()
        yield call.final("all", BYTES_PER_SECOND)

    over = asyncio.Event()
    async with staged(upstream, max_session_seconds=1) as stage:
        upstream.script = waits
        async with Client.connect(stage.gateway) as client:
            await client.say(START, content(SECOND[:16000], offset=0))
            call = await upstream.called(2)
            await until(lambda: call.half_closed)
            await client.say(content(SECOND[:16000], offset=16000), content(SECOND[:16000], offset=32000))
            await client.say({"type": "keepalive"}, STOP)
            over.set()
            messages = await client.hear_all()
            assert client.close_code == 1000, messages[-1]
        assert finals(messages) == ["all"]
        assert messages[-1]["audio_ms"] == 500
        await stage.is_left_clean()


async def test_audio_stays_in_order_while_the_upstream_says_nothing(upstream: ScriptedUpstream) -> None:
    """As much as may be unsettled has gone up, more waits: only the end of the leg makes room, and what waited comes
    after it."""
    answers = asyncio.Event()

    async def falls_silent(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        await answers.wait()
        yield call.final("heard", len(call.audio))

    limits = {"replay_seconds": 10, "max_utterance_seconds": 9, "leg_quiet_seconds": 9, "answer_seconds": 1}
    async with staged(upstream, **limits) as stage:
        upstream.script = falls_silent
        upstream.calls.clear()
        audio = b"".join(number.to_bytes(2, "little") for number in range(60_000)) * 4
        async with Client.connect(stage.gateway) as client:
            await client.say(START | {"interim_results": False})  # nothing is to be said before the end
            listening = asyncio.create_task(client.hear_all())
            pushing = asyncio.create_task(
                client.say(*[audio[at : at + 65_000] for at in range(0, len(audio), 65_000)], STOP)
            )
            call = await upstream.called(1)
            await until(lambda: call.half_closed)
            answers.set()
            await pushing
            messages = await listening
        assert messages[-1]["type"] == "stopped"
        assert b"".join(bytes(call.audio) for call in upstream.calls) == audio
        await stage.is_left_clean()


async def test_a_gap_of_half_a_sample_does_not_shift_what_follows(upstream: ScriptedUpstream) -> None:
    """Samples stand at even offsets of the client's stream; what a gap has torn apart is left out."""
    async with staged(upstream) as stage:
        upstream.calls.clear()
        stream = b"".join(number.to_bytes(2, "little") for number in range(32_000))
        messages = await transcribe(
            stage.gateway,
            stream[:16_001],
            {"type": "gap", "bytes": 2, "reason": "overflow"},
            stream[16_003:32_000],
            {"type": "gap", "bytes": 7999, "reason": "overflow"},
            stream[39_999:],
        )
        assert messages[-1]["type"] == "stopped"
        assert [bytes(call.audio) for call in upstream.calls] == [
            stream[:16_000],
            stream[16_004:32_000],
            stream[40_000:],
        ]
        assert messages[-2]["end_ms"] == 2000
        await stage.is_left_clean()


async def test_a_session_holds_few_calls_however_often_it_finalizes(upstream: ScriptedUpstream) -> None:
    """Each `finalize` ends a call; who asks faster than the upstream answers has to wait."""
    answers = asyncio.Event()

    async def waits(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        await answers.wait()
        yield call.final("heard", len(call.audio))

    async with staged(upstream) as stage:
        upstream.script = waits
        upstream.calls.clear()
        async with Client.connect(stage.gateway) as client:
            await client.say(START)
            listening = asyncio.create_task(client.hear_all())
            for number in range(40):
                await client.say(SECOND[:640], {"type": "finalize", "id": number})
            await client.say(STOP)
            while (most := upstream.open_calls) < 4:
                await asyncio.sleep(0.005)
            for _ in range(100):
                await asyncio.sleep(0.005)
                most = max(most, upstream.open_calls)
            answers.set()
            messages = await listening
        assert most <= 8
        assert [m["id"] for m in messages if m["type"] == "finalized"] == list(range(40))
        assert finals(messages) == ["heard"] * 40
        await stage.is_left_clean()


# The process ----------------------------------------------------------------------------------------------


async def test_the_number_of_threads_does_not_depend_on_sessions(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The same with one session and with thirty; REST requests add none either."""
    async with run_process(tmp_path, upstream=f"grpc://{upstream.address}") as process:
        gateway = await process.gateway()
        async with AsyncExitStack() as stack:

            async def begin() -> None:
                client = await stack.enter_async_context(Client.connect(gateway))
                await client.say(START, SECOND)
                await client.hear("final")

            await begin()
            assert (await gateway.get("/readyz")).status_code == 200
            one = process.threads
            await asyncio.gather(*[begin() for _ in range(29)])
            for path in ("/healthz", "/readyz", "/config", "/"):
                assert (await gateway.get(path)).status_code == 200
            assert (await gateway.get("/readyz")).json()["sessions"] == 30
            assert process.threads == one


async def test_python_knows_one_thread_of_ours(gateway: Gateway) -> None:
    """The main thread; the only other one is grpc's poller, however many sessions there were."""
    await asyncio.gather(*[transcribe(gateway, SECOND) for _ in range(10)])
    foreign = ("pytest_timeout",)
    started = [
        thread
        for thread in threading.enumerate()
        if not isinstance(thread, threading._DummyThread) and not thread.name.startswith(foreign)
    ]
    others = [thread for thread in started if thread is not threading.main_thread()]  # dummies: grpc's own, of C
    assert len(others) <= 1
    assert all("_poll_wrapper" in thread.name for thread in others)


async def test_sigterm_closes_every_session_and_ends_the_process(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """1012 for each; no upstream call is left, nothing is logged as an error."""
    async with run_process(tmp_path, upstream=f"grpc://{upstream.address}") as process:
        gateway = await process.gateway()
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client.connect(gateway)) for _ in range(5)]
            for client in clients:
                await client.say(START, SECOND)
                await client.hear("final")
            process.child.terminate()
            for client in clients:
                messages = await client.hear_all()
                assert (messages[-1]["type"], messages[-1]["code"]) == ("error", "restarting")
                assert client.close_code == 1012
            assert await process.ends() in {0, -signal.SIGTERM}
        await until(lambda: upstream.open_calls == 0)
        assert "Traceback" not in process.log
        assert " ERROR " not in process.log


@needs_emulator
async def test_a_killed_gateway_takes_its_emulator_with_it(tmp_path: Path) -> None:
    """Neither the emulator nor a worker of it lives on."""
    async with run_process(tmp_path, upstream="emulator", emulator_workers=2) as process:
        await process.gateway()
        family = process.descendants()
        assert len(family) >= 3
        watched = watch(family)
        process.child.kill()
        await process.ends()
        assert await all_end(watched)


@needs_emulator
async def test_a_killed_emulator_is_started_again_and_ctrl_c_ends_both(tmp_path: Path) -> None:
    """/readyz says so meanwhile; new sessions work. A terminal's Ctrl-C is no death of the emulator."""
    async with run_process(tmp_path, upstream="emulator", emulator_workers=1) as process:
        gateway = await process.gateway()
        assert (await gateway.get("/readyz")).json()["reason"] == "ok"
        emulator, *workers = process.descendants()
        watched = watch([emulator, *workers])
        os.kill(emulator, signal.SIGKILL)
        assert await all_end(watched)
        while (await gateway.get("/readyz")).json()["reason"] != "upstream: Speech-to-Text does not answer":
            pass
        assert (await gateway.get("/healthz")).status_code == 200
        async with httpx.AsyncClient(timeout=BOUND_SECONDS) as http:
            while (await http.get(gateway.http + "/readyz")).status_code != 200:
                pass
        messages = await transcribe(gateway, bytes(BYTES_PER_SECOND))
        assert messages[-1]["type"] == "stopped", messages[-1]
        assert messages[-1]["upstream_streams"] == 1
        assert process.log.count("starting it again") == 1
        watched = watch(process.descendants())
        async with connect(gateway.url) as client:
            await client.send(json.dumps(START))
            await client.recv()
            os.killpg(process.pid, signal.SIGINT)
            await process.ends()
        assert await all_end(watched)
        assert process.log.count("starting it again") == 1


IMPOSTOR = """#!/bin/sh
echo $$ >> {pids}
[ $(wc -l < {pids}) = 2 ] || echo listening on 127.0.0.1:1
exec cat
"""


async def test_an_emulator_that_hangs_in_its_restart_is_killed_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three starts the second never serves."""
    pids, impostor = tmp_path / "pids", tmp_path / "python"
    impostor.write_text(IMPOSTOR.format(pids=pids))
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))
    monkeypatch.setattr(embedded, "RESTART_SECONDS", 0)
    emulator = embedded.EmbeddedEmulator(workers=1)
    try:
        assert await emulator.start() == "127.0.0.1:1"
        monkeypatch.setattr(embedded, "START_SECONDS", 0.5)
        first = int(pids.read_text())
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(pids.read_text().split()) >= 3)
        second = int(pids.read_text().split()[1])
        with pytest.raises(ProcessLookupError):
            os.kill(second, 0)
    finally:
        await emulator.stop()


# Wrong settings -------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a port that is no number": ({"port": "abc"}, "GATEWAY_PORT: 'abc': "),
    "a port beyond all ports": ({"port": "65536"}, "GATEWAY_PORT: '65536': "),
    "a setting that there is not": (
        {"max_sesions": "5"},
        "GATEWAY_MAX_SESIONS: there is no such setting; did you mean GATEWAY_MAX_SESSIONS?",
    ),
    "an unknown upstream": (
        {"upstream": "foo"},
        "GATEWAY_UPSTREAM: 'foo' is none of emulator, google, grpc://HOST:PORT",
    ),
    "an upstream without a port": (
        {"upstream": "grpc://localhost"},
        "GATEWAY_UPSTREAM: 'grpc://localhost' is none of emulator, google, grpc://HOST:PORT",
    ),
    "an unknown API": ({"speech_api": "v3"}, "GATEWAY_SPEECH_API: 'v3': "),
    "a missing key file": (
        {"upstream": "google", "google_credentials_file": "/no/such/key.json"},
        "GATEWAY_GOOGLE_CREDENTIALS_FILE: there is no file '/no/such/key.json'",
    ),
    "a model that there is not": (
        {"upstream": "grpc://127.0.0.1:1", "model": "whisper"},
        "GATEWAY_MODEL: 'whisper' is none of long, ",
    ),
    "limits that do not fit": (
        {"replay_seconds": "20"},
        "GATEWAY_REPLAY_SECONDS must be over GATEWAY_MAX_UTTERANCE_SECONDS",
    ),
    "google without credentials": (
        {"upstream": "google", "NO_GCE_CHECK": "true"},
        "GATEWAY_UPSTREAM=google needs credentials. On your machine: `gcloud auth application-default login`.",
    ),
}
WRONG |= {
    f"{model} without a region": (
        {"upstream": "grpc://127.0.0.1:1", "model": model},
        f"GATEWAY_MODEL: {model!r} needs a region: GATEWAY_GOOGLE_LOCATION must be one, ",
    )
    for model in ("chirp_2", "chirp_3")
}


def told(log: str) -> str:
    """The one line of a start that failed."""
    (line,) = log.splitlines()
    assert line.startswith("captions gateway: ")
    return line.removeprefix("captions gateway: ")


Complaint = Callable[..., str]


@pytest.fixture
def complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complaint:
    """What the start says, with such settings, before it ends with status 2. Without a process: there are many."""

    def start(**settings: str) -> str:
        home = {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "GOOGLE_APPLICATION_CREDENTIALS": ""}
        for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
            monkeypatch.delenv(name)
        for name, value in environment(home | settings).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2
        return told(capsys.readouterr().err)

    return start


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_stops_the_start_with_one_clear_line(complaint: Complaint, name: str) -> None:
    """Status 2, and a line that names the setting, the value and what is allowed."""
    settings, says = WRONG[name]
    line = complaint(**settings)
    assert line.startswith(says)
    assert len(line) > len("GATEWAY_PORT: 'abc': ")


@pytest.mark.filterwarnings("ignore:The load_credentials_from_file method:DeprecationWarning")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"type": "service_account"}', "missing fields "),
        ("no json", "is not a valid json file: Expecting value"),
        ("[]", "'list' object has no attribute 'get'"),
        ("{}", "does not have a valid type"),
    ],
)
def test_a_broken_key_file_is_told_as_such(complaint: Complaint, tmp_path: Path, content: str, reason: str) -> None:
    """It is there, so nobody has to be told that credentials are needed."""
    key = tmp_path / "key.json"
    key.write_text(content)
    line = complaint(upstream="google", google_credentials_file=str(key))
    assert line.startswith(f"GATEWAY_GOOGLE_CREDENTIALS_FILE: key file {key} is not usable: ")
    assert reason in line
    assert "Error(" not in line


@pytest.mark.parametrize("setting", ["api_keys_file", "jwt_jwks"])
def test_a_broken_file_of_keys_is_told_as_such(complaint: Complaint, tmp_path: Path, setting: str) -> None:
    path = tmp_path / "keys"
    path.write_text("no keys at all")
    line = complaint(upstream="grpc://127.0.0.1:1", jwt_audience="a", **{setting: str(path)})
    assert line.startswith(f"GATEWAY_{setting.upper()}: {path}: ")


def test_an_unknown_name_in_a_file_of_settings_is_wrong_too(complaint: Complaint, tmp_path: Path) -> None:
    """A mistake in `.env` costs as much as one in the environment; names of others may stand there."""
    (tmp_path / ".env").write_text("OTHERS=1\nGATEWAY_PROT=8080\n")
    line = complaint(upstream="grpc://127.0.0.1:1")
    assert line == "GATEWAY_PROT: there is no such setting; did you mean GATEWAY_PORT?"


async def test_a_port_in_use_stops_the_start_with_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with run_process(tmp_path, upstream="grpc://127.0.0.1:1", port=port) as process:
            assert await process.ends() == 2, process.log
    assert told(process.log) == f"cannot listen on 127.0.0.1:{port}: Address already in use"
