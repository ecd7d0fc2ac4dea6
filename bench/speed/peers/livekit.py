"""LiveKit's Google driver behind a FastAPI socket. Its client calls the scripted upstream; all else is the driver's."""

import asyncio
from contextlib import suppress

import grpc
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from google.cloud import speech_v2
from google.cloud.speech_v2.services.speech.transports import SpeechGrpcAsyncIOTransport
from livekit import rtc
from livekit.agents import stt
from livekit.plugins import google

from bench.speed.candidate import serve, service

KINDS = {stt.SpeechEventType.INTERIM_TRANSCRIPT: "interim", stt.SpeechEventType.FINAL_TRANSCRIPT: "final"}


class OverUpstream(google.STT):
    """The client of a stream, which the driver would make for Google."""

    def __init__(self, upstream: str) -> None:
        super().__init__(model="chirp_2", project="bench", min_confidence_threshold=0.0, credentials_info={})
        self._upstream = upstream

    async def _create_client(self, timeout: float) -> speech_v2.SpeechAsyncClient:  # noqa: ARG002, ASYNC109 - as it is called
        channel = grpc.aio.insecure_channel(self._upstream, options=[("grpc.use_local_subchannel_pool", 1)])
        return speech_v2.SpeechAsyncClient(transport=SpeechGrpcAsyncIOTransport(channel=channel))


def create(upstream: str) -> FastAPI:
    driver = OverUpstream(upstream)

    async def relay(websocket: WebSocket) -> None:
        stream = driver.stream()

        async def captions() -> None:
            async for event in stream:
                if kind := KINDS.get(event.type):
                    await websocket.send_json({"type": kind, "text": event.alternatives[0].text})

        back = asyncio.create_task(captions())
        with suppress(WebSocketDisconnect, KeyError):  # KeyError: a text, which ends it
            while True:
                audio = await websocket.receive_bytes()
                stream.push_frame(rtc.AudioFrame(audio, 16_000, 1, len(audio) // 2))
        back.cancel()
        await stream.aclose()

    return service(relay)


if __name__ == "__main__":
    serve(create)
