"""What the gateways that ours is compared with share: how they are served, and how they call the upstream."""

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import uvicorn
from fastapi import FastAPI, WebSocket
from google.cloud import speech_v2

METHOD = "/google.cloud.speech.v2.Speech/StreamingRecognize"
STREAMS = 90
"""Of one connection: Google takes 100."""
RECOGNIZER = "projects/bench/locations/global/recognizers/_"

C = TypeVar("C")


class Channels(Generic[C]):
    """As many as are needed. Without that the 101st stream would wait for ever."""

    def __init__(self, target: str, make: Callable[..., C]) -> None:
        self._target = target
        self._make = make
        self._streams: Counter[C] = Counter()

    @contextmanager
    def one(self) -> Iterator[C]:
        """For one stream."""
        free = (channel for channel, count in self._streams.items() if count < STREAMS)
        channel = next(free, None) or self._make(self._target, options=[("grpc.use_local_subchannel_pool", 1)])
        self._streams[channel] += 1
        try:
            yield channel
        finally:
            self._streams[channel] -= 1


def config_request() -> speech_v2.StreamingRecognizeRequest:
    """As the gateway's own for the load's `start`."""
    return speech_v2.StreamingRecognizeRequest(
        recognizer=RECOGNIZER,
        streaming_config=speech_v2.StreamingRecognitionConfig(
            config=speech_v2.RecognitionConfig(
                explicit_decoding_config=speech_v2.ExplicitDecodingConfig(
                    encoding="LINEAR16", sample_rate_hertz=16_000, audio_channel_count=1
                ),
                model="long",
                language_codes=["en-US"],
            ),
            streaming_features=speech_v2.StreamingRecognitionFeatures(interim_results=True),
        ),
    )


def service(relay: Callable[[WebSocket], Awaitable[None]]) -> FastAPI:
    """Each connection is accepted, and its `start` answered; the rest is `relay`'s."""
    app = FastAPI()

    @app.get("/readyz")
    async def ready() -> str:
        return "ready"

    @app.websocket("/ws/transcribe")
    async def transcribe(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_json()
        await websocket.send_json({"type": "started"})
        await relay(websocket)

    return app


def milliseconds(duration: Any) -> int:
    """proto-plus makes a timedelta of it."""
    seconds: float = duration.total_seconds()
    return round(1000 * seconds)


def serve(create: Callable[[str], Any]) -> None:
    """As the gateway is served, and set up, but with uvicorn's own protocol classes. `create` is given the upstream's
    host and port."""
    uvicorn.run(
        create(os.environ["GATEWAY_UPSTREAM"].removeprefix("grpc://")),
        host=os.environ["GATEWAY_HOST"],
        port=int(os.environ["GATEWAY_PORT"]),
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )
