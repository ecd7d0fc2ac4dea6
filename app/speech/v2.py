"""Speech-to-Text v2: `google.cloud.speech.v2.Speech/StreamingRecognize`.

Always the implicit recognizer `_`, so that a session's config stands alone. The location in the recognizer's path must
be the endpoint's (google answers INVALID_ARGUMENT otherwise): both come from the one setting.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import Any

import grpc
from google.cloud import speech_v2
from google.cloud.speech_v2.services.speech.transports import SpeechGrpcAsyncIOTransport

from app.core.errors import invalid
from app.core.protocol import Phrase, SessionConfig
from app.speech.dialect import Client, Names, check_model, timeouts_ms, wants_activity
from app.speech.wire import raw_stream, serialized

_types = speech_v2.types


class _Transport(SpeechGrpcAsyncIOTransport):
    """The generated one, but for what goes over it: see speech/wire.py."""

    @cached_property
    def streaming_recognize(self) -> Any:
        return raw_stream(self.grpc_channel, "google.cloud.speech.v2.Speech", _types.StreamingRecognizeResponse)


# What Google's documentation says, and what its servers were seen to answer with INVALID_ARGUMENT.
_REGIONAL = {"chirp_2", "chirp_3"}
_MULTILINGUAL = {"global", "us", "eu"}


class SpeechV2:
    version = "v2"
    models: tuple[str, ...] = (
        "long",
        "short",
        "latest_long",
        "latest_short",
        "telephony",
        "telephony_short",
        "medical_conversation",
        "medical_dictation",
        "chirp",
        "chirp_2",
        "chirp_3",
    )
    default_model = "long"
    names = Names(
        "result_end_offset",
        "start_offset",
        "end_offset",
        "speech_event_offset",
        ("metadata", "total_billed_duration"),
    )

    def __init__(
        self, *, project: str, location: str = "global", model: str | None = None, activity_events: bool = True
    ) -> None:
        self._location = location
        self._recognizer = f"projects/{project}/locations/{location}/recognizers/_"
        self._model = model or self.default_model
        self._activity_events = activity_events
        self.metadata: tuple[tuple[str, str], ...] = (("x-goog-request-params", f"recognizer={self._recognizer}"),)

    def client(self, channel: grpc.aio.Channel) -> Client:
        return speech_v2.SpeechAsyncClient(transport=_Transport(channel=channel))

    def check(self, config: SessionConfig) -> None:
        check_model(self, config)
        model = config.model or self._model
        if model in _REGIONAL and self._location == "global":
            raise invalid("model", model, "it needs a region: GATEWAY_GOOGLE_LOCATION is global")
        if model == "chirp_3" and config.enable_word_confidence:
            raise invalid("enable_word_confidence", True, "chirp_3 has no confidence of words")
        if model == "chirp_3" and config.diarization:
            raise invalid("diarization", config.diarization, "chirp_3 does not tell speakers apart in a stream")
        if "auto" in config.language_codes and not model.startswith("chirp"):
            raise invalid("language_codes", "auto", f"only the chirp models find the language, not {model}")
        if len(config.language_codes) > 1 and self._location not in _MULTILINGUAL:
            raise invalid("language_codes", config.language_codes, f"one language in the region {self._location}")

    def config_request(self, config: SessionConfig) -> bytes:
        request = _types.StreamingRecognizeRequest(
            recognizer=self._recognizer,
            streaming_config=_types.StreamingRecognitionConfig(
                config=self._recognition_config(config),
                streaming_features=_types.StreamingRecognitionFeatures(
                    interim_results=config.interim_results,
                    enable_voice_activity_events=self._activity_events or wants_activity(config),
                    voice_activity_timeout={
                        name: timedelta(milliseconds=ms) for name, ms in timeouts_ms(config).items()
                    }
                    or None,
                ),
            ),
        )
        return serialized(request)

    def audio_request(self, config: SessionConfig) -> Callable[[bytes], bytes]:  # noqa: ARG002 - v2 takes them all
        request = _types.StreamingRecognizeRequest.pb()
        return lambda chunk: request(audio=chunk).SerializeToString()

    def _recognition_config(self, config: SessionConfig) -> Any:
        audio = config.audio
        return _types.RecognitionConfig(
            explicit_decoding_config=_types.ExplicitDecodingConfig(
                encoding=audio.encoding,
                sample_rate_hertz=audio.sample_rate_hertz,
                audio_channel_count=audio.audio_channel_count,
            ),
            model=config.model or self._model,
            language_codes=config.language_codes,
            features=self._features(config),
            adaptation=_adaptation(config.phrases or []),
        )

    def _features(self, config: SessionConfig) -> Any:
        speakers = config.diarization
        return _types.RecognitionFeatures(
            profanity_filter=config.profanity_filter,
            enable_word_time_offsets=config.enable_word_time_offsets or speakers is not None,
            enable_word_confidence=config.enable_word_confidence,
            enable_automatic_punctuation=config.enable_automatic_punctuation,
            max_alternatives=config.max_alternatives,
            diarization_config=speakers
            and _types.SpeakerDiarizationConfig(
                min_speaker_count=speakers.min_speaker_count, max_speaker_count=speakers.max_speaker_count
            ),
        )


def _adaptation(phrases: list[Phrase]) -> Any:
    if not phrases:
        return None
    inline = {"phrases": [{"value": phrase.value, "boost": phrase.boost} for phrase in phrases]}
    return _types.SpeechAdaptation(phrase_sets=[{"inline_phrase_set": inline}])
