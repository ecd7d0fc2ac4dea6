"""What both versions of the API have in common: what a call asks for, and how a call is refused."""

import re
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from app.emulator import wire

SECOND = 1_000_000_000  # in nanoseconds
SHORTEST_TIMEOUT, LONGEST_TIMEOUT = SECOND // 2, 60 * SECOND
RATES = range(8_000, 48_001)
MOST_ALTERNATIVES = 30

MALORDERED = "Malordered Data Received. Expected {} none was set. Send exactly one config, followed by audio data."


class Refused(Exception):
    """A call ends with this status; the text is Google's wherever it is known."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call's config asks for, in the words of neither version."""

    recognition: wire.Open
    language: str  # as it stands in results
    activity_events: bool = False
    punctuation: bool = False
    word_offsets: bool = False
    word_confidence: bool = False
    closes_itself: bool = False  # ends OK when recognition is over; else the client's half-close is waited for


class Dialect(Protocol):
    """One version of the API: its messages, its limits, its texts. Everything else is the same for both."""

    service: str
    request: Any
    response: Any

    def read_terms(self, message: Any, languages: tuple[str, ...]) -> Terms:
        """Of the first message. Raises Refused."""

    def read_audio(self, message: Any) -> bytes:
        """Of any later message. Raises Refused."""

    def too_long(self, seconds: float) -> Refused: ...

    def idle(self) -> Refused: ...

    def response_for(self, event: wire.Event, terms: Terms, *, first: bool, request_id: int) -> Any | None:
        """`first` is whether no final went before; None when the client did not ask for such an event."""

    def last_response(self, billed_seconds: int, request_id: int) -> Any: ...


def invalid(text: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, text)


def malordered(expected: str) -> Refused:
    return invalid(MALORDERED.format(expected))


def check_channels(count: int) -> None:
    if count != 1:
        raise invalid("Invalid audio channel count")


def check_alternatives(count: int) -> None:
    if not 0 <= count <= MOST_ALTERNATIVES:
        raise invalid("Invalid recognition 'config': bad max alternatives.")


def is_language(code: str) -> bool:
    """Whether `code` has the form of a BCP-47 tag."""
    return re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", code) is not None


def speaks(languages: tuple[str, ...], code: str) -> bool:
    """`en` among the languages stands for every `en-*`."""
    code = code.lower()
    return any(code == known.lower() or code.startswith(known.lower() + "-") for known in languages)


def activity_timeouts(settings: Any, *, events: bool) -> tuple[int | None, int | None]:
    """Start and end timeout in nanoseconds of audio. Raises Refused."""
    timeouts: list[int | None] = []
    for name in ("speech_start_timeout", "speech_end_timeout"):
        if not settings.HasField(name):
            timeouts.append(None)
            continue
        if not events:
            raise invalid("voice_activity_timeout requires enable_voice_activity_events to be true.")
        value = getattr(settings, name).ToNanoseconds()
        if not SHORTEST_TIMEOUT < value < LONGEST_TIMEOUT:
            raise invalid(f"Invalid {name}: must be over 0.5 seconds and under 60 seconds.")
        timeouts.append(value)
    return timeouts[0], timeouts[1]


def transcript(words: tuple[str, ...], terms: Terms, *, leading_space: bool) -> str:
    """Without punctuation asked for: plain words in lower case. Results after the first open with a space."""
    text = " ".join(shown for word in words if (shown := shown_word(word, terms)))
    return f" {text}" if leading_space and text else text


def shown_word(word: str, terms: Terms) -> str:
    return word if terms.punctuation else plain(word)


def plain(word: str) -> str:
    """`Light,` is light; `don't`, `3.5` and `well-known` keep what is inside them."""
    return " ".join(re.sub(r"[^\w.,'%$-]+|-{2,}", " ", word.lower().replace("\u2019", "'")).split()).strip(".,'- ")
