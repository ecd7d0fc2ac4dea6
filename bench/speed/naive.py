"""What a typical repository does: FastAPI, a queue and a generator over SpeechAsyncClient, a request for each frame,
results read as proto-plus objects and sent as JSON.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from google.cloud import speech_v2
from google.cloud.speech_v2.services.speech.transports import SpeechGrpcAsyncIOTransport

from bench.speed.candidate import Channels, config_request, milliseconds, serve, service


def create(upstream: str) -> FastAPI:
    channels = Channels(upstream, grpc.aio.insecure_channel)

    async def relay(websocket: WebSocket) -> None:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def requests() -> AsyncIterator[speech_v2.StreamingRecognizeRequest]:
            yield config_request()
            while (chunk := await queue.get()) is not None:
                yield speech_v2.StreamingRecognizeRequest(audio=chunk)

        async def captions(channel: grpc.aio.Channel) -> None:
            client = speech_v2.SpeechAsyncClient(transport=SpeechGrpcAsyncIOTransport(channel=channel))
            async for response in await client.streaming_recognize(requests=requests()):
                for result in response.results:
                    await websocket.send_json(
                        {
                            "type": "final" if result.is_final else "interim",
                            "text": result.alternatives[0].transcript,
                            "end_ms": milliseconds(result.result_end_offset),
                        }
                    )

        with channels.one() as channel:
            back = asyncio.create_task(captions(channel))
            with suppress(WebSocketDisconnect, KeyError):  # KeyError: a text, which ends it
                while True:
                    await queue.put(await websocket.receive_bytes())
            back.cancel()

    return service(relay)


if __name__ == "__main__":
    serve(create)
