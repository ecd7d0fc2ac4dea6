"""Talking to an emulator as anybody would: the unmodified clients of both versions, and a server in its own process.

A test module has its own `port` fixture, made of `serve`.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import grpc.aio
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import speech_v1, speech_v2
from google.cloud.speech_v1.services.speech.transports import SpeechGrpcAsyncIOTransport as V1Transport
from google.cloud.speech_v2.services.speech.transports import SpeechGrpcAsyncIOTransport as V2Transport

from tests.speech_files import sample

ROOT = Path(__file__).parents[1]
RECOGNIZER = "projects/p/locations/global/recognizers/_"
SECOND = 1_000_000_000


def start_server(*options: str) -> "subprocess.Popen[str]":
    """A server in its own process, as the gateway starts it; it dies with its stdin."""
    command = [sys.executable, "-m", "app.emulator", "--port", "0", "--exit-with-stdin", *options]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def port_of(server: "subprocess.Popen[str]") -> int:
    assert server.stdout
    return int(server.stdout.readline().rpartition(":")[2])


def serve(*options: str) -> Iterator[int]:
    """What a fixture yields from: the port of a server that lives as long as the fixture."""
    with start_server(*options) as server:
        yield port_of(server)
        assert server.stdin
        server.stdin.close()


@cache
def speech(start: float = 0.0, stop: float = 44.4, rate: int = 16_000) -> bytes:
    """16-bit samples from the recording in the model's package."""
    import numpy as np
    import soxr

    recording = sample()
    assert recording, "the emulator extra is not installed"
    own_rate, pcm = recording.pcm()
    part = np.frombuffer(pcm, np.int16)[int(start * own_rate) : int(stop * own_rate)]
    resampled: bytes = soxr.resample(part, own_rate, rate).astype(np.int16).tobytes()
    return resampled


def silence(seconds: float, rate: int = 16_000) -> bytes:
    return bytes(int(seconds * rate) * 2)


def pieces(audio: bytes, size: int = 3200) -> list[bytes]:
    return [audio[at : at + size] for at in range(0, len(audio), size)]


@dataclass(frozen=True)
class Asked:
    """What a client asks for, in either version."""

    rate: int = 16_000
    encoding: str = "LINEAR16"
    language: str = "en-US"
    interims: bool = False
    events: bool = False
    words: bool = False
    punctuation: bool = False
    single_utterance: bool = False
    start_timeout: float | None = None
    end_timeout: float | None = None

    @property
    def timeouts(self) -> dict[str, Any]:
        given = {"speech_start_timeout": self.start_timeout, "speech_end_timeout": self.end_timeout}
        return {name: {"nanos": int(s % 1 * SECOND), "seconds": int(s)} for name, s in given.items() if s is not None}


@dataclass
class Heard:
    """What a call said: the raw responses, and the error it ended with, if any."""

    responses: list[Any] = field(default_factory=list)
    error: GoogleAPICallError | None = None

    @property
    def results(self) -> list[Any]:
        return [result for response in self.responses for result in response.results]

    @property
    def finals(self) -> list[Any]:
        return [result for result in self.results if result.is_final]

    @property
    def interims(self) -> list[str]:
        """One text for each response, its pieces put together."""
        texts = ["".join(r.alternatives[0].transcript for r in m.results if not r.is_final) for m in self.responses]
        return [text for text in texts if text]

    @property
    def text(self) -> str:
        return "".join(final.alternatives[0].transcript for final in self.finals)

    @property
    def events(self) -> list[str]:
        """The names of the voice-activity events."""
        told = [r for r in self.responses if r.speech_event_type]
        enum = type(told[0]).SpeechEventType if told else None
        return [enum.Name(response.speech_event_type) for response in told] if enum else []

    @property
    def event_times(self) -> list[int]:
        """Nanoseconds, of the same."""
        name = next(n for n in ("speech_event_time", "speech_event_offset") if hasattr(self.responses[0], n))
        return [getattr(r, name).ToNanoseconds() for r in self.responses if r.speech_event_type]

    @property
    def status(self) -> tuple[str, str]:
        if self.error is None:
            return "OK", ""
        assert self.error.grpc_status_code
        return self.error.grpc_status_code.name, self.error.message


class Google:
    """One version's client on a plaintext channel."""

    def __init__(self, version: str, channel: grpc.aio.Channel) -> None:
        self.version = version
        self.client: Any
        if version == "v1":
            self.client = speech_v1.SpeechAsyncClient(transport=V1Transport(channel=channel))
        else:
            self.client = speech_v2.SpeechAsyncClient(transport=V2Transport(channel=channel))

    def config(self, asked: Asked) -> Any:
        return _config_v1(asked) if self.version == "v1" else _config_v2(asked)

    def audio(self, data: bytes) -> Any:
        if self.version == "v1":
            return speech_v1.StreamingRecognizeRequest(audio_content=data)
        return speech_v2.StreamingRecognizeRequest(audio=data)

    async def recognize(self, asked: Asked, chunks: Sequence[bytes]) -> Heard:
        return await self.say([self.config(asked), *(self.audio(chunk) for chunk in chunks)])

    async def say(self, requests: Sequence[Any]) -> Heard:
        """Any messages, right or wrong, then half-close."""

        async def given() -> AsyncIterator[Any]:
            for request in requests:
                yield request

        return await rest(await self.client.streaming_recognize(given(), retry=None))

    async def open(self, asked: Asked, *chunks: bytes) -> Any:
        """A call that is not half-closed."""
        call = await self.client.streaming_recognize(retry=None)
        await call.write(self.config(asked))
        for chunk in chunks:
            await call.write(self.audio(chunk))
        return call


@asynccontextmanager
async def google(version: str, port: int, **options: int) -> AsyncIterator[Google]:
    """With a connection of its own, and gRPC's channel `options`, once the server is there."""
    arguments = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{name}", value) for name, value in options.items())]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=arguments) as channel:
        await channel.channel_ready()
        yield Google(version, channel)


async def rest(call: Any) -> Heard:
    """What a call still says until the server ends it."""
    heard = Heard()
    try:
        async for response in call:
            heard.responses.append(type(response).pb(response))
    except GoogleAPICallError as error:
        heard.error = error
    return heard


def end_of(result: Any) -> int:
    """Nanoseconds."""
    name = "result_end_time" if "result_end_time" in result.DESCRIPTOR.fields_by_name else "result_end_offset"
    nanoseconds: int = getattr(result, name).ToNanoseconds()
    return nanoseconds


def billed(heard: Heard) -> int:
    """Seconds, on the last response."""
    last = heard.responses[-1]
    if "total_billed_time" in last.DESCRIPTOR.fields_by_name:
        return int(last.total_billed_time.ToSeconds())
    return int(last.metadata.total_billed_duration.ToSeconds())


def _config_v1(asked: Asked) -> Any:
    config = speech_v1.RecognitionConfig(
        encoding=asked.encoding,
        sample_rate_hertz=asked.rate,
        language_code=asked.language,
        enable_word_time_offsets=asked.words,
        enable_word_confidence=asked.words,
        enable_automatic_punctuation=asked.punctuation,
    )
    streaming = speech_v1.StreamingRecognitionConfig(
        config=config,
        interim_results=asked.interims,
        single_utterance=asked.single_utterance,
        enable_voice_activity_events=asked.events,
        voice_activity_timeout=asked.timeouts,
    )
    return speech_v1.StreamingRecognizeRequest(streaming_config=streaming)


def _config_v2(asked: Asked) -> Any:
    explicit = {"encoding": asked.encoding, "sample_rate_hertz": asked.rate, "audio_channel_count": 1}
    config = speech_v2.RecognitionConfig(
        explicit_decoding_config=explicit,
        model="latest_short" if asked.single_utterance else "long",
        language_codes=[asked.language],
        features={
            "enable_word_time_offsets": asked.words,
            "enable_word_confidence": asked.words,
            "enable_automatic_punctuation": asked.punctuation,
        },
    )
    features = {
        "interim_results": asked.interims,
        "enable_voice_activity_events": asked.events,
        "voice_activity_timeout": asked.timeouts,
    }
    streaming = speech_v2.StreamingRecognitionConfig(config=config, streaming_features=features)
    return speech_v2.StreamingRecognizeRequest(recognizer=RECOGNIZER, streaming_config=streaming)
