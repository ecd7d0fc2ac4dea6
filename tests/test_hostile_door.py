"""What a peer can do before it has said a whole request: be slow, be endless, be many. Each limit is told, and whoever
is honest comes in beside it."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.api import door
from app.api.door import MAX_HEADERS
from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.process import run_process
from tests.raw import HOST, UPGRADE, Answer, Peer, ask, get
from tests.upstream import BYTES_PER_SECOND, ScriptedUpstream

SECOND = b"\1\2" * (BYTES_PER_SECOND // 2)
POST = b"POST /healthz HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HEAD_BYTES, BODY_BYTES = 4096, 8192


@pytest.fixture
async def hasty(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with run_gateway(upstream=f"grpc://{upstream.address}", request_timeout_seconds=0.5) as running:
        yield running


@pytest.fixture
async def small(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", max_request_head_bytes=HEAD_BYTES, max_request_body_bytes=BODY_BYTES
    ) as running:
        yield running


# Slow -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_once", "then"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"GET /", b"x"),
        (b"GET /healthz HTTP/1.1\r\n", b"X-Slow: yes\r\n"),
        (b"GET /ws/transcribe HTTP/1.1\r\n" + UPGRADE, b"X-Slow: yes\r\n"),
        (get() + b"GET /healthz HTTP/1.1\r\n", b"X"),
    ],
    ids=["nothing", "empty lines", "a request line", "headers", "an upgrade", "a second request"],
)
async def test_a_request_that_is_not_whole_in_time_is_answered_408(hasty: Gateway, at_once: bytes, then: bytes) -> None:
    """However busily its bytes trickle."""
    async with Peer.connect(hasty) as peer:
        peer.writer.write(at_once)
        trickling = asyncio.create_task(peer.trickle(then)) if then else None
        if at_once.startswith(get()):
            assert (await peer.answer()).status == 200
        answer = await peer.last_answer()
        if trickling is not None:
            await trickling
    assert answer.status == 408
    assert "0.5 s" in answer.error["message"]
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("body", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"])
async def test_a_body_that_trickles_keeps_no_connection(hasty: Gateway, body: bytes) -> None:
    """No route waits for one: it has its answer, and the connection its end."""
    async with Peer.connect(hasty) as peer:
        peer.writer.write(POST + body)
        trickling = asyncio.create_task(peer.trickle(b"x"))
        assert (await peer.last_answer()).status == 405
        await trickling


async def test_between_requests_a_connection_may_rest_for_longer_than_a_request_may_take(hasty: Gateway) -> None:
    """That is the keep-alive, which uvicorn times."""
    clock = asyncio.get_running_loop().time
    async with Peer.connect(hasty) as peer:
        peer.writer.write(get())
        assert (await peer.answer()).status == 200
        until = clock() + 1.2
        while clock() < until:
            await asyncio.sleep(0.05)
        peer.writer.write(get())
        assert (await peer.answer()).status == 200


async def test_a_session_outlives_the_time_for_its_request(hasty: Gateway) -> None:
    clock = asyncio.get_running_loop().time
    async with Client.connect(hasty) as client:
        await client.say(START)
        await client.hear("started")
        until = clock() + 1.2
        while clock() < until:
            await client.say(SECOND[:640])
            await asyncio.sleep(0.05)
        await client.say({"type": "stop"})
        await client.hear("stopped")


# Endless --------------------------------------------------------------------------------------------------


def header(size: int, name: bytes = b"X-Long: ") -> bytes:
    return name + b"x" * (size - len(name) - 2) + b"\r\n"


MANY = header(100) * (HEAD_BYTES // 50)
ENDLESS = b"x" * 2 * HEAD_BYTES


async def test_a_request_has_so_many_headers(small: Gateway) -> None:
    """Short ones: each takes the parser's time."""
    rest = b"X: x\r\n" * (MAX_HEADERS - 1)
    assert (await ask(small, get(headers=HOST + rest))).status == 200
    answer = await ask(small, get(headers=HOST + rest + b"X: x\r\n"))
    assert (answer.status, str(MAX_HEADERS) in answer.error["message"]) == (431, True)


@pytest.mark.parametrize(
    "says",
    [
        get(b"/" + ENDLESS),
        get(headers=HOST + header(HEAD_BYTES)),
        get(headers=HOST + MANY),
        get(b"/ws/transcribe", UPGRADE + MANY),
        get(b"/ws/transcribe?" + ENDLESS, UPGRADE),
        ENDLESS,
        b"GET /" + ENDLESS,
        b"GET / HTTP/1.1\r\nX: " + ENDLESS,
        b"GET / HTTP/1.1\r\n" + ENDLESS,
        b"\r\n" * 2 * HEAD_BYTES,
    ],
    ids=[
        "a URL",
        "a header",
        "many headers",
        "an upgrade's headers",
        "an upgrade's URL",
        "a method without end",
        "a URL without end",
        "a header without end",
        "a name without end",
        "empty lines without end",
    ],
)
async def test_a_head_over_its_limit_is_answered_431(small: Gateway, says: bytes) -> None:
    """Also where its end never comes."""
    async with Peer.connect(small) as peer:
        peer.writer.write(says)
        answer = await peer.last_answer()
    if says == ENDLESS:
        assert answer.status == 400  # the parser knows every method
        return
    assert answer.status == 431
    assert str(HEAD_BYTES) in answer.error["message"]


async def test_a_head_just_within_its_limit_is_taken(small: Gateway) -> None:
    room = HEAD_BYTES - len(b"/healthz") - len(HOST)
    assert (await ask(small, get(headers=HOST + header(room)))).status == 200
    assert (await ask(small, get(headers=HOST + header(room + 1)))).status == 431


def chunks(size: int, each: int = 1000) -> bytes:
    chunk = b"%x\r\n" % each + bytes(each) + b"\r\n"
    return chunk * (size // each) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "says",
    [
        POST + b"Content-Length: %d\r\n\r\n" % (BODY_BYTES + 1),
        POST + b"Content-Length: 99999999999999999\r\n\r\n",
        CHUNKED + chunks(2 * BODY_BYTES),
        CHUNKED + b"fffffff\r\n" + bytes(2 * BODY_BYTES),
    ],
    ids=["announced", "announced without end", "chunks", "one chunk"],
)
async def test_a_body_over_its_limit_is_answered_413(small: Gateway, says: bytes) -> None:
    """Announced or not."""
    async with Peer.connect(small) as peer:
        peer.writer.write(says)
        answer = await peer.last_answer()
    assert answer.status == 413
    assert str(BODY_BYTES) in answer.error["message"]


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"0\r\nX: ", b"x" * 4 * BODY_BYTES), (b"1;", b"x" * 4 * BODY_BYTES)],
    ids=["a trailer without end", "a chunk's extension without end"],
)
async def test_what_is_around_a_body_is_bounded_too(small: Gateway, begin: bytes, more: bytes) -> None:
    """The connection has its answer by then."""
    async with Peer.connect(small) as peer:
        peer.writer.write(CHUNKED + begin)
        assert (await peer.answer()).status == 405
        peer.writer.write(more)
        assert await peer.reader.read() == b""


async def test_a_body_within_its_limit_is_no_trouble(small: Gateway) -> None:
    body = b"Content-Length: %d\r\n\r\n" % BODY_BYTES + bytes(BODY_BYTES)
    answer = await ask(small, POST + body + get())
    assert answer.status == 405


async def test_requests_without_end_that_nobody_has_answered_end_the_connection(small: Gateway) -> None:
    """An answer would be taken for another request's."""
    async with Peer.connect(small) as peer:
        peer.writer.write(get() * 10 * door.MAX_PIPELINED)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):  # noqa: PT012
            while True:
                assert (await peer.answer()).status == 200
    assert (await ask(small, get())).status == 200


@pytest.mark.parametrize(
    "says",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(100),
    ],
    ids=["text", "TLS", "HTTP/2", "zeroes"],
)
async def test_what_is_no_http_is_answered_400(small: Gateway, says: bytes) -> None:
    async with Peer.connect(small) as peer:
        peer.writer.write(says)
        answer = await peer.last_answer()
    assert answer.status == 400
    assert answer.error["message"] == "this is no HTTP request"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: five\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
    ],
)
async def test_a_body_of_two_lengths_is_nobodys_second_request(small: Gateway, framing: bytes) -> None:
    """Else a proxy and the gateway would not agree where the next request begins."""
    async with Peer.connect(small) as peer:
        peer.writer.write(POST + framing)
        assert (await peer.last_answer()).status == 400


# Many -----------------------------------------------------------------------------------------------------

WAITING = 20


@pytest.fixture
async def narrow(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_waiting_connections=WAITING) as running:
        yield running


@pytest.mark.parametrize(
    ("says", "then"),
    [(b"", b""), (b"GET /ws/transcribe HTTP/1.1\r\n", b""), (get(), b""), (CHUNKED, b"0\r\n\r\n")],
    ids=["nothing", "half", "at rest", "at rest after a late body"],
)
async def test_honest_newcomers_come_in_beside_any_number_of_half_open_connections(
    narrow: Gateway, says: bytes, then: bytes
) -> None:
    """The one that has waited longest makes room, and is told why; who is inside stays."""
    async with AsyncExitStack() as stack:
        inside = await stack.enter_async_context(Client.connect(narrow))
        await inside.say(START, SECOND)
        peers = []
        for _ in range(10 * WAITING):
            peers.append(await stack.enter_async_context(Peer.connect(narrow)))
            peers[-1].writer.write(says)
            if answered := says in {get(), CHUNKED}:
                assert (await peers[-1].answer()).status in {200, 405}
                peers[-1].writer.write(then)
        assert (await transcribe(narrow, SECOND))[-1]["type"] == "stopped"
        await inside.say({"type": "stop"})
        await inside.hear("stopped")
        for peer in peers[: 9 * WAITING]:
            heard = await peer.reader.read()
            if not answered:
                assert b" 503 " in heard
                assert b"over 20 connections" in heard


async def test_the_process_takes_all_the_descriptors_that_it_may(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with run_process(tmp_path, upstream=f"grpc://{upstream.address}") as process:
        await process.gateway()
        soft, _ = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    assert soft in {hard, 1024 * 1024}


async def test_a_gateway_without_descriptors_goes_on_and_recovers(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Who is inside does not notice; who comes later is served once there are some again."""
    async with run_process(tmp_path, upstream=f"grpc://{upstream.address}", upstream_speed=1000) as process:
        gateway = await process.gateway()
        async with Client.connect(gateway) as client:
            await client.say(START, SECOND)
            await client.hear("started")
            used = len(os.listdir(f"/proc/{process.pid}/fd"))
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used + 10, 4096))
            writers = [(await asyncio.open_connection("127.0.0.1", gateway.port))[1] for _ in range(100)]
            while len(os.listdir(f"/proc/{process.pid}/fd")) < used + 9:
                await asyncio.sleep(0.005)
            await client.say(SECOND, {"type": "stop"})
            assert (await client.hear("stopped"))["audio_ms"] == 2000
            for writer in writers:
                writer.transport.abort()
        while not await _is_served(gateway):
            await asyncio.sleep(0.01)
        assert (await transcribe(gateway, SECOND))[-1]["type"] == "stopped"
        assert "Traceback" not in process.log


async def _is_served(gateway: Gateway) -> bool:
    try:
        answer: Answer = await ask(gateway, get())
    except (OSError, asyncio.IncompleteReadError):
        return False
    return answer.status == 200
