"""Bytes and milliseconds, gathering, replay, pace: app/core/audio.py."""

import tracemalloc
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.audio import BLOCK_BYTES, AudioFormat, Gatherer, Pace, ReplayBuffer

LINEAR16 = AudioFormat("LINEAR16", 16000, 1)


@pytest.mark.parametrize(
    ("encoding", "rate", "bytes_per_second"),
    [("LINEAR16", 16000, 32000), ("LINEAR16", 44100, 88200), ("MULAW", 8000, 8000), ("ALAW", 48000, 48000)],
)
def test_a_second_has_so_many_bytes(encoding: str, rate: int, bytes_per_second: int) -> None:
    audio = AudioFormat(encoding, rate, 1)
    assert audio.bytes_per_second == bytes_per_second
    assert audio.ms(bytes_per_second) == 1000
    assert audio.offset(1000) == bytes_per_second


def test_an_offset_never_splits_a_sample() -> None:
    odd = AudioFormat("LINEAR16", 11025, 1)
    assert all(odd.offset(ms) % 2 == 0 for ms in range(100))


@given(st.lists(st.binary(max_size=50)), st.integers(1, 8))
def test_gathering_loses_and_adds_nothing(frames: list[bytes], samples: int) -> None:
    gatherer = Gatherer(samples * 2, 2, samples * 3 - samples * 3 % 2)
    chunks = []
    for frame in frames:
        made = list(gatherer.add(frame))
        chunks += made
        assert all(len(chunk) == samples * 2 for chunk in made[:-1])
        assert all(len(chunk) % 2 == 0 and samples * 2 <= len(chunk) <= samples * 3 for chunk in made)
        assert len(gatherer) < samples * 2
    rest = gatherer.flush()
    assert len(rest) % 2 == 0
    assert len(gatherer) <= 1, "part of a sample stays"
    whole = b"".join(frames)
    assert b"".join(chunks) + rest == whole[: len(whole) - len(gatherer)]


def test_a_gatherer_that_is_left_early_keeps_the_rest() -> None:
    gatherer = Gatherer(2, 1, 4)
    next(gatherer.add(b"abcdefg"))
    assert list(gatherer.add(b"")) == [b"cd", b"efg"]


@given(st.lists(st.integers(1, 9)), st.lists(st.integers(0, 60)))
def test_the_replay_buffer_holds_exactly_what_is_not_settled(sizes: list[int], settled: list[int]) -> None:
    buffer, whole, offset = ReplayBuffer(4), b"", 0
    for size in sizes:
        chunk = bytes((offset + i) % 256 for i in range(size))
        buffer.append(offset, chunk)
        whole, offset = whole + chunk, offset + size
    for position in sorted(settled):
        buffer.settle(position)
        assert read(buffer, position, len(whole)) == whole[position:]
        assert buffer.read(position - 1, len(whole)) == b"", "forgotten"
        assert len(buffer) == max(0, len(whole) - position)


@given(st.lists(st.tuples(st.sampled_from(["audio", "gap", "settle"]), st.integers(1, 9)), max_size=60))
def test_it_does_so_however_audio_gaps_and_finals_follow_each_other(steps: list[tuple[str, int]]) -> None:
    """With blocks of a few chunks."""
    buffer, held, end, settled = ReplayBuffer(4), dict[int, int](), 0, 0
    with patch("app.core.audio.BLOCK_BYTES", 16):
        for what, size in steps:
            if what == "audio":
                buffer.append(end, bytes((end + i) % 256 for i in range(size)))
                held |= {at: at % 256 for at in range(end, end + size)}
            end += size if what != "settle" else 0
            if what == "settle":
                settled = min(end, settled + size)
                buffer.settle(settled)
                held = {at: value for at, value in held.items() if at >= settled}
            assert len(buffer) == len(held)
            assert {at: buffer.read(at, at + 1) for at in range(end)} == {
                at: bytes([held[at]]) if at in held else b"" for at in range(end)
            }
            if held:
                assert buffer.offset_from_end(len(held)) == min(held)


def test_a_gap_in_the_replay_buffer_has_no_bytes() -> None:
    buffer = ReplayBuffer(4)
    buffer.append(0, b"ab")
    buffer.append(10, b"cd")
    buffer.settle(5)
    assert (len(buffer), buffer.read(5, 12), buffer.read(10, 12)) == (2, b"", b"cd")


def test_the_replay_buffer_is_read_in_pieces_however_it_came() -> None:
    sound = bytes(range(256)) * 1024
    buffer = ReplayBuffer(3200)
    for at in range(0, len(sound), 640):
        buffer.append(at, sound[at : at + 640])
    buffer.settle(1000)
    assert read(buffer, 1000, len(sound)) == sound[1000:]
    assert len(buffer.read(1000, len(sound))) == 3200
    assert buffer.read(1000, 1500) == sound[1000:1500]


def test_the_replay_buffer_costs_little_beside_its_audio() -> None:
    minute, chunk = 1_920_000, 3200
    buffer = ReplayBuffer(chunk)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for at in range(0, minute, chunk):
        buffer.append(at, bytes(chunk))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < minute + BLOCK_BYTES // 4


def read(buffer: ReplayBuffer, at: int, end: int) -> bytes:
    """All of it, chunk by chunk."""
    pieces = []
    while piece := buffer.read(at, end):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


def test_real_time_audio_is_never_delayed() -> None:
    pace = Pace(rate=64000, burst=64000)
    assert [pace.delay(i / 10, 3200) for i in range(100)] == [0.0] * 100


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    pace = Pace(rate=100, burst=200)
    assert pace.delay(0.0, 200) == 0.0
    assert pace.delay(0.0, 100) == 1.0
    assert pace.delay(1.0, 100) == 1.0, "the caller has waited, so it waits for the next hundred only"


def test_a_pause_earns_one_burst_and_no_more() -> None:
    pace = Pace(rate=100, burst=200)
    pace.delay(0.0, 200)
    assert pace.delay(1000.0, 200) == 0.0
    assert pace.delay(1000.0, 100) == 1.0
