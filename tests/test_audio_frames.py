"""Audio is read without the WebSocket library, and gathered: every byte once, in order, whatever it came in."""

import base64
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.audio_frames import AudioFrames
from tests.gateway import START, Client, run_gateway
from tests.test_back_pressure import the_session, until
from tests.upstream import ScriptedUpstream

CHUNK, LARGEST = 320, 1000
ANY_NUMBER = 1_000_000


def wire(payload: bytes, first: int = 0x82, mask: bytes = b"\1\2\3\4") -> bytes:
    """A masked frame, its length as short as it can be said."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return bytes([first]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


sizes = st.lists(st.sampled_from([0, 1, 2, 125, 126, 127, CHUNK - 1, CHUNK, CHUNK + 1, LARGEST]), max_size=20)


@given(sizes=sizes, cuts=st.lists(st.integers(0, 20_000), max_size=20), most=st.integers(1, 5))
def test_every_byte_comes_once_whatever_it_is_cut_into(sizes: list[int], cuts: list[int], most: int) -> None:
    spoken = [os.urandom(size) for size in sizes]
    data = b"".join(wire(audio) for audio in spoken)
    frames, heard, count = AudioFrames(CHUNK, LARGEST), b"", 0
    for start, end in pairwise(sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})):
        rest = data[start:end]
        while True:
            rest, read = frames.read(rest, most)
            assert read <= most
            count += read
            while piece := frames.full():
                assert len(piece) % CHUNK == 0, "nobody downstream has to gather again"
                assert len(piece) <= LARGEST, "it is no larger than a frame may be"
                heard += piece
            if not rest:
                break
    rest = frames.rest()
    assert len(rest) < CHUNK
    assert heard + rest == b"".join(spoken)
    assert count == len(spoken)


NOT_PLAIN = {
    "a text": wire(b"{}", 0x81),
    "a ping": wire(b"", 0x89),
    "the first of several pieces": wire(b"ab", 0x02),
    "a reserved bit": wire(b"ab", 0xC2),
    "not masked": b"\x82\x02ab",
    "larger than audio may be": wire(bytes(LARGEST + 1)),
    "eight bytes of length": b"\x82\xff" + (200).to_bytes(8, "big") + bytes(204),
    "two bytes of length for one": b"\x82\xfe\x00\x02" + bytes(6),
}


@pytest.mark.parametrize("other", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_is_left_for_the_library(other: bytes) -> None:
    """With all that comes after it."""
    frames = AudioFrames(CHUNK, LARGEST)
    assert frames.read(wire(b"ab") + other + wire(b"cd"), ANY_NUMBER) == (other + wire(b"cd"), 1)
    assert frames.rest() == b"ab"


@pytest.mark.parametrize("other", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_may_be_plain_waits_for_its_next_byte(other: bytes) -> None:
    """It is given back whole once it proves to be something else."""
    frames, given_back = AudioFrames(CHUNK, LARGEST), b""
    for byte in other:
        rest, count = (bytes([byte]), 0) if given_back else frames.read(bytes([byte]), ANY_NUMBER)
        given_back += rest
        assert count == 0
    assert given_back == other


# Through a gateway --------------------------------------------------------------------------


async def test_what_is_less_than_a_chunk_goes_on_without_more(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway, Client.connect(gateway) as client:
        await client.say(START)
        await client.hear("started")
        await client.say(b"\1\2" * 4, b"\3\4" * 4)
        await until(lambda: the_session(gateway).received == 16)


async def test_audio_keeps_its_order_however_it_is_said(upstream: ScriptedUpstream) -> None:
    """Gathered frames, larger ones, messages in pieces and audio in JSON by turns."""
    said = [bytes([number, 1]) * (1 + 37 * number % 2500) for number in range(1, 60)]
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway, Client.connect(gateway) as client:
        await client.say(START)
        for number, audio in enumerate(said):
            if number % 7 == 3:
                await client.say({"type": "audio", "content": base64.b64encode(audio).decode()})
            elif number % 7 == 5:
                await client.socket.send([audio[:1], audio[1:]])
            else:
                await client.say(audio)
        await client.say({"type": "stop"})
        await client.hear("stopped")
    assert b"".join(bytes(call.audio) for call in upstream.calls) == b"".join(said)


async def test_what_was_gathered_counts_though_the_connection_ends_at_once(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START)
            await client.hear("started")
            session = the_session(gateway)
            await client.say(b"\1\2" * 4, b"\3\4" * 4)
            await client.drop()
        await until(lambda: session.received == 16)
