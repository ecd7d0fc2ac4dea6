"""The command `transcribe` as a child process against a scripted gateway: what is printed, and with which exit code."""

import asyncio
import json
import os
import pty
import signal
import struct
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from app.auth.keys import ApiKeys
from app.cli.command import main
from app.cli.demo import GatewayNotReadyError, own_gateway
from app.cli.microphone import KEPT_BLOCKS, Recording
from app.core.protocol import Gap
from tests.scripted import Peer, in_turn, refusing, scripted

ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "app.cli")


def wav(path: Path, seconds: float, *, channels: int = 1, tag: int = 1, bits: int = 16) -> bytes:
    """Write a recording of random audio at 8 kHz; returns that audio."""
    block = channels * bits // 8
    data = os.urandom(int(seconds * 8000) * block)
    form = struct.pack("<HHIIHH", tag, channels, 8000, 8000 * block, block, bits)
    head = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data))
    path.write_bytes(head + data)
    return data


def size(path: Path) -> int:
    return path.stat().st_size


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    wav(path, 1)
    return path


async def start(*arguments: object, cwd: Path = ROOT, **environment: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


async def transcribe(*arguments: object, cwd: Path = ROOT, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    return await end(await start(*arguments, cwd=cwd, **environment))


async def end(process: Process) -> tuple[int, str, str]:
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def speech(peer: Peer) -> None:
    """Two finals with interims and a gap between them."""
    await peer.begin()
    await peer.interim("hel")
    await peer.hear_until("stop")
    await peer.final(1, "Hello there.", 0, 900)
    await peer.say("gap", event=2, start_ms=900, end_ms=1500, reason="upstream")
    await peer.interim("good")
    await peer.final(3, "Good bye.", 1500, 2000)
    await peer.stopped(4)


# What is printed --------------------------------------------------------------------------------


async def test_a_pipe_gets_a_line_for_every_final_and_nothing_else(recording: Path) -> None:
    async with scripted(speech) as url:
        result = await transcribe(recording, "--url", url, "--fast")
    assert result == (0, "Hello there.\n[... audio missing: upstream]\nGood bye.\n", "")


async def test_json_is_one_durable_message_a_line(recording: Path) -> None:
    async with scripted(speech) as url:
        code, out, _ = await transcribe(recording, "--url", url, "--fast", "--json")
    assert code == 0
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["final", "gap", "final", "stopped"]


@pytest.mark.parametrize(("form", "first"), [("--srt", "1\n00:00:00,000 --> 00:00:00,900\n"), ("--vtt", "WEBVTT\n\n")])
async def test_captions_for_players(recording: Path, form: str, first: str) -> None:
    async with scripted(speech) as url:
        code, out, _ = await transcribe(recording, "--url", url, "--fast", form)
    assert code == 0
    assert out.startswith(first)
    assert "Good bye." in out


async def test_output_goes_to_the_file_and_nowhere_else(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    async with scripted(speech) as url:
        assert await transcribe(recording, "--url", url, "--fast", "--output", path) == (0, "", "")
    assert path.read_text().startswith("Hello there.\n")


class Watcher(asyncio.Protocol):
    """Everything a terminal was told to show, until its last user has gone."""

    def __init__(self) -> None:
        self.seen = ""
        self._news = asyncio.Event()
        self._gone = False

    async def shows(self, text: str) -> None:
        while text not in self.seen:
            assert not self._gone, f"{text!r} was never shown"
            self._news.clear()
            await self._news.wait()

    def data_received(self, data: bytes) -> None:
        self.seen += data.decode(errors="replace")
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._news.set()


async def test_on_a_terminal_an_interim_turns_into_its_final_above_a_bar(recording: Path) -> None:
    master, slave = pty.openpty()
    watcher = Watcher()
    await asyncio.get_running_loop().connect_read_pipe(lambda: watcher, os.fdopen(master, "rb", 0))

    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.interim("hello th")
        await watcher.shows("hello th")
        await peer.hear_until("stop")
        await peer.final(1, "Hello there.", 0, 900)
        await watcher.shows("Hello there.")
        await peer.stopped(2)

    async with scripted(script) as url:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, recording, "--url", url, "--fast", cwd=ROOT, stdout=slave, env={**os.environ, "TERM": "xterm"}
        )
        os.close(slave)
        assert await process.wait() == 0
    await watcher.shows("/ 0:01")


# What is sent -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [[], ["--fast"]])
@pytest.mark.parametrize(("tag", "bits", "encoding"), [(1, 16, "LINEAR16"), (6, 8, "ALAW"), (7, 8, "MULAW")])
async def test_the_audio_of_the_file_arrives_as_it_is(
    tmp_path: Path, pace: list[str], tag: int, bits: int, encoding: str
) -> None:
    path = tmp_path / "talk.wav"
    data = wav(path, 0.35, tag=tag, bits=bits)

    async def script(peer: Peer) -> None:
        start = await peer.begin()
        assert start["audio"]["encoding"] == encoding
        assert start["audio"]["sample_rate_hertz"] == 8000
        await peer.hear_until("stop")
        assert bytes(peer.audio) == data
        await peer.stopped(1)

    async with scripted(script) as url:
        assert await transcribe(path, "--url", url, *pace) == (0, "", "")


async def test_options_become_fields_of_start(recording: Path) -> None:
    async def script(peer: Peer) -> None:
        request = peer.socket.request
        assert request is not None
        assert request.headers["Authorization"] == "Bearer secret"
        start = await peer.begin()
        assert start["language_codes"] == ["en-GB", "fr-FR"]
        assert start["model"] == "latest_long"
        assert start["enable_word_time_offsets"]
        assert start["enable_word_confidence"]
        assert not start["interim_results"], "nobody sees them in a pipe"
        assert [phrase["value"] for phrase in start["phrases"]] == ["Sydney Carton"]
        frame = await peer.hear()
        assert isinstance(frame, dict)
        assert (frame["type"], frame["offset"]) == ("audio", 0)
        await peer.hear_until("stop")
        await peer.stopped(1)

    languages = ["--language", "en-GB", "--language", "fr-FR"]
    others = ["--token", "secret", "--model", "latest_long", "--words", "--base64", "--phrase", "Sydney Carton"]
    async with scripted(script) as url:
        result = await transcribe(recording, "--url", url, *languages, *others)
    assert result == (0, "", "")


async def test_a_token_may_stand_in_a_file(recording: Path, tmp_path: Path) -> None:
    """A command line can be read by everybody on the machine."""

    async def script(peer: Peer) -> None:
        assert peer.socket.request and peer.socket.request.headers["Authorization"] == "Bearer secret"
        await peer.begin()
        await peer.hear_until("stop")
        await peer.stopped(1)

    (tmp_path / "token").write_text("secret\n")
    async with scripted(script) as url:
        assert await transcribe(recording, "--url", url, "--token-file", tmp_path / "token") == (0, "", "")
        code, _, err = await transcribe(recording, "--url", url, "--token-file", tmp_path / "absent")
    assert (code, err) == (2, f"transcribe: {tmp_path / 'absent'}: No such file or directory\n")


async def test_a_new_key_is_shown_once_and_its_entry_is_one_for_the_file(tmp_path: Path) -> None:
    code, entry, told = await transcribe("key", "my-app")
    key = told.split()[-1]
    (tmp_path / "keys.toml").write_text(entry)
    assert code == 0 and key not in entry
    assert ApiKeys(tmp_path / "keys.toml").check(key).principal == "key:my-app"
    code, entry, told = await transcribe("key", "my app")
    assert (code, entry) == (2, "") and "'my app' is not 1 to 64 letters" in told


async def test_two_channels_are_mixed_and_the_user_is_told(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    wav(path, 0.5, channels=2)

    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.hear_until("stop")
        assert len(peer.audio) == 8000
        await peer.stopped(1)

    async with scripted(script) as url:
        result = await transcribe(path, "--url", url, "--fast")
    assert result == (0, "", "note: 2 channels are mixed down to one\n")


async def test_a_warning_stands_beside_the_captions(recording: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.say("warning", code="upstream_retrying", message="the recognizer is away")
        await peer.say("go_away", time_left_ms=20_000, reason="drain")
        await peer.hear_until("stop")
        await peer.final(1, "Hello.")
        await peer.stopped(2)

    async with scripted(script) as url:
        code, out, err = await transcribe(recording, "--url", url, "--fast")
    assert (code, out) == (0, "Hello.\n")
    assert err.splitlines() == [
        "the gateway warns: upstream_retrying: the recognizer is away",
        "the gateway goes away in 20 s (drain): moving on",
    ]


async def test_a_file_named_like_a_command_is_reached_by_its_path(tmp_path: Path) -> None:
    wav(tmp_path / "serve", 0.1)
    async with scripted(speech) as url:
        code, out, _ = await transcribe("./serve", "--url", url, "--fast", cwd=tmp_path)
    assert code == 0
    assert out.startswith("Hello there.")


# Failures: one line, and an exit code -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.wav", None, "No such file or directory"),
        ("song.mp3", b"ID3\4\0\0\0\0\0\0\0\0\0\0", "this is an MP3 file: taken is WAV with"),
        ("empty.wav", b"", "this is an empty file: taken is WAV with"),
    ],
)
async def test_a_wrong_file_is_named_with_what_is_taken(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, err = await transcribe(name, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"transcribe: {name}: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["--mic", "talk.wav"], ["talk.wav", "--srt", "--vtt"], ["talk.wav", "--frame-ms", "0"]]
)
async def test_wrong_arguments_show_the_usage(arguments: list[str]) -> None:
    code, _, err = await transcribe(*arguments)
    assert code == 2
    assert "usage: transcribe" in err


@pytest.mark.parametrize("value", ["0", "10001", "-1", "abc"])
async def test_a_wrong_size_of_frames_is_told_with_its_range(value: str) -> None:
    code, _, err = await transcribe("talk.wav", f"--frame-ms={value}")
    assert code == 2
    assert err.endswith(f"argument --frame-ms: {value!r} is not from 1 to 10000\n")


async def test_the_recording_is_never_overwritten(recording: Path) -> None:
    code, _, err = await transcribe(recording, "--output", recording)
    assert code == 2
    assert "is the recording itself" in err
    assert size(recording) == 44 + 16_000


async def test_a_gateway_that_refuses_leaves_the_old_output_alone(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_text("old")
    async with refusing(503, "") as url:
        code, _, _ = await transcribe(recording, "--url", url, "--output", path)
    assert code == 1
    assert path.read_text() == "old"


async def test_an_output_that_cannot_be_written_is_named(recording: Path, tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.socket.wait_closed()

    path = tmp_path / "absent" / "captions.txt"
    async with scripted(script) as url:
        code, _, err = await transcribe(recording, "--url", url, "--output", path)
    assert (code, err) == (2, f"transcribe: {path}: No such file or directory\n")


async def test_without_a_gateway_the_user_is_told_how_to_run_one(recording: Path) -> None:
    async with scripted(speech) as url:
        pass
    code, out, err = await transcribe(recording, "--url", url)
    assert (code, out) == (1, "")
    assert err == f"transcribe: cannot reach {url}: connection refused: is the gateway running? `make run`\n"


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (
            401,
            {"code": "unauthenticated", "message": "no credentials", "retryable": False},
            "unauthenticated: no credentials: give a valid token with --token or --token-file",
        ),
        (
            429,
            {"code": "too_many_sessions", "message": "8 of 8", "retryable": True, "retry_after_ms": 5000},
            "too_many_sessions: 8 of 8: try again in 5 s",
        ),
        (
            400,
            {"code": "invalid_config", "message": "no", "retryable": False, "param": "language_codes[0]"},
            "invalid_config: no: change --language",
        ),
        (503, {"code": "overloaded", "message": "no room", "retryable": True}, "overloaded: no room: try again"),
    ],
)
async def test_a_refusal_says_what_to_do(recording: Path, status: int, error: dict[str, object], said: str) -> None:
    async with refusing(status, json.dumps({"error": error})) as url:
        assert await transcribe(recording, "--url", url) == (1, "", f"transcribe: {said}\n")


async def test_another_servers_refusal_puts_the_address_in_question(recording: Path) -> None:
    async with refusing(404, "<html>") as url:
        code, _, err = await transcribe(recording, "--url", url)
    assert code == 1
    assert err == (
        "transcribe: http_404: the server refused the connection with HTTP 404 Not Found: "
        "is --url the address of a gateway?\n"
    )


async def test_an_error_in_the_middle_keeps_the_captions_before_it(recording: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.hear()
        await peer.final(1, "Hello.")
        await peer.say("error", code="upstream_rejected", message="no such model", retryable=False)
        await peer.socket.close(4400)

    async with scripted(script) as url:
        result = await transcribe(recording, "--url", url)
    assert result == (
        1,
        "Hello.\n",
        "transcribe: upstream_rejected: no such model: trying again will not help\n",
    )


async def test_a_connection_that_stays_broken_is_one_line(recording: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.cut()

    async with scripted(script) as url:
        code, _, err = await transcribe(recording, "--url", url, "--give-up", 0)
    assert code == 1
    assert err.startswith("transcribe: the connection broke without a closing frame")
    assert err.count("\n") == 1


async def test_a_connection_that_breaks_is_told_and_the_captions_go_on(recording: Path) -> None:
    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.final(1, "Hello there.", 0, 500)
        await peer.cut()

    async def refuses(peer: Peer) -> None:
        await peer.resume()
        await peer.fail(4404, "session_unknown")

    async def anew(peer: Peer) -> None:
        await peer.accept("s2")
        await peer.hear_until("stop")
        await peer.final(1, "Good bye.", 0, 500)
        await peer.stopped(2)

    async with scripted(in_turn(first, refuses, anew)) as url:
        code, out, err = await transcribe(recording, "--url", url, "--fast", "--json")
    assert code == 0
    finals = [json.loads(line) for line in out.splitlines()][:2]
    assert [(final["event"], final["text"], final["start_ms"]) for final in finals] == [
        (1, "Hello there.", 0),
        (2, "Good bye.", 500),
    ]
    assert err.splitlines() == [
        "reconnecting, audio is kept: the connection broke without a closing frame",
        "connected again: a new session goes on",
    ]


async def test_who_records_sees_that_there_is_no_connection_and_what_becomes_of_the_audio(tmp_path: Path) -> None:
    """It is kept while there is room, and lost after that; the microphone never gives up."""
    (tmp_path / "sounddevice.py").write_text(DEVICE.replace("range(3)", "range(9)"))
    master, slave = pty.openpty()
    watcher = Watcher()
    await asyncio.get_running_loop().connect_read_pipe(lambda: watcher, os.fdopen(master, "rb", 0))

    async def first(peer: Peer) -> None:
        await peer.begin(window=9600)
        await peer.cut()

    async def is_full(peer: Peer) -> None:
        await peer.hear()
        await peer.fail(4429, "too_many_sessions", retryable=True, retry_after_ms=1500)

    async def anew(peer: Peer) -> None:
        await watcher.shows("reconnecting: no room, audio is lost")
        await peer.begin()
        await peer.hear_until("gap")
        assert len(peer.audio) == 9600
        await peer.interim("connected")
        await watcher.shows("connected")
        process.send_signal(signal.SIGINT)
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(in_turn(first, is_full, anew)) as url:
        environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": f"{tmp_path}:{ROOT}", "COLUMNS": "100"}
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "--mic", "--url", url, cwd=ROOT, stdout=slave, env=environment
        )
        os.close(slave)
        await watcher.shows("reconnecting, audio is kept: the connection broke")
        assert await process.wait() == 0


# Ctrl-C -----------------------------------------------------------------------------------------


async def test_ctrl_c_stops_the_audio_and_prints_the_last_finals(tmp_path: Path) -> None:
    wav(tmp_path / "long.wav", 3600)
    listening = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.hear()
        listening.set()
        await peer.hear_until("stop")
        await peer.final(1, "So far.")
        await peer.stopped(2)

    async with scripted(script) as url:
        process = await start(tmp_path / "long.wav", "--url", url)
        await listening.wait()
        process.send_signal(signal.SIGINT)
        code, out, err = await end(process)
    assert (code, out) == (130, "So far.\n")
    assert err.startswith("stopping: waiting for the last captions")


async def test_a_second_ctrl_c_does_not_wait_for_a_gateway_that_says_nothing(tmp_path: Path) -> None:
    wav(tmp_path / "long.wav", 3600)
    listening = asyncio.Event()
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.hear()
        listening.set()
        await peer.hear_until("stop")
        asked.set()
        await peer.socket.wait_closed()

    async with scripted(script) as url:
        process = await start(tmp_path / "long.wav", "--url", url)
        await listening.wait()
        process.send_signal(signal.SIGINT)
        await asked.wait()
        process.send_signal(signal.SIGINT)
        code, _, err = await end(process)
    assert code == 130
    assert err.splitlines()[-1] == "transcribe: the gateway did not send the last captions in time"


async def test_a_reader_that_goes_away_ends_the_command_quietly(recording: Path) -> None:
    """As in `transcribe talk.wav | head -1`."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.begin()
        await gone.wait()
        await peer.final(1, "Hello.")
        await peer.socket.wait_closed()

    reading, writing = os.pipe()
    async with scripted(script) as url:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, recording, "--url", url, cwd=ROOT, stdout=writing, stderr=PIPE
        )
        os.close(writing)
        os.close(reading)
        gone.set()
        _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")


# The microphone ---------------------------------------------------------------------------------

NO_PORTAUDIO = 'raise OSError("PortAudio library not found")\n'
NO_DEVICE = """\
class PortAudioError(Exception):
    pass
class RawInputStream:
    def __init__(self, **options):
        raise PortAudioError("Error querying device -1")
"""
DEVICE = """\
import threading
class PortAudioError(Exception):
    pass
class RawInputStream:
    def __init__(self, *, callback, **options):
        self.thread = threading.Thread(target=lambda: [callback(bytes([n]) * 3200, 1600, None, None) for n in range(3)])
    def start(self):
        self.thread.start()
    def close(self):
        self.thread.join()
"""


@pytest.mark.parametrize(("module", "said"), [(NO_PORTAUDIO, "needs PortAudio"), (NO_DEVICE, "no microphone")])
async def test_a_machine_without_a_microphone_is_told_so(tmp_path: Path, module: str, said: str) -> None:
    """These stand in for the library, which no test machine has hardware for."""
    (tmp_path / "sounddevice.py").write_text(module)
    code, out, err = await transcribe("--mic", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


async def test_what_the_audio_thread_records_is_sent_until_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text(DEVICE)
    recorded = asyncio.Event()

    async def script(peer: Peer) -> None:
        start = await peer.begin()
        assert start["audio"]["sample_rate_hertz"] == 16_000
        await peer.hear_audio(9600)
        assert bytes(peer.audio) == b"\0" * 3200 + b"\1" * 3200 + b"\2" * 3200
        recorded.set()
        await peer.hear_until("stop")
        await peer.final(1, "Hello.")
        await peer.stopped(2)

    async with scripted(script) as url:
        process = await start("--mic", "--url", url, PYTHONPATH=f"{tmp_path}:{ROOT}")
        await recorded.wait()
        process.send_signal(signal.SIGINT)
        code, out, _ = await end(process)
    assert (code, out) == (0, "Hello.\n")


async def test_what_a_slow_gateway_does_not_take_becomes_a_gap_in_its_place() -> None:
    recording = Recording()
    for number in range(KEPT_BLOCKS + 2):
        recording.add(bytes([number]))
    pieces = recording.pieces()
    first = [await anext(pieces) for _ in range(KEPT_BLOCKS)]
    assert first == [bytes([number]) for number in range(KEPT_BLOCKS)]
    recording.add(b"on again")
    assert await anext(pieces) == Gap(bytes=2, reason="overflow")
    assert await anext(pieces) == b"on again"


# serve, sample, demo, --help --------------------------------------------------------------------


def test_help_names_every_command_and_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("serve", "sample", "demo", "--mic", "--srt", "JSON Lines", "exit code"))


async def test_help_loads_nothing_heavy() -> None:
    script = "import sys, app.cli; print(*{'asyncio', 'websockets', 'rich', 'msgspec', 'httpx'} & set(sys.modules))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=ROOT, stdout=PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == ""


@pytest.mark.parametrize("command", ["serve", "demo"])
async def test_commands_take_no_further_words(command: str) -> None:
    code, _, err = await transcribe(command, "surplus")
    assert code == 2
    assert f"usage: transcribe {command}" in err


READY_GATEWAY = """\
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.send_response(200 if Handler.asked > 2 else 503)
        self.end_headers()
        self.wfile.write(b"the recognizer is loading")
HTTPServer((os.environ["GATEWAY_HOST"], int(os.environ["GATEWAY_PORT"])), Handler).serve_forever()
"""


async def test_a_gateway_of_ones_own_is_waited_for_and_stopped() -> None:
    said: list[str] = []
    async with own_gateway(said.append, (sys.executable, "-c", READY_GATEWAY)) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
    assert said[0].startswith(f"starting a gateway on {url}")
    assert said[1:] == ["not ready yet: /readyz says 503 the recognizer is loading"]


async def test_a_gateway_that_does_not_start_shows_the_end_of_its_log() -> None:
    with pytest.raises(GatewayNotReadyError, match=r"ended with code 3\n  no model here"):
        async with own_gateway(lambda _: None, (sys.executable, "-c", "print('no model here'); raise SystemExit(3)")):
            pass
