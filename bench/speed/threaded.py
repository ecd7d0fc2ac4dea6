"""The threaded design: the synchronous SpeechClient, one thread of an executor for each connection."""

import asyncio
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from google.cloud import speech_v2
from google.cloud.speech_v2.services.speech.transports import SpeechGrpcTransport

from bench.speed.candidate import Channels, config_request, milliseconds, serve, service

THREADS = 1000


def create(upstream: str) -> FastAPI:
    channels = Channels(upstream, grpc.insecure_channel)
    threads = ThreadPoolExecutor(THREADS)

    async def relay(websocket: WebSocket) -> None:
        loop, audio = asyncio.get_running_loop(), queue.Queue[bytes | None]()

        def requests() -> Iterator[speech_v2.StreamingRecognizeRequest]:
            yield config_request()
            while (chunk := audio.get()) is not None:
                yield speech_v2.StreamingRecognizeRequest(audio=chunk)

        def captions(channel: grpc.Channel) -> None:
            client = speech_v2.SpeechClient(transport=SpeechGrpcTransport(channel=channel))
            for response in client.streaming_recognize(requests=requests()):
                for result in response.results:
                    text = {
                        "type": "final" if result.is_final else "interim",
                        "text": result.alternatives[0].transcript,
                        "end_ms": milliseconds(result.result_end_offset),
                    }
                    asyncio.run_coroutine_threadsafe(websocket.send_json(text), loop)

        with channels.one() as channel:
            back = loop.run_in_executor(threads, captions, channel)
            with suppress(WebSocketDisconnect, KeyError):  # KeyError: a text, which ends it
                while True:
                    audio.put(await websocket.receive_bytes())
            audio.put(None)
            await back

    return service(relay)


if __name__ == "__main__":
    serve(create)
