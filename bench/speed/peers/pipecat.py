"""Pipecat's Google service between its FastAPI transport's input and output. Its client calls the scripted upstream;
all else is Pipecat's.
"""

import json
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fastapi import FastAPI, WebSocket
from google.cloud import speech_v2
from google.cloud.speech_v2.services.speech.transports import SpeechGrpcAsyncIOTransport
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    OutputTransportMessageUrgentFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.services.google.stt import GoogleSTTService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

from bench.speed.candidate import Channels, serve, service


class Wire(FrameSerializer):
    """Binary frames are audio, texts are captions."""

    async def serialize(self, frame: Frame) -> str | None:
        return json.dumps(frame.message) if isinstance(frame, OutputTransportMessageUrgentFrame) else None

    async def deserialize(self, data: str | bytes) -> Frame | None:
        return InputAudioRawFrame(data, 16_000, 1) if isinstance(data, bytes) else None


class Captions(FrameProcessor):
    """Transcriptions become messages for the client."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterimTranscriptionFrame | TranscriptionFrame):
            kind = "final" if isinstance(frame, TranscriptionFrame) else "interim"
            await self.push_frame(OutputTransportMessageUrgentFrame({"type": kind, "text": frame.text}))
        else:
            await self.push_frame(frame, direction)


def create(upstream: str) -> FastAPI:
    channels, account = Channels(upstream, grpc.aio.insecure_channel), _service_account()

    async def relay(websocket: WebSocket) -> None:
        service = GoogleSTTService(credentials=account, sample_rate=16_000)
        with channels.one() as channel:
            service._client = speech_v2.SpeechAsyncClient(  # noqa: SLF001 - which it would make for Google
                transport=SpeechGrpcAsyncIOTransport(channel=channel)
            )
            params = FastAPIWebsocketParams(audio_in_enabled=True, serializer=Wire())
            transport = FastAPIWebsocketTransport(websocket, params)
            pipeline = Pipeline([transport.input(), service, Captions(), transport.output()])
            worker = PipelineWorker(pipeline, params=PipelineParams(audio_in_sample_rate=16_000), enable_rtvi=False)
            runner: Any = WorkerRunner(handle_sigint=False)

            @transport.event_handler("on_client_disconnected")  # type: ignore[untyped-decorator]
            async def leave(*_: Any) -> None:
                await runner.cancel()

            await runner.add_workers(worker)
            await runner.run()

    return service(relay)


def _service_account() -> str:
    """Of nobody: the service wants one before it makes its client."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "bench",
            "private_key": key.decode(),
            "client_email": "bench@example.com",
            "token_uri": "https://example.com/token",
        }
    )


if __name__ == "__main__":
    serve(create)
