"""Speech-to-Text v1: `google.cloud.speech.v1.Speech/StreamingRecognize`.

v1 has no ALAW, so ALAW goes up as LINEAR16: exactly the same samples in twice the bytes.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import Any

import grpc
from google.cloud import speech_v1
from google.cloud.speech_v1.services.speech.transports import SpeechGrpcAsyncIOTransport

from app.core.errors import invalid
from app.core.protocol import Phrase, SessionConfig
from app.speech.alaw import alaw_to_linear16
from app.speech.dialect import Client, Names, check_model, timeouts_ms, wants_activity
from app.speech.wire import raw_stream, serialized

_types = speech_v1.types


class _Transport(SpeechGrpcAsyncIOTransport):
    """The generated one, but for what goes over it: see speech/wire.py."""

    @cached_property
    def streaming_recognize(self) -> Any:
        return raw_stream(self.grpc_channel, "google.cloud.speech.v1.Speech", _types.StreamingRecognizeResponse)


class SpeechV1:
    version = "v1"
    models: tuple[str, ...] = (
        "latest_long",
        "latest_short",
        "command_and_search",
        "phone_call",
        "video",
        "default",
        "telephony",
        "telephony_short",
        "medical_conversation",
        "medical_dictation",
    )
    default_model = "latest_long"
    names = Names("result_end_time", "start_time", "end_time", "speech_event_time", ("total_billed_time",))
    metadata: tuple[tuple[str, str], ...] = ()

    def __init__(self, *, model: str | None = None, activity_events: bool = True) -> None:
        self._model = model or self.default_model
        self._activity_events = activity_events

    def client(self, channel: grpc.aio.Channel) -> Client:
        return speech_v1.SpeechAsyncClient(transport=_Transport(channel=channel))

    def check(self, config: SessionConfig) -> None:
        check_model(self, config)
        if "auto" in config.language_codes:
            raise invalid("language_codes", "auto", "Speech-to-Text v1 needs a BCP-47 code such as en-US")

    def config_request(self, config: SessionConfig) -> bytes:
        request = _types.StreamingRecognizeRequest(
            streaming_config=_types.StreamingRecognitionConfig(
                config=self._recognition_config(config),
                interim_results=config.interim_results,
                enable_voice_activity_events=self._activity_events or wants_activity(config),
                voice_activity_timeout={name: timedelta(milliseconds=ms) for name, ms in timeouts_ms(config).items()}
                or None,
            )
        )
        return serialized(request)

    def audio_request(self, config: SessionConfig) -> Callable[[bytes], bytes]:
        request = _types.StreamingRecognizeRequest.pb()
        if config.audio.encoding == "ALAW":
            return lambda chunk: request(audio_content=alaw_to_linear16(chunk)).SerializeToString()
        return lambda chunk: request(audio_content=chunk).SerializeToString()

    def _recognition_config(self, config: SessionConfig) -> Any:
        audio = config.audio
        first, *others = config.language_codes
        speakers = config.diarization
        return _types.RecognitionConfig(
            encoding="LINEAR16" if audio.encoding == "ALAW" else audio.encoding,
            sample_rate_hertz=audio.sample_rate_hertz,
            audio_channel_count=audio.audio_channel_count,
            language_code=first,
            alternative_language_codes=others,
            model=config.model or self._model,
            max_alternatives=config.max_alternatives,
            profanity_filter=config.profanity_filter,
            enable_word_time_offsets=config.enable_word_time_offsets or speakers is not None,
            enable_word_confidence=config.enable_word_confidence,
            enable_automatic_punctuation=config.enable_automatic_punctuation,
            diarization_config=speakers
            and _types.SpeakerDiarizationConfig(
                enable_speaker_diarization=True,
                min_speaker_count=speakers.min_speaker_count,
                max_speaker_count=speakers.max_speaker_count,
            ),
            adaptation=_adaptation(config.phrases or []),
        )


def _adaptation(phrases: list[Phrase]) -> Any:
    if not phrases:
        return None
    return _types.SpeechAdaptation(
        phrase_sets=[{"phrases": [{"value": phrase.value, "boost": phrase.boost} for phrase in phrases]}]
    )
