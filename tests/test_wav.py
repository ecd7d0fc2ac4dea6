"""What a WAV file holds, and what goes to the gateway."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.wav import WavError, open_wav

RATE = 16_000


def riff(
    data: bytes, *, tag: int = 1, bits: int = 16, channels: int = 1, rate: int = RATE, size: int | None = None
) -> bytes:
    """A WAV file. `size` is what it claims for its audio."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)
    size = len(data) if size is None else size
    return b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", form) + b"data" + struct.pack("<I", size) + data


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def samples(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}h", *values)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "test.wav"
        path.write_bytes(content)
        return path

    return write


Written = Callable[[bytes], Path]


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_linear16_at_any_rate_goes_as_it_is(written: Written, rate: int) -> None:
    data = os.urandom(2 * rate)
    with open_wav(written(riff(data, rate=rate))) as wav:
        assert (wav.encoding, wav.sample_rate_hertz, wav.total_ms) == ("LINEAR16", rate, 1000)
        assert b"".join(wav.chunks(100)) == data


@pytest.mark.parametrize(("tag", "encoding"), [(6, "ALAW"), (7, "MULAW")])
def test_telephone_encodings_go_as_they_are(written: Written, tag: int, encoding: str) -> None:
    data = bytes(range(256))
    with open_wav(written(riff(data, tag=tag, bits=8, rate=8000))) as wav:
        assert (wav.encoding, wav.total_ms) == (encoding, 32)
        assert list(wav.chunks(20)) == [data[:160], data[160:]]


@pytest.mark.parametrize(
    ("tag", "bits", "data"),
    [
        (1, 8, bytes([128, 255, 0, 192])),
        (1, 24, b"\x99\0\0\x99\0\x7f\x99\0\x80\x99\0\x40"),
        (1, 32, b"\x99\x99\0\0\x99\x99\0\x7f\x99\x99\0\x80\x99\x99\0\x40"),
    ],
)
def test_other_integer_samples_become_linear16(written: Written, tag: int, bits: int, data: bytes) -> None:
    with open_wav(written(riff(data, tag=tag, bits=bits))) as wav:
        assert wav.encoding == "LINEAR16"
        assert b"".join(wav.chunks(100)) == samples(0, 0x7F00, -0x8000, 0x4000)


@pytest.mark.parametrize(("code", "bits"), [("f", 32), ("d", 64)])
def test_float_samples_become_linear16_and_are_clipped(written: Written, code: str, bits: int) -> None:
    data = struct.pack(f"<5{code}", 0.0, 1.0, -1.0, 0.5, 7.0)
    with open_wav(written(riff(data, tag=3, bits=bits))) as wav:
        assert b"".join(wav.chunks(100)) == samples(0, 32767, -32767, 16384, 32767)


def test_channels_are_mixed_to_their_mean(written: Written) -> None:
    with open_wav(written(riff(samples(100, 300, -5, -7, 32767, 32767), channels=2))) as wav:
        assert wav.channels == 2
        assert b"".join(wav.chunks(100)) == samples(200, -6, 32767)


@pytest.mark.parametrize(("tag", "loud"), [(6, 0xAA), (7, 0x80)])
def test_telephone_encodings_of_two_channels_are_mixed_as_linear16(written: Written, tag: int, loud: int) -> None:
    """0xAA and 0x80 are the loudest positive codes: 32256 in ALAW, 32124 in MULAW (G.711)."""
    with open_wav(written(riff(bytes([loud, loud]), tag=tag, bits=8, channels=2, rate=8000))) as wav:
        assert wav.encoding == "LINEAR16"
        assert b"".join(wav.chunks(100)) == samples({6: 32256, 7: 32124}[tag])


def test_chunks_never_split_a_sample_and_the_last_is_shorter(written: Written) -> None:
    with open_wav(written(riff(samples(*range(1000)), rate=11_025))) as wav:
        assert [len(piece) for piece in wav.chunks(25)] == [550, 550, 550, 350]


def test_an_extensible_header_names_the_format_in_its_guid(written: Written) -> None:
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 2 * RATE, 2, 16, 22, 16, 4) + b"\1\0" + bytes(14)
    content = b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", form) + chunk(b"data", samples(1, 2))
    with open_wav(written(content)) as wav:
        assert b"".join(wav.chunks(100)) == samples(1, 2)


def test_chunks_that_are_not_audio_are_skipped(written: Written) -> None:
    """Before the audio and behind it, also those of an odd size."""
    form = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    content = (
        b"RIFF\0\0\0\0WAVE"
        + chunk(b"LIST", b"odd")
        + chunk(b"fmt ", form)
        + chunk(b"data", samples(1, 2, 3))
        + chunk(b"LIST", b"not audio")
    )
    with open_wav(written(content)) as wav:
        assert b"".join(wav.chunks(100)) == samples(1, 2, 3)


@pytest.mark.parametrize("claimed", [0, 0xFFFF_FFFF, 1_000_000])
def test_a_wrong_size_in_the_header_is_no_error(written: Written, claimed: int) -> None:
    """A writer that could not seek leaves 0 or the largest number; a cut recording claims too much."""
    with open_wav(written(riff(samples(1, 2, 3), size=claimed))) as wav:
        assert wav.total_ms == 0
        assert b"".join(wav.chunks(100)) == samples(1, 2, 3)


def test_half_a_sample_at_the_end_is_left_out(written: Written) -> None:
    with open_wav(written(riff(samples(1, 2) + b"\x01"))) as wav:
        assert b"".join(wav.chunks(100)) == samples(1, 2)


def test_a_pipe_will_do_and_does_not_tell_its_length() -> None:
    reading, writing = os.pipe()
    os.write(writing, riff(samples(1, 2, 3), size=0xFFFF_FFFF))
    os.close(writing)
    try:
        with open_wav(Path(f"/dev/fd/{reading}")) as wav:
            assert wav.total_ms is None
            assert b"".join(wav.chunks(100)) == samples(1, 2, 3)
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"ID3\x04\0\0\0\0\0\0\0\0", "an MP3 file"),
        (b"\0\0\0\x20ftypM4A \0\0", "an MP4 file"),
        (b"OggS\0\0\0\0\0\0\0\0", "an Ogg file"),
        (b"fLaC\0\0\0\0\0\0\0\0", "a FLAC file"),
        (b"just text, nothing else", "no WAV file (it begins with b'just')"),
        (b"RIFF\0\0\0\0AVI LIST", "no WAV file"),
        (b"RIFF\0\0\0\0WAVEfmt ", "ends before its audio begins"),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"data", b"1234"), "does not say its format"),
        (riff(b"1234", tag=2, bits=4), "4-bit ADPCM"),
        (riff(b"1234", tag=85, bits=0), "0-bit MP3"),
        (riff(b"1234", bits=12), "12-bit PCM"),
        (riff(b"1234", channels=0), "0 channels"),
        (riff(b"1234", rate=7999), "7999 samples a second"),
        (riff(b"1234", rate=96_000), "96000 samples a second"),
        (riff(b""), "no audio in it"),
    ],
)
def test_a_file_that_cannot_be_taken_is_told_what_it_is_and_what_is_taken(
    written: Written, content: bytes, found: str
) -> None:
    with pytest.raises(WavError) as caught, open_wav(written(content)):
        pass
    assert found in str(caught.value)
    assert "8 to 48 kHz" in str(caught.value) or "taken is WAV" in str(caught.value)
    assert "\n" not in str(caught.value)
