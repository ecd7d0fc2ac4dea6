"""google.cloud.speech.v1: its config, its messages, its texts."""

from typing import Any

import grpc
from google.cloud.speech_v1.types import cloud_speech

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

MOST_BYTES = 10 * 1024 * 1024  # of audio in a message
STABLE, UNSTABLE = 0.9, 0.1
ENCODINGS = {1: "LINEAR16", 3: "MULAW"}
MODELS = frozenset(
    [
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
    ]
)
ActivityType = cloud_speech.StreamingRecognizeResponse.SpeechEventType


class V1:
    """See calls.Dialect."""

    service = "google.cloud.speech.v1.Speech"
    request = cloud_speech.StreamingRecognizeRequest.pb()
    response = cloud_speech.StreamingRecognizeResponse.pb()

    def read_terms(self, message: Any, languages: tuple[str, ...]) -> Terms:
        if message.WhichOneof("streaming_request") != "streaming_config":
            raise malordered("streaming_config")
        streaming = message.streaming_config
        config = streaming.config
        _check_config(config, languages)
        _check_single_utterance(streaming)
        events = streaming.enable_voice_activity_events
        start, end = activity_timeouts(streaming.voice_activity_timeout, events=events)
        recognition = wire.Open(
            encoding=ENCODINGS[config.encoding],
            rate=config.sample_rate_hertz,
            interims=streaming.interim_results,
            single_utterance=streaming.single_utterance,
            speech_start_timeout=start,
            speech_end_timeout=end,
        )
        return Terms(
            recognition,
            language=config.language_code.lower(),
            activity_events=events,
            punctuation=config.enable_automatic_punctuation,
            word_offsets=config.enable_word_time_offsets,
            word_confidence=config.enable_word_confidence,
        )

    def read_audio(self, message: Any) -> bytes:
        audio: bytes = message.audio_content
        if not audio:
            raise malordered("audio_content")
        if len(audio) > MOST_BYTES:
            raise invalid(f"Request payload size exceeds the limit: {MOST_BYTES} bytes.")
        return audio

    def too_long(self, seconds: float) -> Refused:
        text = f"Exceeded maximum allowed stream duration of {seconds:g} seconds."
        return Refused(grpc.StatusCode.OUT_OF_RANGE, text)

    def idle(self) -> Refused:
        text = "Audio Timeout Error: Long duration elapsed without audio. Audio should be sent close to real time."
        return Refused(grpc.StatusCode.OUT_OF_RANGE, text)

    def response_for(self, event: wire.Event, terms: Terms, *, first: bool, request_id: int) -> Any | None:
        response = self.response(request_id=request_id)
        match event:
            case wire.SpeechBegan(at) if terms.activity_events:
                _set_event(response, ActivityType.SPEECH_ACTIVITY_BEGIN, at)
            case wire.SpeechEnded(at) if terms.activity_events:
                _set_event(response, ActivityType.SPEECH_ACTIVITY_END, at)
            case wire.SilenceTooLong(at):
                _set_event(response, ActivityType.SPEECH_ACTIVITY_TIMEOUT, at)
            case wire.UtteranceOver():
                response.speech_event_type = ActivityType.END_OF_SINGLE_UTTERANCE
            case wire.Interim():
                _add_interim(response, event, terms, first=first)
            case wire.Final():
                _add_final(response, event, terms, first=first)
            case _:
                return None
        return response

    def last_response(self, billed_seconds: int, request_id: int) -> Any:
        response = self.response(request_id=request_id)
        response.total_billed_time.FromSeconds(billed_seconds)
        return response


def _check_config(config: Any, languages: tuple[str, ...]) -> None:
    if config.encoding not in ENCODINGS:
        raise invalid("Invalid recognition 'config': bad encoding.")
    if config.sample_rate_hertz not in RATES:
        raise invalid("Invalid recognition 'config': bad sample rate hertz.")
    check_channels(config.audio_channel_count or 1)
    if not is_language(config.language_code):
        raise invalid("Invalid recognition 'config': bad language code.")
    if config.model and config.model not in MODELS:
        raise invalid("Invalid recognition 'config': Incorrect model specified")
    if not speaks(languages, config.language_code):
        code = config.language_code
        raise invalid(
            f"Invalid recognition 'config': The requested model is currently not supported for language : {code}."
        )
    check_alternatives(config.max_alternatives)
    if config.diarization_config.enable_speaker_diarization:
        raise invalid("Recognizer does not support feature: speaker_diarization")


def _check_single_utterance(streaming: Any) -> None:
    config = streaming.config
    enhanced_call = config.model == "phone_call" and config.use_enhanced
    if streaming.single_utterance and config.model not in ("", "command_and_search") and not enhanced_call:
        raise invalid(f"Invalid 'single_utterance': not supported by the model {config.model}.")


def _set_event(response: Any, kind: int, at: int) -> None:
    response.speech_event_type = kind
    response.speech_event_time.FromNanoseconds(at)


def _add_interim(response: Any, event: wire.Interim, terms: Terms, *, first: bool) -> None:
    """The words that stayed, and behind them those that may still change: a client puts them together."""
    for words, stability in ((event.words[: event.stable], STABLE), (event.words[event.stable :], UNSTABLE)):
        if text := transcript(words, terms, leading_space=not first or bool(response.results)):
            result = response.results.add(stability=stability, language_code=terms.language)
            result.alternatives.add(transcript=text)
            result.result_end_time.FromNanoseconds(event.end)


def _add_final(response: Any, event: wire.Final, terms: Terms, *, first: bool) -> None:
    text = transcript(tuple(word.text for word in event.words), terms, leading_space=not first)
    result = response.results.add(is_final=True, language_code=terms.language)
    result.result_end_time.FromNanoseconds(event.end)
    alternative = result.alternatives.add(transcript=text, confidence=event.confidence)
    if not (terms.word_offsets or terms.word_confidence):
        return
    for word in event.words:
        if shown := shown_word(word.text, terms):
            info = alternative.words.add(word=shown, confidence=word.confidence if terms.word_confidence else 0.0)
            if terms.word_offsets:
                info.start_time.FromNanoseconds(word.start)
                info.end_time.FromNanoseconds(word.end)
