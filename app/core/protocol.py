"""The messages on the WebSocket, subprotocol `stt.v1`: their shapes, how they are parsed and serialized.

The structs are the one description of the wire: docs/protocol.md is tested against them. Every time is in
milliseconds of audio from the first byte of the session, every offset in bytes of the client's encoded stream.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from app.core.errors import SessionError, invalid
from app.core.explain import explain

SUBPROTOCOL = "stt.v1"
MAX_FRAME_BYTES = 65_536
"""Largest binary frame, and largest decoded `audio.content`, where no other is set (docs/protocol.md)."""

Encoding = Literal["LINEAR16", "MULAW", "ALAW"]
GapReason = Literal["overflow", "muted", "interrupted"]
_CODE = r"^(auto|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3})"
LANGUAGE_CODE = _CODE + "$"
"""As JSON Schema has it; Python's own `$` lets a line break through."""
LanguageCode = Annotated[str, Meta(pattern=_CODE + r"\Z", description="a BCP-47 code such as en-US")]
Name = Annotated[str, Meta(max_length=64)]


class _Strict(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a client's message: an unknown field is an error that names it."""


class Audio(_Strict, frozen=True):
    """How the client encodes its audio: headerless, LINEAR16 is signed 16-bit little-endian."""

    encoding: Encoding
    sample_rate_hertz: Annotated[int, Meta(ge=8000, le=48000)]
    audio_channel_count: Annotated[int, Meta(ge=1, le=1)] = 1


class Diarization(_Strict, frozen=True):
    min_speaker_count: Annotated[int, Meta(ge=1, le=6)]
    max_speaker_count: Annotated[int, Meta(ge=1, le=6)]


class Phrase(_Strict, frozen=True, omit_defaults=True):
    value: Annotated[str, Meta(min_length=1, max_length=100)]
    boost: Annotated[float, Meta(ge=0, le=20)] = 0.0


class VoiceActivityTimeout(_Strict, frozen=True, omit_defaults=True):
    """Over 500 ms and under 60 s, in milliseconds of audio (Google's limits)."""

    speech_start_ms: Annotated[int, Meta(gt=500, lt=60_000)] | None = None
    speech_end_ms: Annotated[int, Meta(gt=500, lt=60_000)] | None = None


class ClientInfo(_Strict, frozen=True):
    name: Name = ""
    version: Name = ""


class SessionConfig(_Strict, frozen=True):
    """What a session was asked to do; `started.config` returns it with its defaults filled in."""

    audio: Audio
    language_codes: Annotated[list[LanguageCode], Meta(min_length=1, max_length=4)]
    model: (
        Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,64}\Z", description="a model's name such as latest_long")] | None
    ) = None
    interim_results: bool = True
    enable_word_time_offsets: bool = False
    enable_word_confidence: bool = False
    enable_automatic_punctuation: bool = True
    profanity_filter: bool = False
    max_alternatives: Annotated[int, Meta(ge=1, le=30)] = 1
    diarization: Diarization | None = None
    phrases: Annotated[list[Phrase], Meta(max_length=500)] | None = None
    enable_voice_activity_events: bool = False
    voice_activity_timeout: VoiceActivityTimeout | None = None


# What a client says -----------------------------------------------------------------------------


class Start(SessionConfig, frozen=True, tag="start"):
    client: ClientInfo | None = None


class AudioMessage(_Strict, frozen=True, tag="audio"):
    """Audio for clients that cannot send binary frames: `content` is base64."""

    content: bytes
    offset: Annotated[int, Meta(ge=0)] | None = None


class Resume(_Strict, frozen=True, tag="resume"):
    session_id: Name
    resume_token: Annotated[str, Meta(max_length=256)]
    last_event: Annotated[int, Meta(ge=0)]


class Gap(_Strict, frozen=True, tag="gap"):
    bytes: Annotated[int, Meta(ge=1, le=2**40)]
    reason: GapReason


class Finalize(_Strict, frozen=True, tag="finalize"):
    id: Name | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None


class Keepalive(_Strict, frozen=True, tag="keepalive"):
    pass


class Stop(_Strict, frozen=True, tag="stop"):
    pass


ClientMessage = Start | AudioMessage | Resume | Gap | Finalize | Keepalive | Stop


# What the gateway says --------------------------------------------------------------------------


class Limits(Struct, frozen=True):
    max_frame_bytes: int
    window_bytes: int
    idle_timeout_ms: int
    max_session_ms: int


class Started(Struct, frozen=True, tag="started"):
    session_id: str
    resume_token: str
    resume_window_ms: int
    config: SessionConfig
    limits: Limits


class Resumed(Struct, frozen=True, tag="resumed"):
    offset: int
    """Send audio from this byte on."""
    resume_token: str
    replayed: int
    """Durable events that follow."""


class Ack(Struct, frozen=True, tag="ack"):
    """Cumulative; `final` is what the client may forget, `window` how far it may be ahead of that. In bytes."""

    received: int
    final: int
    window: int


class Interim(Struct, frozen=True, tag="interim"):
    text: str
    start_ms: int
    end_ms: int
    stability: float
    language_code: str
    channel: int


class WordInfo(Struct, frozen=True, omit_defaults=True):
    word: str
    start_ms: int
    end_ms: int
    confidence: float | UnsetType = UNSET
    speaker: str | UnsetType = UNSET


class Alternative(Struct, frozen=True):
    text: str
    confidence: float


class Final(Struct, frozen=True, tag="final"):
    """Durable. Never changes, and [start_ms, end_ms) overlaps no earlier final of its channel."""

    event: int
    text: str
    start_ms: int
    end_ms: int
    confidence: float
    language_code: str
    channel: int
    alternatives: list[Alternative] | UnsetType = UNSET
    words: list[WordInfo] | UnsetType = UNSET


class SpeechStarted(Struct, frozen=True, tag="speech_started"):
    at_ms: int


class SpeechEnded(Struct, frozen=True, tag="speech_ended"):
    at_ms: int


class GapEvent(Struct, frozen=True, tag="gap"):
    """Durable. Text is missing here, and the reader is told so."""

    event: int
    start_ms: int
    end_ms: int
    reason: str


class Finalized(Struct, frozen=True, tag="finalized"):
    """Durable. Every final up to `end_ms` has been sent."""

    event: int
    id: str | int | None
    end_ms: int


class Throttle(Struct, frozen=True, tag="throttle"):
    state: Literal["on", "off"]
    queued_ms: int


class WarningMessage(Struct, frozen=True, tag="warning", omit_defaults=True):
    code: str
    message: str
    in_ms: int | UnsetType = UNSET


class GoAway(Struct, frozen=True, tag="go_away"):
    time_left_ms: int
    reason: Literal["drain", "session_limit"]


class Stopped(Struct, frozen=True, tag="stopped"):
    """Durable, and the last one."""

    event: int
    audio_ms: int
    billed_ms: int
    finals: int
    gap_ms: int
    upstream_streams: int
    resumes: int
    replayed_ms: int = 0
    """Audio that was heard by a second stream, too."""


class Error(Struct, frozen=True, tag="error", omit_defaults=True):
    code: str
    message: str
    retryable: bool
    retry_after_ms: int | UnsetType = UNSET
    param: str | UnsetType = UNSET
    session_id: str | UnsetType = UNSET


Durable = Final | GapEvent | Finalized | Stopped
ServerMessage = (
    Started
    | Resumed
    | Ack
    | Interim
    | SpeechStarted
    | SpeechEnded
    | Throttle
    | WarningMessage
    | GoAway
    | Error
    | Durable
)

_decoder = msgspec.json.Decoder(ClientMessage)
_server_decoder = msgspec.json.Decoder(ServerMessage)
_encoder = msgspec.json.Encoder()


def serialize(message: Struct) -> str:
    return _encoder.encode(message).decode()


def parse_server(text: str | bytes) -> ServerMessage:
    """What the gateway said, for clients. Raises msgspec.ValidationError on what the protocol does not know."""
    message: ServerMessage = _server_decoder.decode(text)
    return message


def error_message(error: SessionError, session_id: str | None = None) -> Error:
    return Error(
        code=error.code,
        message=error.message,
        retryable=error.refusal.retryable,
        retry_after_ms=UNSET if error.retry_after_ms is None else error.retry_after_ms,
        param=UNSET if error.param is None else error.param,
        session_id=UNSET if session_id is None else session_id,
    )


def max_text_bytes(max_frame_bytes: int) -> int:
    """Of a text frame: so much audio in base64 (4/3) and room for the rest of the JSON."""
    return 2 * max_frame_bytes


def parse(text: str, max_frame_bytes: int = MAX_FRAME_BYTES) -> ClientMessage:
    """One message of a client. Raises SessionError that names the field, its value and what is allowed."""
    limit = max_text_bytes(max_frame_bytes)
    if len(text) > limit:
        raise SessionError("frame_too_large", f"a text frame of {len(text)} characters is over the limit of {limit}")
    try:
        message: ClientMessage = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise explain(text, str(error), ClientMessage) from None
    except msgspec.DecodeError as error:
        raise SessionError("bad_json", f"a text frame must be one JSON object: {error}") from None
    except RecursionError:
        raise SessionError("bad_json", "a text frame must be one JSON object: nested too deeply") from None
    if isinstance(message, SessionConfig):
        _check(message)
    return message


def _check(config: SessionConfig) -> None:
    """What holds between fields."""
    speakers = config.diarization
    if speakers and speakers.min_speaker_count > speakers.max_speaker_count:
        raise invalid(
            "diarization.min_speaker_count",
            speakers.min_speaker_count,
            f"at most max_speaker_count, which is {speakers.max_speaker_count}",
        )
    if len(set(config.language_codes)) < len(config.language_codes):
        raise invalid("language_codes", config.language_codes, "each language once")
    if "auto" in config.language_codes and len(config.language_codes) > 1:
        raise invalid("language_codes", config.language_codes, "`auto` stands alone")
