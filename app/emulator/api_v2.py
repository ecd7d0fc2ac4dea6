"""google.cloud.speech.v2: its config, its messages, its texts.

Not a newer v1: numbers, names, limits and the way a stream ends differ.
"""

import re
from typing import Any

import grpc
from google.cloud.speech_v2.types import cloud_speech

from app.emulator import wire
from app.emulator.calls import (
    RATES,
    Refused,
    Terms,
    activity_timeouts,
    check_alternatives,
    check_channels,
    invalid,
    is_language,
    malordered,
    shown_word,
    speaks,
    transcript,
)

MOST_BYTES = 25_600  # of audio in a message
TOO_BIG = "Audio chunk can be of a a maximum of {} bytes. Received audio of {} bytes instead."  # sic
STABLE, UNSTABLE = 0.9, 0.1
ENCODINGS = {1: "LINEAR16", 2: "MULAW", 3: "ALAW"}
RECOGNIZER = re.compile(r"projects/[^/]+/locations/(?P<location>[a-z0-9-]+)/recognizers/(?P<name>[^/]+)")
MODELS = frozenset(
    [
        "long",
        "short",
        "telephony",
        "telephony_short",
        "medical_dictation",
        "medical_conversation",
        "latest_long",
        "latest_short",
        "chirp",
        "chirp_2",
        "chirp_3",
    ]
)
REGIONAL_MODELS = frozenset({"chirp_2", "chirp_3"})  # not in the location `global`
DEFAULT_MODEL = "long"
SINGLE_UTTERANCE_MODEL = "latest_short"
EventType = cloud_speech.StreamingRecognizeResponse.SpeechEventType


class V2:
    """See calls.Dialect."""

    service = "google.cloud.speech.v2.Speech"
    request = cloud_speech.StreamingRecognizeRequest.pb()
    response = cloud_speech.StreamingRecognizeResponse.pb()

    def read_terms(self, message: Any, languages: tuple[str, ...]) -> Terms:
        if message.WhichOneof("streaming_request") != "streaming_config":
            raise malordered("streaming_config")
        location = _location(message.recognizer)
        streaming = message.streaming_config
        config, wanted = streaming.config, streaming.streaming_features
        model = _model(config.model, location)
        _check_decoding(config)
        _check_features(config, model)
        events = wanted.enable_voice_activity_events
        start, end = activity_timeouts(wanted.voice_activity_timeout, events=events)
        recognition = wire.Open(
            encoding=ENCODINGS[config.explicit_decoding_config.encoding],
            rate=config.explicit_decoding_config.sample_rate_hertz,
            interims=wanted.interim_results,
            single_utterance=model == SINGLE_UTTERANCE_MODEL,
            speech_start_timeout=start,
            speech_end_timeout=end,
        )
        return Terms(
            recognition,
            language=_language(config.language_codes, model, location, languages),
            activity_events=events,
            punctuation=config.features.enable_automatic_punctuation,
            word_offsets=config.features.enable_word_time_offsets,
            word_confidence=config.features.enable_word_confidence,
            closes_itself=True,
        )

    def read_audio(self, message: Any) -> bytes:
        audio: bytes = message.audio
        if not audio:
            raise malordered("audio_content")
        if len(audio) > MOST_BYTES:
            raise invalid(TOO_BIG.format(MOST_BYTES, len(audio)))
        return audio

    def too_long(self, seconds: float) -> Refused:
        """Google says 5 minutes of its 305 seconds, too."""
        minutes = f"{seconds // 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"
        return Refused(grpc.StatusCode.ABORTED, f"Max duration of {minutes} reached for stream.")

    def idle(self) -> Refused:
        text = "Stream timed out after receiving no more client requests."
        return Refused(grpc.StatusCode.ABORTED, text)

    def response_for(self, event: wire.Event, terms: Terms, *, first: bool, request_id: int) -> Any | None:
        response = self._response(request_id)
        match event:
            case wire.SpeechBegan(at) if terms.activity_events:
                _set_event(response, EventType.SPEECH_ACTIVITY_BEGIN, at)
            case wire.SpeechEnded(at) if terms.activity_events:
                _set_event(response, EventType.SPEECH_ACTIVITY_END, at)
            case wire.UtteranceOver():
                response.speech_event_type = EventType.END_OF_SINGLE_UTTERANCE
            case wire.Interim():
                _add_interim(response, event, terms, first=first)
            case wire.Final():
                _add_final(response, event, terms, first=first)
            case _:
                return None
        return response

    def last_response(self, billed_seconds: int, request_id: int) -> Any:
        response = self._response(request_id)
        response.metadata.total_billed_duration.FromSeconds(billed_seconds)
        return response

    def _response(self, request_id: int) -> Any:
        response = self.response()
        response.metadata.request_id = f"{request_id:024x}"
        return response


def _location(recognizer: str) -> str:
    match = RECOGNIZER.fullmatch(recognizer)
    if match is None:
        raise invalid("Invalid resource field value in the request.")
    if match["name"] != "_":  # there is nowhere to create one
        raise Refused(grpc.StatusCode.NOT_FOUND, f"Unable to find Recognizer {recognizer}.")
    return match["location"]


def _model(model: str, location: str) -> str:
    if model and (model not in MODELS or (location == "global" and model in REGIONAL_MODELS)):
        raise invalid(f'The model "{model}" does not exist in the location named "{location}".')
    return model or DEFAULT_MODEL


def _check_decoding(config: Any) -> None:
    explicit = config.explicit_decoding_config
    if config.WhichOneof("decoding_config") != "explicit_decoding_config":
        raise invalid(
            "Audio data does not appear to be in a supported encoding. If you believe this to be incorrect, "
            "try explicitly specifying the decoding parameters."
        )
    if explicit.encoding not in ENCODINGS:
        raise invalid("Invalid recognition 'config': bad encoding.")
    if explicit.sample_rate_hertz not in RATES:
        raise invalid("Invalid recognition 'config': bad sample rate hertz.")
    check_channels(explicit.audio_channel_count)


def _check_features(config: Any, model: str) -> None:
    features = config.features
    check_alternatives(features.max_alternatives)
    if features.HasField("diarization_config"):
        raise invalid("Recognizer does not support feature: speaker_diarization")
    if features.enable_word_confidence and model == "chirp_3":
        raise invalid("Recognizer does not support feature: word_level_confidence")
    if config.HasField("translation_config"):
        raise invalid("Config contains unsupported fields")


def _language(codes: Any, model: str, location: str, languages: tuple[str, ...]) -> str:
    """The first of the codes that is spoken here; all of them have to be."""
    if not codes or not all(is_language(code) for code in codes):
        raise invalid("Invalid recognition 'config': bad language code.")
    for code in codes:
        if not speaks(languages, code):
            raise invalid(
                f'The language "{code}" is not supported by the model "{model}" in the location named "{location}".'
            )
    first: str = codes[0]
    return first


def _set_event(response: Any, kind: int, at: int) -> None:
    response.speech_event_type = kind
    response.speech_event_offset.FromNanoseconds(at)


def _add_interim(response: Any, event: wire.Interim, terms: Terms, *, first: bool) -> None:
    """The words that stayed, and behind them those that may still change: a client puts them together."""
    for words, stability in ((event.words[: event.stable], STABLE), (event.words[event.stable :], UNSTABLE)):
        if text := transcript(words, terms, leading_space=not first or bool(response.results)):
            result = response.results.add(stability=stability, language_code=terms.language)
            result.alternatives.add(transcript=text)
            result.result_end_offset.FromNanoseconds(event.end)


def _add_final(response: Any, event: wire.Final, terms: Terms, *, first: bool) -> None:
    text = transcript(tuple(word.text for word in event.words), terms, leading_space=not first)
    result = response.results.add(is_final=True, language_code=terms.language)
    result.result_end_offset.FromNanoseconds(event.end)
    alternative = result.alternatives.add(transcript=text, confidence=event.confidence)
    if not (terms.word_offsets or terms.word_confidence):
        return
    for word in event.words:
        if shown := shown_word(word.text, terms):
            info = alternative.words.add(word=shown, confidence=word.confidence if terms.word_confidence else 0.0)
            if terms.word_offsets:
                info.start_offset.FromNanoseconds(word.start)
                info.end_offset.FromNanoseconds(word.end)
