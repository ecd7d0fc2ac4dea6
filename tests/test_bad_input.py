"""What a client can get wrong, as one table: each row ends in its documented error and close code, at nobody's cost.

One gateway serves the whole table. Beside all rows runs a bystander's session, which is heard after each of them and to
its end; after each row another session is served, and no session, no task and no upstream call may be left.
"""

import asyncio
import base64
import gc
import json
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.upstream import BYTES_PER_SECOND, ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECOND = b"\1\2" * (BYTES_PER_SECOND // 2)
STOP = {"type": "stop"}
LEFT_SECONDS = 20.0
"""What a session leaves behind must be gone by then; it takes milliseconds."""


class Raw(bytes):
    """Goes over TCP as it is, past the client's WebSocket library."""


Frame = dict[str, Any] | str | bytes | Raw


@dataclass(frozen=True)
class Row:
    name: str
    says: tuple[Frame, ...]
    code: str | None
    """Of the `error`; None: the close frame says it all."""
    close: int
    says_why: tuple[str, ...] = ()
    """Fragments of the error's message: the offending value, the limit."""
    param: str | None = None
    hears_before: tuple[str, ...] = ()
    """Kinds of messages that come first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of a gateway for this row alone."""


def start(**fields: Any) -> dict[str, Any]:
    return START | fields


def audio(**fields: Any) -> dict[str, Any]:
    """`start` with another `audio`; a field that is None is left out."""
    asked = START["audio"] | fields
    return start(audio={name: value for name, value in asked.items() if value is not None})


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in START.items() if key != name}


def content(audio: bytes, **fields: Any) -> dict[str, Any]:
    return {"type": "audio", "content": base64.b64encode(audio).decode(), **fields}


def frame(first: int, payload: bytes, *, masked: bool = True) -> Raw:
    """A WebSocket frame of up to 125 bytes; `first`: FIN, RSV and opcode. Masked with zeroes."""
    return Raw(bytes([first, len(payload) | (0x80 if masked else 0)]) + (bytes(4) if masked else b"") + payload)


def config(name: str, message: dict[str, Any], param: str, *says_why: str) -> Row:
    """A `start` that asks for what there is not."""
    return Row(name, (message,), "invalid_config", 4400, says_why, param)


def later(name: str, *says: Frame, code: str, close: int = 4400, param: str | None = None, why: tuple[str, ...]) -> Row:
    """Something wrong in a session that began well."""
    return Row(name, (START, *says), code, close, why, param, hears_before=("started",))


def no_json(name: str, text: Frame, *says_why: str) -> Row:
    return Row(name, (text,), "bad_json", 1007, says_why or ("a text frame must be one JSON object",))


ALLOWED_RATE = "an integer from 8000 to 48000"
ALLOWED_TYPES = "start, audio, resume, gap, finalize, keepalive, stop"

TABLE = [
    # The first message
    Row("audio before start", (SECOND[:640],), "bad_order", 4400, ("must be `start` or `resume`, not audio",)),
    Row("stop before start", (STOP,), "bad_order", 4400, ("must be `start` or `resume`, not `stop`",)),
    Row("keepalive before start", ({"type": "keepalive"},), "bad_order", 4400, ("not `keepalive`",)),
    Row("base64 audio before start", (content(b"ab"),), "bad_order", 4400, ("not `audio`",)),
    Row(
        "resume of a session that nobody knows",
        ({"type": "resume", "session_id": "nobody", "resume_token": "t", "last_event": 0},),
        "session_unknown",
        4404,
        ("'nobody'",),
    ),
    Row(
        "resume of an endless session id",
        ({"type": "resume", "session_id": "x" * 65, "resume_token": "t", "last_event": 0},),
        "invalid_config",
        4400,
        ("at most 64 characters",),
        "session_id",
    ),
    Row("no start in time", (), "start_timeout", 4408, ("2 s",), settings={"start_timeout_seconds": 2}),
    # What is no message
    no_json("no JSON", "hello"),
    no_json("an empty text", ""),
    no_json("truncated JSON", '{"type": "start", "audio": {'),
    no_json("two objects in one frame", '{"type":"stop"}{"type":"stop"}'),
    no_json("a list", "[1, 2]", "not [1, 2]"),
    no_json("a number", "42", "not 42"),
    no_json("a string", '"start"', "not 'start'"),
    no_json("null", "null", "not None"),
    no_json("a NUL byte in the JSON", '{"type": "start\0"}'),
    no_json("a byte order mark", "\ufeff" + json.dumps(START)),
    no_json("half a surrogate pair", json.dumps(start(phrases=[{"value": "\ud800"}]))),
    no_json("lists nested 50,000 deep", '{"type": "start", "audio": ' + "[" * 50_000 + "]" * 50_000 + "}"),
    no_json("objects nested 20,000 deep", '{"a":' * 20_000 + "1" + "}" * 20_000),
    no_json("text that is not UTF-8", frame(0x81, b'{"type": "\xff"}'), "UTF-8"),
    Row("a type that there is not", ({"type": "begin"},), "invalid_config", 4400, ("'begin'", ALLOWED_TYPES), "type"),
    Row("a message of ours", ({"type": "started"},), "invalid_config", 4400, ("'started'",), "type"),
    Row("no type", (without("type"),), "invalid_config", 4400, ("None", ALLOWED_TYPES), "type"),
    Row("a type that is a number", ({"type": 1},), "invalid_config", 4400, (": 1 ", ALLOWED_TYPES), "type"),
    Row(
        "two types",
        ('{"type": "stop", "type": "start"}',),
        "invalid_config",
        4400,
        (),
        "type",
    ),
    # Fields of `start`
    config("an unknown field", start(colour="red"), "colour", "audio", "language_codes"),
    config("an unknown field inside audio", audio(bits=16), "audio.bits", "encoding, sample_rate_hertz"),
    config("an unknown field in a phrase", start(phrases=[{"value": "a", "weight": 1}]), "phrases[0].weight", "boost"),
    config("an unknown field with an endless name", start(**{"x" * 100_000: 1}), "x" * 80 + "...", "is no field"),
    config("no audio", without("audio"), "audio", "is missing"),
    config("no language", without("language_codes"), "language_codes", "is missing"),
    config("no rate", audio(sample_rate_hertz=None), "audio.sample_rate_hertz", "is missing", ALLOWED_RATE),
    config("no encoding", audio(encoding=None), "audio.encoding", "is missing", "ALAW, LINEAR16, MULAW"),
    config("audio that is text", start(audio="pcm"), "audio", "'pcm'", "an object with encoding"),
    config("an unknown encoding", audio(encoding="MP3"), "audio.encoding", "'MP3'", "ALAW, LINEAR16, MULAW"),
    config("rate 1", audio(sample_rate_hertz=1), "audio.sample_rate_hertz", ": 1 ", ALLOWED_RATE),
    config("rate 96000", audio(sample_rate_hertz=96000), "audio.sample_rate_hertz", "96000", ALLOWED_RATE),
    config("a rate with a fraction", audio(sample_rate_hertz=16000.5), "audio.sample_rate_hertz", "16000.5"),
    config("a rate in a string", audio(sample_rate_hertz="16000"), "audio.sample_rate_hertz", "'16000'", ALLOWED_RATE),
    config("rate true", audio(sample_rate_hertz=True), "audio.sample_rate_hertz", "True", ALLOWED_RATE),
    config("a rate beyond 64 bits", audio(sample_rate_hertz=10**30), "audio.sample_rate_hertz", "1000000", "to 48000"),
    config("two channels", audio(audio_channel_count=2), "audio.audio_channel_count", ": 2 ", "from 1 to 1"),
    config("no channel", audio(audio_channel_count=0), "audio.audio_channel_count", ": 0 ", "from 1 to 1"),
    config("a language that nobody speaks", start(language_codes=["tlh-KX"]), "language_codes[0]", "'tlh-KX'", "en-US"),
    config("no language at all", start(language_codes=[]), "language_codes", "[]", "1 to 4"),
    config("too many languages", start(language_codes=["de-DE"] * 5), "language_codes", "1 to 4"),
    config("a language that is text", start(language_codes="en-US"), "language_codes", "'en-US'", "a list"),
    config("one language twice", start(language_codes=["en-US", "en-US"]), "language_codes", "each language once"),
    config("a language with a NUL", start(language_codes=["en\0US"]), "language_codes[0]", "BCP-47"),
    config("a model that there is not", start(model="whisper"), "model", "'whisper'", "long"),
    config("an empty phrase", start(phrases=[{"value": ""}]), "phrases[0].value", "''", "1 to 100 characters"),
    config("an endless phrase", start(phrases=[{"value": "x" * 101}]), "phrases[0].value", "1 to 100 characters"),
    config("too many phrases", start(phrases=[{"value": "a"}] * 501), "phrases", "0 to 500"),
    config("a boost over 20", start(phrases=[{"value": "a", "boost": 20.5}]), "phrases[0].boost", "from 0 to 20"),
    config("a negative boost", start(phrases=[{"value": "a", "boost": -1}]), "phrases[0].boost", "from 0 to 20"),
    config(
        "seven speakers",
        start(diarization={"min_speaker_count": 1, "max_speaker_count": 7}),
        "diarization.max_speaker_count",
        ": 7 ",
        "from 1 to 6",
    ),
    config(
        "more speakers at least than at most",
        start(diarization={"min_speaker_count": 3, "max_speaker_count": 2}),
        "diarization.min_speaker_count",
        ": 3 ",
        "at most max_speaker_count, which is 2",
    ),
    config(
        "a timeout as short as 500 ms",
        start(voice_activity_timeout={"speech_end_ms": 500}),
        "voice_activity_timeout.speech_end_ms",
        ": 500 ",
        "from 501 to 59999",
    ),
    config(
        "a timeout of a minute",
        start(voice_activity_timeout={"speech_start_ms": 60_000}),
        "voice_activity_timeout.speech_start_ms",
        ": 60000 ",
        "from 501 to 59999",
    ),
    config("no alternative", start(max_alternatives=0), "max_alternatives", ": 0 ", "from 1 to 30"),
    config("interims maybe", start(interim_results="yes"), "interim_results", "'yes'", "true or false"),
    # What is too large
    Row("a first message of 1 MB", (" " * 1_000_000,), "frame_too_large", 1009, ("131072",)),
    Row("1 MB of audio before start", (bytes(1_000_000),), "frame_too_large", 1009, ("65536",)),
    later("65,537 bytes of audio", bytes(65_537), code="frame_too_large", close=1009, why=("65537", "65536")),
    later("1 MB of audio", bytes(1_000_000), code="frame_too_large", close=1009, why=("65536",)),
    later("a text of 1 MB", "x" * 1_000_000, code="frame_too_large", close=1009, why=("131072",)),
    later("65,538 bytes in base64", content(bytes(65_538)), code="frame_too_large", close=1009, why=("65538", "65536")),
    later(
        "a frame that announces an exabyte",
        Raw(b"\x82\xff" + (1 << 60).to_bytes(8, "big") + bytes(4)),
        code="frame_too_large",
        close=1009,
        why=("65536",),
    ),
    later(
        "a message in endless empty pieces",
        frame(0x02, b"a"),
        Raw(frame(0x00, b"") * 100_000),
        code="frame_too_large",
        close=1009,
        why=("pieces",),
    ),
    # What comes at the wrong time
    later("start twice", START, code="bad_order", why=("only be the first message",)),
    later(
        "resume inside a session",
        {"type": "resume", "session_id": "a", "resume_token": "t", "last_event": 0},
        code="bad_order",
        why=("only be the first message",),
    ),
    Row(
        "silence for the idle timeout",
        (START,),
        "idle_timeout",
        4408,
        ("4 s",),
        hears_before=("started", "warning"),
        settings={"idle_timeout_seconds": 4},
    ),
    # What is wrong with audio
    later("base64 with a hole", content(b"abcd", offset=2), code="audio_hole", param="offset", why=("2", "0")),
    later("invalid base64", {"type": "audio", "content": "a*b="}, code="bad_audio", param="content", why=("base64",)),
    later("base64 without its end", {"type": "audio", "content": "YWJ"}, code="bad_audio", param="content", why=()),
    later(
        "a negative offset",
        content(b"ab", offset=-1),
        code="invalid_config",
        param="offset",
        why=("-1", "an integer from 0"),
    ),
    later("audio without content", {"type": "audio"}, code="invalid_config", param="content", why=("is missing",)),
    later(
        "content that is a list",
        {"type": "audio", "content": [1, 2]},
        code="invalid_config",
        param="content",
        why=("[1, 2]", "base64"),
    ),
    later(
        "a gap of nothing",
        {"type": "gap", "bytes": 0, "reason": "muted"},
        code="invalid_config",
        param="bytes",
        why=(": 0 ", "an integer from 1 to"),
    ),
    later(
        "a gap of a century",
        {"type": "gap", "bytes": 2**40 + 1, "reason": "muted"},
        code="invalid_config",
        param="bytes",
        why=(str(2**40 + 1), str(2**40)),
    ),
    later(
        "a gap for no reason",
        {"type": "gap", "bytes": 2, "reason": "bored"},
        code="invalid_config",
        param="reason",
        why=("'bored'", "interrupted, muted, overflow"),
    ),
    later(
        "finalize with a list for an id",
        {"type": "finalize", "id": [1]},
        code="invalid_config",
        param="id",
        why=("[1]", "a string of at most 64 characters"),
    ),
    later(
        "finalize with an id beyond 64 bits",
        {"type": "finalize", "id": 2**70},
        code="invalid_config",
        param="id",
        why=(str(2**70), "an integer from -9223372036854775808 to 9223372036854775807"),
    ),
    later("keepalive with a field", {"type": "keepalive", "at": 1}, code="invalid_config", param="at", why=("at",)),
    later("JSON that breaks off", '{"type": ', code="bad_json", close=1007, why=("one JSON object",)),
    # What is no WebSocket: the close frame says it
    Row("a frame with a reserved bit", (frame(0xC2, b"ab"),), None, 1002),
    Row("a frame without a mask", (frame(0x82, b"ab", masked=False),), None, 1002),
    Row("a frame with an unknown opcode", (frame(0x83, b"ab"),), None, 1002),
    Row("a ping in two pieces", (frame(0x09, b"ab"),), None, 1002),
    Row("a piece of nothing", (frame(0x80, b"ab"),), None, 1002),
    Row("a message inside a message", (frame(0x01, b"ab"), frame(0x81, b"cd")), None, 1002),
]


@dataclass
class Stage:
    """A gateway and its upstream, and what was there before anybody came."""

    gateway: Gateway
    upstream: ScriptedUpstream
    tasks: Counter[str]
    sessions: int = 0
    bystander: "Bystander | None" = None

    async def is_left_clean(self) -> None:
        """Waits until the last session, task and upstream call is gone."""
        deadline = asyncio.get_running_loop().time() + LEFT_SECONDS
        while left := self._left():
            assert asyncio.get_running_loop().time() < deadline, left
            await asyncio.sleep(0.005)

    def _left(self) -> Counter[str]:
        more = count_tasks() - self.tasks
        more += Counter(sessions=self.gateway.hub.sessions - self.sessions, calls=self.upstream.open_calls)
        return more


def count_tasks() -> Counter[str]:
    """By what they run, without the test's own."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return Counter(str(getattr(task.get_coro(), "__qualname__", "")) for task in tasks)


@asynccontextmanager
async def staged(upstream: ScriptedUpstream, **settings: Any) -> AsyncIterator[Stage]:
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway:
        await transcribe(gateway, SECOND)  # whatever is made once, is made
        await gateway.until_no_session()
        yield Stage(gateway, upstream, count_tasks())


class Bystander:
    """A session that goes on beside all the bad input, a second of audio at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seconds = 0

    async def stays(self) -> None:
        """Says that it is there, until cancelled."""
        while True:
            await asyncio.sleep(0.3)
            await self._client.say({"type": "keepalive"})

    async def speaks(self) -> None:
        """It is heard in full, at its place in the session."""
        await self._client.say(SECOND)
        final = await self._client.hear("final")
        assert (final["start_ms"], final["end_ms"]) == (self._seconds * 1000, self._seconds * 1000 + 1000)
        self._seconds += 1

    async def stops(self) -> None:
        await self._client.say(STOP)
        stopped = await self._client.hear("stopped")
        assert (stopped["finals"], stopped["audio_ms"]) == (self._seconds, self._seconds * 1000)
        assert stopped["upstream_streams"] == 1


@asynccontextmanager
async def watched(upstream: ScriptedUpstream, **settings: Any) -> AsyncIterator[Stage]:
    """A stage with a bystander on it; the call of its session is not counted."""
    async with staged(upstream, leg_idle_seconds=600, leg_hard_limit_seconds=600, **settings) as stage:
        async with Client.connect(stage.gateway) as client:
            stage.bystander = Bystander(client)
            await client.say(START)
            await stage.bystander.speaks()
            upstream.calls.clear()
            stage.sessions = 1
            stage.tasks = count_tasks()
            yield stage
            await stage.bystander.stops()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Stage]:
    async with ScriptedUpstream() as upstream, watched(upstream) as stage:
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Stage:
    shared.upstream.calls.clear()
    return shared


async def misbehave(gateway: Gateway, row: Row) -> tuple[list[dict[str, Any]], int | None]:
    """Says what the row says; returns everything that was heard, and the close code."""
    async with Client.connect(gateway) as client:
        with suppress(ConnectionClosed):
            for index, says in enumerate(row.says):
                if index == 1 and "started" in row.hears_before:
                    await client.hear("started")
                if isinstance(says, Raw):
                    client.socket.transport.write(says)
                else:
                    await client.say(says)
        return await client.hear_all(), client.close_code


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name.replace(" ", "-"))
async def test_bad_input_ends_as_documented_and_costs_nobody_else(stage: Stage, row: Row) -> None:
    """Its error names the field, the value and the limit; a session beside it is heard to its end; nothing is left."""
    if row.settings:
        async with watched(stage.upstream, **row.settings) as own:
            await ends_as_documented(own, row)
    else:
        await ends_as_documented(stage, row)


async def ends_as_documented(stage: Stage, row: Row) -> None:
    assert stage.bystander is not None
    alive = asyncio.create_task(stage.bystander.stays())
    try:
        messages, close_code = await misbehave(stage.gateway, row)
    finally:
        alive.cancel()
    assert close_code == row.close, messages
    heard = [message["type"] for message in messages]
    if row.code is None:
        assert heard == []
    else:
        assert tuple(heard) == (*row.hears_before, "error")
        check_error(row, messages[-1])
    await stage.bystander.speaks()
    assert (await transcribe(stage.gateway))[-1]["type"] == "stopped"
    await stage.is_left_clean()


def check_error(row: Row, error: dict[str, Any]) -> None:
    assert error["code"] == row.code
    assert error.get("param") == row.param
    assert error["retryable"] is (row.code in {"start_timeout", "idle_timeout"})
    assert len(error["message"]) < 4_000, "a message is for a person"
    for fragment in row.says_why:
        assert fragment in error["message"]


async def test_the_table_names_each_row_once() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE) >= 40


async def test_bad_input_costs_no_memory(stage: Stage) -> None:
    """The whole table twice over: what is allocated afterwards was allocated before, but for 200 kB."""
    rows = [row for row in TABLE if not row.settings]

    async def run_table() -> None:
        for row in rows:
            await misbehave(stage.gateway, row)
        await stage.is_left_clean()

    await run_table()
    tracemalloc.start()
    try:
        await run_table()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2):
            await run_table()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200_000


# Where a plain socket shows more ------------------------------------------------------------------------

HANDSHAKE = (
    "GET /ws/transcribe HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


async def knock(
    stage: Stage, headers: str = "", status: bytes = b"101"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The upgrade to a WebSocket, by hand, and its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.gateway.port)
    writer.write(f"{HANDSHAKE}{headers}\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 " + status)
    return reader, writer


async def test_a_client_that_reads_only_after_sending_still_learns_why(stage: Stage) -> None:
    """4 MB in one frame: every byte can be written, then the error, the close frame and the end are there."""
    reader, writer = await knock(stage)
    writer.write(b"\x82\xff" + (4_000_000).to_bytes(8, "big") + bytes(4 + 4_000_000))
    await writer.drain()
    while writer.transport.get_write_buffer_size():
        await asyncio.sleep(0.005)
    heard = await reader.read()
    assert b"frame_too_large" in heard
    assert b"\x03\xf1" in heard, "1009"
    writer.close()
    await stage.is_left_clean()


@pytest.mark.parametrize(
    ("headers", "status"),
    [(f"X-Long: {'x' * 10_000}\r\n", b"431"), ("".join(f"X-{n}: x\r\n" for n in range(200)), b"431")],
    ids=["an endless header", "200 headers"],
)
async def test_an_upgrade_that_is_too_large_is_refused_at_once(stage: Stage, headers: str, status: bytes) -> None:
    """It is neither left waiting nor kept open."""
    reader, writer = await knock(stage, headers, status)
    await reader.read()
    writer.close()
    await stage.is_left_clean()


async def test_pings_without_end_from_a_client_that_never_reads_end_its_connection(stage: Stage) -> None:
    """Answers that nobody reads are not kept without limit."""
    _, writer = await knock(stage)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    pings = frame(0x89, bytes(125)) * 1000
    with pytest.raises(ConnectionError):  # noqa: PT012 - it takes as many as the kernel has room for
        while True:
            writer.write(pings)
            await writer.drain()
    await stage.is_left_clean()


# Honest clients in unusual ways --------------------------------------------------------------------------

AUDIO = bytes(range(250)) * 512
"""Four seconds, and every 250 bytes the same."""


async def heard(stage: Stage, *frames: bytes | dict[str, Any]) -> list[dict[str, Any]]:
    """The finals of a session."""
    messages = await transcribe(stage.gateway, *frames)
    assert messages[-1]["type"] == "stopped", messages[-1]
    assert b"".join(bytes(call.audio) for call in stage.upstream.calls) == AUDIO
    await stage.is_left_clean()
    return [message for message in messages if message["type"] == "final"]


def cut(size: int) -> list[tuple[int, bytes]]:
    return [(at, AUDIO[at : at + size]) for at in range(0, len(AUDIO), size)]


async def test_base64_with_overlaps_is_heard_like_binary(stage: Stage) -> None:
    """What was received already is trimmed, even a frame that is nothing new at all."""
    binary = await heard(stage, *[chunk for _, chunk in cut(640)])
    stage.upstream.calls.clear()
    base64_only = await heard(stage, *[content(chunk, offset=at) for at, chunk in cut(3201)])
    stage.upstream.calls.clear()
    overlapping = [content(AUDIO[max(0, at - 1001) : at + 3000], offset=max(0, at - 1001)) for at, _ in cut(3000)]
    again = content(AUDIO[:500], offset=0)
    assert await heard(stage, *overlapping[:20], again, again, *overlapping[20:]) == base64_only == binary


async def test_both_framings_in_one_session_share_one_cursor(stage: Stage) -> None:
    """Binary, base64 with an offset, base64 without."""
    mixed: list[bytes | dict[str, Any]] = []
    for number, (at, chunk) in enumerate(cut(1999)):
        mixed.append((chunk, content(chunk, offset=at), content(chunk))[number % 3])
    await heard(stage, *mixed)


async def test_frames_of_one_byte_and_of_none_are_audio_too(stage: Stage) -> None:
    """An empty frame changes nothing."""
    one_by_one = [AUDIO[at : at + 1] for at in range(4000)]
    await heard(stage, b"", *one_by_one, b"", content(b""), *[chunk for _, chunk in cut(4000)[1:]])


async def test_everything_may_be_said_before_started_is_heard(stage: Stage) -> None:
    """In one piece of TCP: nothing of it is lost."""
    reader, writer = await knock(stage)
    says: list[Frame] = [START, *[chunk for _, chunk in cut(16_000)], STOP]
    writer.write(b"".join(by_hand(frame) for frame in says))
    heard = await reader.readuntil(b'"replayed_ms":0}')
    writer.write(frame(0x88, b"\x03\xe8"))
    assert await reader.read() == b"\x88\x09\x03\xe8stopped"
    assert heard.index(b'"type":"started"') < heard.index(b'"type":"final"')
    writer.close()
    await stage.upstream.calls[0].ended.wait()
    assert bytes(stage.upstream.calls[0].audio) == AUDIO
    await stage.is_left_clean()


def by_hand(says: Frame) -> bytes:
    """A whole message as one masked frame."""
    payload = says if isinstance(says, bytes) else json.dumps(says).encode()
    first = 0x82 if isinstance(says, bytes) else 0x81
    return bytes([first, 0xFE]) + len(payload).to_bytes(2, "big") + bytes(4) + payload
