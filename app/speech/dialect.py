"""What v1 and v2 of the Speech-to-Text API have in common, seen from the driver: one shape, two vocabularies.

`speech/v1.py` and `speech/v2.py` translate a session's config into requests; `speech/responses.py` reads what comes
back. The driver (`speech/google.py`) knows neither version.
"""

from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from app.core.errors import invalid
from app.core.protocol import SessionConfig

MAX_AUDIO_BYTES = 25_600
"""Largest audio message of v2 ("Audio chunk can be of a a maximum of 25600 bytes"); v1 takes more."""


@dataclass(frozen=True, slots=True)
class Names:
    """Where v1 and v2 call the same thing by different names."""

    result_end: str
    word_start: str
    word_end: str
    event_at: str
    billed: tuple[str, ...]
    """The attributes that lead to the billed duration."""


class Client(Protocol):
    """The one method of the generated SpeechAsyncClient that the driver calls."""

    def streaming_recognize(
        self, requests: Any = ..., *, retry: Any = ..., timeout: Any = ..., metadata: Any = ...
    ) -> Awaitable[AsyncIterable[Any]]: ...


class Dialect(Protocol):
    """One version of the API."""

    version: str
    models: tuple[str, ...]
    default_model: str
    names: Names
    metadata: tuple[tuple[str, str], ...]

    def client(self, channel: grpc.aio.Channel) -> Client:
        """The generated SpeechAsyncClient over `channel`."""

    def check(self, config: SessionConfig) -> None:
        """Raises SessionError that names what this version lacks."""

    def config_request(self, config: SessionConfig) -> bytes:
        """The first message of a leg, serialized."""

    def audio_request(self, config: SessionConfig) -> Callable[[bytes], bytes]:
        """Makes every later message from a chunk as the client encodes it, never empty. Serialized, too."""


def check_model(dialect: Dialect, config: SessionConfig) -> None:
    if config.model is not None and config.model not in dialect.models:
        raise invalid(
            "model", config.model, f"with Speech-to-Text {dialect.version} one of {', '.join(dialect.models)}"
        )


def wants_activity(config: SessionConfig) -> bool:
    """Whether voice-activity events must be asked for: by name, or since a timeout needs them."""
    return config.enable_voice_activity_events or config.voice_activity_timeout is not None


def timeouts_ms(config: SessionConfig) -> dict[str, int]:
    """`speech_start_timeout` and `speech_end_timeout` as asked for, in milliseconds."""
    asked = config.voice_activity_timeout
    named = {
        "speech_start_timeout": asked and asked.speech_start_ms,
        "speech_end_timeout": asked and asked.speech_end_ms,
    }
    return {name: ms for name, ms in named.items() if ms}
