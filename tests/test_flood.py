"""A client that says too much too fast is read no faster than it may speak: nothing that it says is lost, and whoever
speaks beside it is heard."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from app.api.audio_frames import AudioFrames
from app.api.pace import BURST_SECONDS, Pace
from app.api.websocket import FRAMES_A_TURN, SLICE_BYTES, GatewayWebSocket
from app.relay import BURST_SECONDS as CONTROLS_BURST_SECONDS
from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.raw import UPGRADE, Peer, get
from tests.test_back_pressure import the_session, until
from tests.upstream import BYTES_PER_SECOND, ScriptedUpstream

SECOND = b"\1\2" * (BYTES_PER_SECOND // 2)
RATE = 500
BURST = RATE * BURST_SECONDS
SMALLEST = 6
"""Bytes of a frame with nothing in it."""
A_TURN = FRAMES_A_TURN + SLICE_BYTES // SMALLEST + 1


def frame(first: int, payload: bytes = b"") -> bytes:
    """A masked WebSocket frame, of FIN and opcode, and of up to 65,535 bytes."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([first]) + size + bytes(4) + payload


def text(message: dict[str, object]) -> bytes:
    return frame(0x81, json.dumps(message).encode())


ONE_BYTE = frame(0x82, b"\1")
KINDS = {
    "audio of one byte": ONE_BYTE,
    "empty audio": frame(0x82),
    "pings": frame(0x89, b"ab"),
    "pongs": frame(0x8A, b"ab"),
    "keepalives": text({"type": "keepalive"}),
    "finalize": text({"type": "finalize"}),
    "base64": text({"type": "audio", "content": base64.b64encode(b"ab").decode()}),
    "messages in empty pieces": frame(0x02) + frame(0x00) * 8 + frame(0x80, b"\1\1"),
}


@asynccontextmanager
async def speaking(gateway: Gateway) -> AsyncIterator[Peer]:
    """A session over a bare socket."""
    async with Peer.connect(gateway) as peer:
        peer.writer.write(get(b"/ws/transcribe", UPGRADE))
        assert (await peer.answer()).status == 101
        peer.writer.write(text(START))
        await peer.reader.readuntil(b'"started"')
        yield peer


@pytest.fixture
async def paced(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """Who has left is noticed by pings, since what it had said is still there to be read."""
    pings = {"ping_interval_seconds": 0.5, "ping_timeout_seconds": 0.5}
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_messages_per_second=RATE, **pings) as running:
        yield running


def test_a_pace_allows_a_burst_and_then_its_rate() -> None:
    assert Pace(100, now=0.0).spend(round(100 * BURST_SECONDS), 0.0) <= 0
    pace = Pace(100, now=0.0)
    assert pace.spend(1, 1000.0) <= 0, "nobody saves up more than a burst"
    assert pace.spend(round(100 * BURST_SECONDS) - 1, 1000.0) <= 0
    assert pace.spend(1, 1000.0) == pytest.approx(0.01)
    assert pace.spend(49, 1000.0) == pytest.approx(0.5)
    assert pace.wait(1000.5) == pytest.approx(0)
    assert pace.spend(10, 1000.5) == pytest.approx(0.1)


async def test_a_flood_is_read_no_faster_than_its_rate_and_nothing_of_it_is_lost(paced: Gateway) -> None:
    """One byte in each frame: what was received is the count."""
    clock = asyncio.get_running_loop().time
    count = round(BURST) + RATE
    async with speaking(paced) as peer:
        begun = clock()
        session = the_session(paced)
        peer.writer.write(ONE_BYTE * count)
        while session.received < count:
            assert session.received <= BURST + RATE * (clock() - begun) + A_TURN
            await asyncio.sleep(0.01)
        peer.writer.write(text({"type": "stop"}))
        await peer.reader.readuntil(b'"stopped"')
    assert session.received == count


@pytest.mark.parametrize("says", [ONE_BYTE, frame(0x02, b"\1") + frame(0x80)], ids=["plain", "in pieces"])
async def test_no_turn_of_the_loop_is_long(gateway: Gateway, says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 kB hold 10,000 frames; others have their turn after a slice of them."""
    taken = Counter[int]()
    turn = 0
    read, handle_events = AudioFrames.read, GatewayWebSocket.handle_events

    def read_plain(frames: AudioFrames, data: bytes, most: int) -> tuple[bytes, int]:
        rest, count = read(frames, data, most)
        taken[turn] += count
        return rest, count

    def handle_others(protocol: GatewayWebSocket) -> None:
        taken[turn] += len(protocol.conn.events)
        handle_events(protocol)

    monkeypatch.setattr(AudioFrames, "read", read_plain)
    monkeypatch.setattr(GatewayWebSocket, "handle_events", handle_others)
    async with speaking(gateway) as peer:
        session = the_session(gateway)
        peer.writer.write(says * 20_000)
        while session.received < 19_200:  # what is less than a chunk may wait for more
            await asyncio.sleep(0)
            turn += 1
        assert sum(taken.values()) >= 19_200
        assert max(taken.values()) <= A_TURN


async def test_messages_other_than_audio_have_a_rate_of_their_own(upstream: ScriptedUpstream) -> None:
    """Each gap costs more than a hundred frames of audio. Nothing of it is lost, and audio between is not counted."""
    clock, rate = asyncio.get_running_loop().time, 50
    burst = round(rate * CONTROLS_BURST_SECONDS)
    settings = {"upstream": f"grpc://{upstream.address}", "max_control_messages_per_second": rate}
    async with run_gateway(**settings) as gateway, speaking(gateway) as peer:
        begun = clock()
        session = the_session(gateway)
        peer.writer.write(ONE_BYTE * 1000 + text({"type": "gap", "bytes": 2, "reason": "muted"}) * (burst + rate))
        while session.received < 1000 + 2 * (burst + rate):
            assert session.received <= 1000 + 2 * (1 + burst + rate * (clock() - begun))
            await asyncio.sleep(0.01)
        peer.writer.write(text({"type": "stop"}))
        await peer.reader.readuntil(b'"stopped"')


@pytest.mark.parametrize("says", KINDS.values(), ids=KINDS.keys())
async def test_a_flood_of_any_kind_disturbs_nobody_and_grows_nothing(paced: Gateway, says: bytes) -> None:
    """It fills its connection, where TCP keeps it; a session beside it is heard; with its end it is gone."""
    async with speaking(paced) as peer:
        reading = asyncio.create_task(peer.reader.read(-1))
        flood = says * (200_000 // len(says))
        peer.writer.write(flood)
        sent = asyncio.create_task(peer.writer.drain())
        for _ in range(3):
            messages = await transcribe(paced, SECOND, SECOND)
            assert [message["text"] for message in messages if message["type"] == "final"] == ["0-32000", "32000-64000"]
        assert not reading.done(), "it is not refused"
        peer.writer.transport.abort()
        for task in (reading, sent):
            with suppress(ConnectionError):
                await task
    await paced.until_no_session()


async def test_a_client_that_is_held_back_is_not_dead(upstream: ScriptedUpstream) -> None:
    """Its pongs stand behind what it has said."""
    settings = {"ping_interval_seconds": 0.2, "ping_timeout_seconds": 0.2, "max_messages_per_second": 50}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway:
        async with Client.connect(gateway, ping_interval=None) as client:
            await client.say(START)
            await client.hear("started")
            session = the_session(gateway)
            client.socket.transport.write(ONE_BYTE * 300)
            await until(lambda: session.received == 300)
            await client.say({"type": "stop"})
            await client.hear("stopped")


async def test_a_flood_that_breaks_a_rule_learns_why_at_once(paced: Gateway) -> None:
    """The error does not wait for what was said before it is read on."""
    async with speaking(paced) as peer:
        peer.writer.write(ONE_BYTE * 100 + text({"type": "start"}) + ONE_BYTE * 20_000)
        heard = await peer.reader.readuntil(b"\x88")
        assert b'"invalid_config"' in heard or b'"bad_order"' in heard
        closing = asyncio.create_task(peer.reader.read())
        peer.writer.write(frame(0x88, b"\x11\x30"))
        await closing


async def test_a_flood_that_goes_on_after_the_close_is_not_taken(paced: Gateway) -> None:
    """Each ping that is taken is answered."""
    async with speaking(paced) as peer:
        peer.writer.write(text({"type": "start"}) + frame(0x89) * 100_000)
        heard = await peer.reader.read()
    assert b'"error"' in heard
    assert heard.count(b"\x8a\x00") <= 2 * (BURST + A_TURN)


async def test_what_is_said_in_one_piece_is_taken_in_order(gateway: Gateway) -> None:
    """Frames of every size around a slice, pings among them, and `stop`: across turns, in order, to the end."""
    sizes = [1, 125, 126, SLICE_BYTES - 8, SLICE_BYTES, SLICE_BYTES + 1, 3200, 20_000] * 4
    audio = bytes(range(256)) * (sum(sizes) // 256 + 1)
    says, at = b"", 0
    for size in sizes:
        says += frame(0x82, audio[at : at + size]) + frame(0x89, b"p") * 20
        at += size
    async with speaking(gateway) as peer:
        session = the_session(gateway)
        peer.writer.write(says + text({"type": "stop"}))
        await peer.reader.readuntil(b'"stopped"')
    assert session.received == sum(sizes)
