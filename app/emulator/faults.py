"""The language in which faults are asked for: `unavailable at=final every=3 times=2`.

A spec is a kind and then words: where (`at`, `after`), how often (`every`, `chance`, `times`), and what the kind itself
wants to know. docs/emulator.md has the tables. Nothing here does anything; injection.py does.
"""

import math
import random
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import grpc


class BadSpec(ValueError):
    """A spec that cannot be read; the text says why."""


class Point(StrEnum):
    """Where in a call."""

    OPEN = "open"  # the config is read, nothing is said yet
    SPEECH = "speech"  # mid-utterance
    FINAL = "final"  # right after a final was sent
    CLOSE = "close"  # at the half-close, instead of the flush
    END = "end"  # after the flushed final, instead of what follows it
    NOW = "now"  # not in a call that comes: in all that are under way when the spec is set


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One fault, when and how often. `after` and `every_seconds` count a stream's audio, other seconds the clock's."""

    source: str
    kind: str
    at: Point | None = None
    after: float = 0.0
    every_calls: int = 1
    every_seconds: float | None = None
    chance: float = 1.0
    times: int | None = None
    text: str | None = None
    lasting: float | None = None  # None is for ever
    by: float = 1.0
    streams: int | None = None
    starts: int | None = None  # in a minute
    duration: float | None = None
    idle: float | None = None


CODES = {code.name.lower(): code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
CONNECTION_KINDS = frozenset({"goaway", "reset", "blackhole", "down"})
EVERY_KIND_SECONDS = 6.0

_HOW_OFTEN = frozenset({"every", "chance", "times"})
_WHEN = _HOW_OFTEN | {"at", "after"}
_WORDS: dict[str, frozenset[str]] = {
    **{code: _WHEN | {"text"} for code in CODES},
    **dict.fromkeys(("duration", "idle", "end", "duplicate", "goaway", "reset"), _WHEN),
    **{kind: _WHEN | {"for"} for kind in ("stall", "silent", "blackhole", "down")},
    "slow": _WHEN | {"by"},
    "quota": _HOW_OFTEN | {"streams", "starts", "text"},
    "limits": _HOW_OFTEN | {"duration", "idle"},
    "every-kind": frozenset({"every", "times"}),
}
_NEEDED = {"quota": {"streams", "starts"}, "limits": {"duration", "idle"}, "down": {"for"}}  # one of them

GOOGLE_TEXT = {
    grpc.StatusCode.CANCELLED: "The operation was cancelled.",
    grpc.StatusCode.UNKNOWN: "Unknown Error.",
    grpc.StatusCode.INVALID_ARGUMENT: "Request contains an invalid argument.",
    grpc.StatusCode.DEADLINE_EXCEEDED: "Deadline expired before operation could complete.",
    grpc.StatusCode.NOT_FOUND: "Requested entity was not found.",
    grpc.StatusCode.ALREADY_EXISTS: "Requested entity already exists",
    grpc.StatusCode.PERMISSION_DENIED: "The caller does not have permission",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "Resource has been exhausted (e.g. check quota).",
    grpc.StatusCode.FAILED_PRECONDITION: "Precondition check failed.",
    grpc.StatusCode.ABORTED: "The operation was aborted.",
    grpc.StatusCode.OUT_OF_RANGE: "Audio data is being streamed too fast. "
    "Please stream audio data approximately at real time.",
    grpc.StatusCode.UNIMPLEMENTED: "Operation is not implemented, or supported, or enabled.",
    grpc.StatusCode.INTERNAL: "Internal error encountered.",
    grpc.StatusCode.UNAVAILABLE: "The service is currently unavailable.",
    grpc.StatusCode.DATA_LOSS: "Unrecoverable data loss or corruption.",
    grpc.StatusCode.UNAUTHENTICATED: "Request had invalid authentication credentials. Expected OAuth 2 access token, "
    "login cookie or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project.",
}
STARTS_TEXT = (
    "Quota exceeded for quota metric 'speech.googleapis.com/default_requests' and limit "
    "'DefaultRequestsPerMinutePerProject' of service 'speech.googleapis.com' for consumer 'project_number:1'."
)

EVERY_KIND = (
    "unavailable at=open",
    "resource_exhausted at=open",
    "unavailable at=speech",
    "internal at=speech",
    "aborted at=speech",
    "out_of_range at=speech",
    "internal at=final",
    "aborted at=close",
    "unavailable at=end",
    "duration",
    "idle",
    "end",
    "end at=speech",
    "stall for=2",
    "stall at=speech",
    "silent for=2",
    "silent at=speech",
    "slow by=1.5",
    "duplicate",
    "goaway",
    "reset at=speech",
    "blackhole for=2",
    "blackhole at=speech",
    "down for=1",
)
"""What `every-kind` deals: all that a caller is expected to survive; refusals that it cannot help are not among it."""


def parse(source: str) -> Spec:
    """Raises BadSpec."""
    try:
        kind, *words = shlex.split(source)
    except ValueError as error:
        raise BadSpec(f"{source!r} is no fault: {error}") from error
    if kind not in _WORDS:
        raise BadSpec(f"there is no fault {kind!r}; there are {', '.join(_WORDS)}")
    fields: dict[str, Any] = {}
    named = [word.partition("=") for word in words]
    for name, _, value in named:
        if name not in _WORDS[kind]:
            raise BadSpec(f"{name!r} means nothing to {kind}; it knows {', '.join(sorted(_WORDS[kind]))}")
        fields |= _read(name, value)
    needed = _NEEDED.get(kind)
    if needed and not needed & {name for name, _, _ in named}:
        raise BadSpec(f"{kind} needs {' or '.join(sorted(needed))}")
    return _checked(Spec(source=source, kind=kind, **fields))


def needs_forwarder(spec: Spec) -> bool:
    """Whether it befalls connections: then the emulator must stand between them and itself."""
    return spec.kind in CONNECTION_KINDS or spec.kind == "every-kind"


def is_last(spec: Spec) -> bool:
    """Whether nothing more can befall a stream that it has struck."""
    if spec.kind in ("stall", "silent", "blackhole"):
        return spec.lasting is None
    return spec.kind not in ("slow", "duplicate", "goaway")


def dealt(seed: int, number: int) -> Spec:
    """The first fault of a stream under `every-kind`: as many streams in a row as there are cards have them all."""
    deck, place = divmod(number - 1, len(EVERY_KIND))
    cards = list(EVERY_KIND)
    random.Random(f"{seed}/deck/{deck}").shuffle(cards)  # noqa: S311 - dice, not secrets
    return parse(cards[place])


def drawn(dice: random.Random) -> Spec:
    """A further one, of those that can still befall a stream that is open."""
    return parse(dice.choice([card for card in EVERY_KIND if not card.endswith("at=open")]))


def _read(name: str, value: str) -> dict[str, Any]:
    """The field that a word sets."""
    if name == "every":
        in_seconds = value.endswith("s")
        return {"every_seconds": _seconds(name, value)} if in_seconds else {"every_calls": _count(name, value)}
    field, read = _FIELDS[name]
    return {field: read(name, value)}


def _checked(spec: Spec) -> Spec:
    """The words must go together."""
    in_the_middle = spec.after > 0 or spec.every_seconds is not None
    if spec.every_seconds is not None and spec.after:
        raise BadSpec(f"{spec.source!r}: `every` seconds has no `after`")
    if in_the_middle and spec.at in (Point.OPEN, Point.NOW):
        raise BadSpec(f"{spec.source!r}: `at={spec.at}` leaves no time to wait for")
    if in_the_middle and spec.kind in ("quota", "limits"):
        raise BadSpec(f"{spec.source!r}: {spec.kind} is a matter of whole calls")
    if spec.kind == "every-kind" and spec.every_calls != 1:
        raise BadSpec(f"{spec.source!r}: every-kind counts seconds: every=6s")
    if spec.at is Point.NOW and (spec.every_calls, spec.chance, spec.times) != (1, 1.0, None):
        raise BadSpec(f"{spec.source!r}: `at=now` is once, for all")
    return spec


def _point(name: str, value: str) -> Point:
    try:
        return Point(value)
    except ValueError as error:
        raise BadSpec(f"{name}={value}: it must be one of {', '.join(Point)}") from error


def _count(name: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise BadSpec(f"{name}={value}: it must be a number from 1")
    return int(value)


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise BadSpec(f"{name}={value}: it must be a number from 0")
    return number


def _seconds(name: str, value: str) -> float:
    return _number(name, value.removesuffix("s"))


def _chance(name: str, value: str) -> float:
    if (chance := _number(name, value)) > 1:
        raise BadSpec(f"{name}={value}: it must be from 0 to 1")
    return chance


def _text(_: str, value: str) -> str:
    return value


_FIELDS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "at": ("at", _point),
    "after": ("after", _seconds),
    "chance": ("chance", _chance),
    "times": ("times", _count),
    "text": ("text", _text),
    "for": ("lasting", _seconds),
    "by": ("by", _seconds),
    "streams": ("streams", _count),
    "starts": ("starts", _count),
    "duration": ("duration", _seconds),
    "idle": ("idle", _seconds),
}
