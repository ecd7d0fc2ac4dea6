"""Too fast, too slow, not at all: what is held for a session stays bounded, and a final is never lost."""

import asyncio
import socket
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.core.protocol import MAX_FRAME_BYTES
from app.core.session import Phase, Session
from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.test_bad_input import Stage, staged
from tests.upstream import BYTES_PER_SECOND, Call, Script, ScriptedUpstream

SECOND = b"\1\2" * (BYTES_PER_SECOND // 2)
STOP = {"type": "stop"}
TEN_MINUTES = 600
GRPC_BYTES = 256 * 1024
"""What grpc has taken and the upstream has not read yet: its flow-control window and its buffers."""


def the_session(gateway: Gateway) -> Session:
    (live,) = gateway.hub.registry.lives.values()
    return live.session


async def until(condition: Callable[[], object]) -> None:
    """A test's own time limit bounds it."""
    while not condition():
        await asyncio.sleep(0.005)


def finals(messages: list[dict[str, Any]]) -> list[str]:
    return [message["text"] for message in messages if message["type"] == "final"]


class Counter:
    """An upstream that keeps no audio: its length and checksum, and a final for every ten seconds of it."""

    def __init__(self) -> None:
        self.bytes = 0
        self.checksum = 0

    async def __call__(self, call: Call) -> AsyncIterator[Any]:
        done = 0
        async for request in call.requests:
            self.bytes += len(request.audio)
            self.checksum = zlib.crc32(request.audio, self.checksum)
            if self.bytes - done >= 10 * BYTES_PER_SECOND:
                yield call.final(f"{done}-{self.bytes}", self.bytes)
                done = self.bytes


async def test_ten_minutes_at_once_are_taken_at_the_pace_of_the_upstream(upstream: ScriptedUpstream) -> None:
    """The client is pushed back and told so; its pings stay unread for long, which does not cost it the session."""
    upstream.script = counter = Counter()
    ahead = 0
    async with (
        staged(
            upstream,
            upstream_speed=100,
            queue_seconds=0.5,
            leg_quiet_seconds=1000,
            ping_interval_seconds=0.2,
            ping_timeout_seconds=0.2,
        ) as stage,
        Client.connect(stage.gateway, ping_interval=None) as client,
    ):
        counter.__init__()  # type: ignore[misc]
        tracemalloc.start()
        await client.say(START)
        listening = asyncio.create_task(client.hear_all())
        pushing = asyncio.create_task(client.say(*[SECOND] * TEN_MINUTES))
        while counter.bytes < TEN_MINUTES * BYTES_PER_SECOND:
            await asyncio.sleep(0.01)
            assert not listening.done(), client.messages[-1]
            ahead = max(ahead, the_session(stage.gateway).received - counter.bytes)
        await pushing
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await until(lambda: [m["state"] for m in client.heard("throttle")][-1:] == ["off"])
        await client.say(STOP)
        messages = await listening
        assert client.close_code == 1000
        await stage.is_left_clean()
    queue = BYTES_PER_SECOND // 2
    assert ahead <= queue + MAX_FRAME_BYTES + GRPC_BYTES
    assert peak < 4_000_000, "19 MB were pushed"
    assert [m["state"] for m in client.heard("throttle")][:2] == ["on", "off"]
    assert counter.checksum == zlib.crc32(SECOND * TEN_MINUTES)
    assert [text.partition("-")[0] for text in finals(messages)[1:]] == [
        text.partition("-")[2] for text in finals(messages)[:-1]
    ]
    assert messages[-1]["audio_ms"] == TEN_MINUTES * 1000


async def never_reads(call: Call) -> AsyncIterator[Any]:
    """An upstream that takes the config, and then nothing."""
    await asyncio.Event().wait()
    yield  # pragma: no cover - makes this a generator


def small(upstream: ScriptedUpstream, **settings: Any) -> AbstractAsyncContextManager[Stage]:
    """A gateway whose sessions may hold ten seconds of unsettled audio, and that notices soon who is gone."""
    return staged(
        upstream,
        replay_seconds=10,
        max_utterance_seconds=9,
        ping_interval_seconds=0.2,
        ping_timeout_seconds=0.2,
        **settings,
    )


async def push_until_stuck(stage: Stage, client: Client) -> asyncio.Task[None]:
    """Pushes 20 MB; returns when the gateway takes no more of it."""

    async def push() -> None:
        with suppress(ConnectionClosed):
            await client.say(START, *[SECOND] * TEN_MINUTES)

    pushing = asyncio.create_task(push())
    await until(lambda: stage.gateway.hub.sessions)
    session = the_session(stage.gateway)
    await until(lambda: session.received >= 9 * BYTES_PER_SECOND and client.socket.transport.get_write_buffer_size())
    return pushing


@pytest.mark.parametrize("farewell", ["close", "reset"])
async def test_an_upstream_that_stops_reading_stops_the_client_whose_end_frees_everything(
    upstream: ScriptedUpstream, farewell: str
) -> None:
    """Although nobody reads what the client says any more, its end is noticed."""
    async with small(upstream) as stage, Client.connect(stage.gateway, ping_interval=None) as client:
        upstream.script = never_reads
        pushing = await push_until_stuck(stage, client)
        session = the_session(stage.gateway)
        assert session.received <= 10 * BYTES_PER_SECOND + 2 * MAX_FRAME_BYTES
        if farewell == "reset":
            connection: socket.socket = client.socket.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.transport.abort()
        await pushing
        await stage.gateway.until_no_session()
        assert session.received <= 10 * BYTES_PER_SECOND + 2 * MAX_FRAME_BYTES
        await stage.is_left_clean()


async def test_a_client_that_waits_for_the_upstream_is_not_idle(upstream: ScriptedUpstream) -> None:
    """It has said much that was not heard yet: the idle timer is for clients that say nothing."""
    async with small(upstream, idle_timeout_seconds=1) as stage:
        upstream.script = never_reads
        async with Client.connect(stage.gateway, ping_interval=None) as client:
            pushing = await push_until_stuck(stage, client)
            session = the_session(stage.gateway)
            until_then = asyncio.get_running_loop().time() + 2.5
            await until(lambda: asyncio.get_running_loop().time() > until_then)
            assert not session.ended
            client.socket.transport.abort()
            await pushing
        await stage.is_left_clean()


def talks(finals: int, interims: int, done: asyncio.Event) -> Script:
    """Says so many finals with so many long interims before each, whatever it hears."""

    async def script(call: Call) -> AsyncIterator[Any]:
        heard = call.hear()
        await anext(heard)
        for number in range(finals):
            for _ in range(interims):
                yield call.interim(f"{number} " + "so much talk " * 40, end=1600)
            yield call.final(f"final {number}", 1600)
        done.set()
        async for _ in heard:
            pass

    return script


def narrow() -> socket.socket:
    """A connection of a client whose kernel holds little that it has not read."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    return connection


async def connected(gateway: Gateway) -> socket.socket:
    connection = narrow()
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", gateway.port))
    return connection


@asynccontextmanager
async def unread(upstream: ScriptedUpstream, *, send_timeout_seconds: float) -> AsyncIterator[tuple[Stage, Client]]:
    """A client that has read nothing while 1 MB was said."""
    async with staged(upstream, send_timeout_seconds=send_timeout_seconds) as stage:
        said = asyncio.Event()
        upstream.script = talks(finals=40, interims=50, done=said)
        async with Client.connect(stage.gateway, sock=await connected(stage.gateway)) as client:
            client.socket.transport.pause_reading()
            await client.say(START, SECOND)
            await said.wait()
            yield stage, client
        await stage.is_left_clean()


async def test_a_slow_client_loses_interims_never_finals(upstream: ScriptedUpstream) -> None:
    """It reads nothing while 1 MB is said, then everything that still matters."""
    async with unread(upstream, send_timeout_seconds=60) as (stage, client):
        await until(lambda: the_session(stage.gateway).transcript.finals == 40)
        client.socket.transport.resume_reading()
        await client.say(STOP)
        messages = await client.hear_all()
        assert client.close_code == 1000
        assert finals(messages) == [f"final {number}" for number in range(40)]
        assert len(client.heard("interim")) < 2000
        events = [message["event"] for message in messages if "event" in message]
        assert events == list(range(1, len(events) + 1))


async def test_a_client_that_never_reads_is_cut_off_and_disturbs_nobody(upstream: ScriptedUpstream) -> None:
    """After the send timeout, although it goes on talking."""
    async with staged(upstream, send_timeout_seconds=0.5) as stage:
        upstream.script = talks(finals=1, interims=100_000, done=asyncio.Event())
        async with Client.connect(stage.gateway, sock=await connected(stage.gateway)) as client:
            client.socket.transport.pause_reading()
            await client.say(START, SECOND)
            call = await upstream.called(2)
            session = the_session(stage.gateway)
            upstream.script = type(upstream)().script
            bystander = asyncio.create_task(transcribe(stage.gateway, SECOND, SECOND))
            with suppress(ConnectionClosed):
                while not call.ended.is_set():
                    await client.say(SECOND[:320])
                    await asyncio.sleep(0.005)
            assert session.error is not None
            assert session.error.code == "slow_client"
            assert "0.5 s" in session.error.message
            client.socket.transport.resume_reading()
            await client.hear_all()
            assert client.close_code == 4408
        assert finals(await bystander) == ["0-32000", "32000-64000"]
        await stage.is_left_clean()


async def test_a_client_that_does_not_read_the_end_is_cut_off_too(upstream: ScriptedUpstream) -> None:
    """The session is over, and waits for nothing but its reader."""
    async with unread(upstream, send_timeout_seconds=0.5) as (stage, client):
        session = the_session(stage.gateway)
        await client.say(STOP)
        await until(lambda: session.phase is Phase.ENDED)
        await until(lambda: not stage.gateway.hub.registry.relays)
        assert not session.delivered
        client.socket.transport.resume_reading()
        await client.hear_all()
        assert client.close_code == 4408


async def test_a_client_that_reads_slowly_is_not_one_that_does_not_read(upstream: ScriptedUpstream) -> None:
    """The time counts for each message: all that it has missed may take longer."""

    async def says_much(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            yield call.final("word " * 3000, len(call.audio))

    upstream.script = says_much
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", resume_window_seconds=60, send_timeout_seconds=1
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *[SECOND[:3200]] * 40)
            started = await client.hear("started")
            for _ in range(40):
                await client.hear("final")
            await client.drop()
        again = connect(gateway.url, sock=await connected(gateway), compression=None, max_queue=1)
        async with again as websocket:
            client = Client(websocket)
            resume = {"session_id": started["session_id"], "resume_token": started["resume_token"], "last_event": 0}
            await client.say({"type": "resume"} | resume)
            clock = asyncio.get_running_loop().time
            for _ in range(40):
                await client.hear("final")
                read_at = clock()
                await until(lambda read_at=read_at: clock() >= read_at + 0.05)  # type: ignore[misc]
            await client.say(STOP)
            assert await client.hear("stopped")
