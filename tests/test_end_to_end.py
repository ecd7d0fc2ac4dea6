"""Real speech through the whole house: client library -> gateway -> the emulator's recognizer, and back."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from tests.emulator_client import pieces, speech
from tests.gateway import Gateway, run_gateway, transcribe
from tests.speech_files import Recording, normal, sample, shared_recordings, word_errors

pytest.importorskip("onnxruntime")
import numpy as np

from app.client import Transcriber
from app.core.protocol import Audio, Final, SessionConfig

TELEPHONE = [r for r in shared_recordings() if r.rate == 8000 and r.path.parent.name == "asterisk_8k_en"]
AT_16_KHZ = [
    r
    for r in shared_recordings()
    if r.rate == 16_000 and r.readable and not r.path.name.startswith("google_gnome")  # a part of its text is missing
]
AT_ONCE = 6
PATIENT = 600
"""Seconds: a recognizer that shares a slow machine with its tests is not given up."""


@pytest.fixture
async def gateway(port: int) -> AsyncIterator[Gateway]:
    async with run_gateway(upstream=f"grpc://127.0.0.1:{port}", answer_seconds=PATIENT) as running:
        yield running


def text(messages: list[dict[str, Any]]) -> str:
    assert messages[-1]["type"] == "stopped", messages[-1]
    return " ".join(message["text"] for message in messages if message["type"] == "final")


def audio(encoding: str, rate: int) -> dict[str, Any]:
    return {"encoding": encoding, "sample_rate_hertz": rate}


@pytest.mark.parametrize("api", ["v1", "v2"])
async def test_the_sample_recording_comes_back_in_words(port: int, api: str) -> None:
    """The 44 s recording inside the recognizer's package: under 15 % word errors, through either API."""
    recording = sample()
    assert recording is not None
    rate, pcm = recording.pcm()
    config = SessionConfig(audio=Audio("LINEAR16", rate), language_codes=["en-US"])
    async with run_gateway(upstream=f"grpc://127.0.0.1:{port}", speech_api=api, answer_seconds=PATIENT) as gateway:
        async with Transcriber(gateway.url, config) as transcriber:
            said = asyncio.create_task(finals(transcriber))
            await transcriber.send(pcm)
            await transcriber.stop()
            heard = await said
    assert word_errors([" ".join(final.text for final in heard)], [recording.text]) < 0.15
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(heard))
    assert heard[-1].end_ms <= 44_400


async def finals(transcriber: Transcriber) -> list[Final]:
    return [message async for message in transcriber.messages() if isinstance(message, Final)]


async def test_the_embedded_emulator_starts_and_stops_with_the_gateway() -> None:
    """What `make run` does, and the command that it prints: captions on standard output."""
    async with run_gateway() as gateway:
        command = [sys.executable, "-m", "app.cli", "sample", "--fast", "--url", gateway.url]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        printed, _ = await process.communicate()
    recording = sample()
    assert recording is not None
    assert process.returncode == 0
    assert word_errors([printed.decode()], [recording.text]) < 0.15


async def test_every_framing_gives_identical_finals(gateway: Gateway) -> None:
    """Base64 and binary, 1 ms to 1 s, odd boundaries: the words, their times and their numbers are the same."""
    spoken = speech(1.0, 9.5)
    expected = strip(await transcribe(gateway, *pieces(spoken, 3200)))
    assert len(expected) >= 1
    for size in (32, 333, 640, 6401, 32_000):
        assert strip(await transcribe(gateway, *pieces(spoken, size))) == expected, f"{size} bytes a frame"
    coded = [{"type": "audio", "content": base64_of(piece)} for piece in pieces(spoken, 1111)]
    assert strip(await transcribe(gateway, *coded)) == expected


def strip(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert messages[-1]["type"] == "stopped", messages[-1]
    return [message for message in messages if message["type"] == "final"]


def base64_of(piece: bytes) -> str:
    import base64

    return base64.b64encode(piece).decode()


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
async def test_every_rate_is_understood(gateway: Gateway, rate: int) -> None:
    said = text(await transcribe(gateway, *pieces(speech(0.5, 9.0, rate), 6000), audio=audio("LINEAR16", rate)))
    assert "best of times" in said.lower()


@pytest.mark.parametrize("encoding", ["MULAW", "ALAW"])
@pytest.mark.parametrize("api", ["v1", "v2"])
async def test_telephone_encodings_are_understood(port: int, api: str, encoding: str) -> None:
    """ALAW on v1, which has none, goes up as LINEAR16."""
    samples = np.frombuffer(speech(0.5, 9.0, 8000), np.int16)
    coded = encode(samples, encoding)
    async with run_gateway(upstream=f"grpc://127.0.0.1:{port}", speech_api=api, answer_seconds=PATIENT) as gateway:
        said = text(await transcribe(gateway, *pieces(coded, 800), audio=audio(encoding, 8000)))
    assert "best of times" in said.lower()


def encode(samples: Any, encoding: str) -> bytes:
    """Nearest of the 256 values of G.711."""
    from app.emulator.audio import Decoder

    values = np.asarray(Decoder(encoding).decode(bytes(range(256)))).astype(np.int32)
    order = np.argsort(values)
    middles = (values[order][1:] + values[order][:-1]) / 2
    return bytes(order[np.searchsorted(middles, samples)].astype(np.uint8))


@pytest.mark.skipif(not TELEPHONE, reason="no shared recordings")
@pytest.mark.parametrize("encoding", ["LINEAR16", "MULAW", "ALAW"])
async def test_telephone_recordings_work(gateway: Gateway, encoding: str) -> None:
    """8 kHz prompts, and what a telephone line makes of them, cost no more than a few words."""
    said = await many(gateway, TELEPHONE, encoding)
    assert word_errors(said, [recording.text for recording in TELEPHONE]) < 0.25


@pytest.mark.skipif(not AT_16_KHZ, reason="no shared recordings")
async def test_the_gateway_costs_no_word_on_real_speech(gateway: Gateway, port: int) -> None:
    """The words through the gateway are those of one uninterrupted stream to the recognizer."""
    from tests.emulator_client import Asked, google

    chosen = AT_16_KHZ[::6]
    said = await many(gateway, chosen, "LINEAR16")
    async with google("v2", port) as client:
        straight = [(await client.recognize(Asked(), pieces(r.pcm()[1]))).text for r in chosen]
    assert [normal(words) for words in said] == [normal(words) for words in straight]


async def many(gateway: Gateway, recordings: list[Recording], encoding: str) -> list[str]:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(recording: Recording) -> str:
        rate, pcm = recording.pcm()
        if encoding != "LINEAR16":
            pcm = encode(np.frombuffer(pcm, np.int16), encoding)
        async with room:
            return text(await transcribe(gateway, *pieces(pcm, 3200), audio=audio(encoding, rate)))

    return await asyncio.gather(*(one(recording) for recording in recordings))
