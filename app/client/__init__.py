"""Speech in, captions out: one session with a gateway, for Python programs.

config = SessionConfig(audio=Audio("LINEAR16", 16_000), language_codes=["en-US"])
async with Transcriber("ws://127.0.0.1:8000/ws/transcribe", config) as transcriber:
    await transcriber.send(audio)
    await transcriber.stop()
    async for message in transcriber.messages():
        print(message)
"""

from app.client.errors import ConnectionLostError, GatewayError, TranscriberError, UnreachableError
from app.client.messages import Message, Reconnected, Reconnecting
from app.client.session import Transcriber
from app.core.protocol import Audio, SessionConfig

__all__ = [
    "Audio",
    "ConnectionLostError",
    "GatewayError",
    "Message",
    "Reconnected",
    "Reconnecting",
    "SessionConfig",
    "Transcriber",
    "TranscriberError",
    "UnreachableError",
]
