"""What a client could say, as strategies: sessions with something wrong in them, and bytes that are no WebSocket.

`$session_id`, `$resume_token` and `$last_event` stand for what an earlier connection of the same visit was told.
"""

import base64
import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from tests.test_bad_input import Raw

Saying = str | bytes | Raw
Leaves = Literal["listens", "closes", "vanishes"]
Path = tuple[Any, str | int]
"""What holds a field, and under which name."""


@dataclass(frozen=True, repr=False)
class Link:
    """One connection: what is said on it, and how it is left."""

    says: tuple[Saying, ...]
    leaves: Leaves

    def __repr__(self) -> str:
        return f"Link(({''.join(f'{_shown(says)}, ' for says in self.says)}), {self.leaves!r})"

    @property
    def is_raw(self) -> bool:
        return any(isinstance(says, Raw) for says in self.says)


def _shown(says: Saying) -> str:
    kind = type(says).__name__ if isinstance(says, Raw) else ""
    if len(says) <= 400:
        return f"{kind}({says!r})"
    return f"{kind}({says[:200]!r}... {len(says)} in all)"


def large(size: int) -> st.SearchStrategy[bytes]:
    """Not written out where a strategy is."""
    return st.just(size).map(bytes)


# Values that fit nowhere ------------------------------------------------------------------------

HUGE = [0, -1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, float("nan"), float("-inf")]
WORDS = [
    "",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "\U0010ffff",
    "e\u0301\u202e",
    "x" * 65,
    "\r\n2026-01-01 ERROR forged",
    "../../etc/passwd",
    "%s %n {0} ${x}",
    "start",
    "YWJ",
    "a*b=",
    "=" * 40,
]
DEEP = ["@deep-lists", "@deep-objects", "@long"]
"""Stand for what json.dumps could not write."""
ODD: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([*HUGE, *WORDS, *DEEP]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)

# Messages that are right ------------------------------------------------------------------------

NAMES = st.text(max_size=64)
AUDIO = st.binary(max_size=700) | st.integers(0, 8000).map(bytes)
STARTS = st.fixed_dictionaries(
    {
        "type": st.just("start"),
        "audio": st.fixed_dictionaries(
            {
                "encoding": st.sampled_from(["LINEAR16", "MULAW", "ALAW"]),
                "sample_rate_hertz": st.sampled_from([8000, 16000, 44100, 48000]),
            }
        ),
        "language_codes": st.sampled_from([["en-US"], ["de-DE", "en-US"], ["auto"]]),
    },
    optional={
        "model": st.sampled_from(["long", "telephony", "chirp_3", "nobody"]),
        "interim_results": st.booleans(),
        "enable_word_time_offsets": st.booleans(),
        "max_alternatives": st.integers(1, 30),
        "diarization": st.fixed_dictionaries(
            {"min_speaker_count": st.integers(1, 6), "max_speaker_count": st.integers(1, 6)}
        ),
        "phrases": st.lists(
            st.fixed_dictionaries({"value": st.text(min_size=1, max_size=100), "boost": st.floats(0, 20)}), max_size=3
        ),
        "enable_voice_activity_events": st.booleans(),
        "voice_activity_timeout": st.fixed_dictionaries(
            {}, optional={"speech_start_ms": st.integers(501, 59_999), "speech_end_ms": st.integers(501, 59_999)}
        ),
        "client": st.fixed_dictionaries({"name": NAMES, "version": NAMES}),
    },
)
PLAIN_STARTS = st.just(
    {
        "type": "start",
        "audio": {"encoding": "LINEAR16", "sample_rate_hertz": 16000},
        "language_codes": ["en-US"],
    }
)
AUDIO_MESSAGES = st.fixed_dictionaries(
    {"type": st.just("audio"), "content": AUDIO.map(lambda audio: base64.b64encode(audio).decode())},
    optional={"offset": st.integers(0, 4000)},
)
LATER_MESSAGES = st.one_of(
    AUDIO_MESSAGES,
    st.fixed_dictionaries(
        {
            "type": st.just("gap"),
            "bytes": st.integers(1, 9999) | st.just(2**40),
            "reason": st.sampled_from(["overflow", "muted", "interrupted"]),
        }
    ),
    st.fixed_dictionaries({"type": st.just("finalize")}, optional={"id": NAMES | st.integers(-(2**63), 2**63 - 1)}),
    st.just({"type": "keepalive"}),
    st.just({"type": "stop"}),
)
RESUMES = st.just(
    {
        "type": "resume",
        "session_id": "$session_id",
        "resume_token": "$resume_token",
        "last_event": "$last_event",
    }
)
MESSAGES = STARTS | LATER_MESSAGES | RESUMES

# ... and what can become of them ----------------------------------------------------------------


def written(message: Any) -> str:
    text = json.dumps(message)
    text = text.replace('"$last_event"', "$last_event")
    for name, opens, closes in (("lists", "[", "]"), ("objects", '{"a":', "}")):
        text = text.replace(f'"@deep-{name}"', f"{opens * 3000}1{closes * 3000}")
    return text.replace("@long", "x" * 70_000)


def _places(value: Any) -> list[Path]:
    """Every field of a message, and of what is in it."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [(value, name) for name, _ in inner] + [place for _, each in inner for place in _places(each)]


@st.composite
def spoiled(draw: st.DrawFn, messages: st.SearchStrategy[dict[str, Any]]) -> str:
    """A message with one to three of its fields replaced, dropped, added, nested or said twice."""
    message = deepcopy(draw(messages))
    twice = ""
    for _ in range(draw(st.integers(1, 3))):
        places = _places(message)
        if not places:
            break
        holder, name = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "replace", "drop", "add", "nest", "twice"])):
            case "replace":
                holder[name] = draw(ODD)
            case "drop":
                del holder[name]
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=9) | st.sampled_from(WORDS))] = draw(ODD)
            case "nest":
                holder[name] = {"a": [holder[name]]}
            case _:
                twice = f', "{name}": {written(draw(ODD))}}}'
    text = written(message)
    return text[:-1] + twice if twice else text


@st.composite
def torn(draw: st.DrawFn) -> str:
    """A message's text, cut, doubled or with something put into it."""
    text = written(draw(MESSAGES))
    at, until = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    readable = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    return text[:at] + draw(readable | st.just("\0") | st.just("\ufeff")) + text[until:]


TEXTS = st.one_of(
    spoiled(MESSAGES),
    torn(),
    ODD.map(written),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    st.just(131_073).map("x".__mul__),
)

# WebSocket frames by hand -----------------------------------------------------------------------


def wire(first: int, payload: bytes, *, masked: bool = True, announced: int | None = None, form: int = 0) -> Raw:
    """`first`: FIN, RSV and opcode. `announced`: another length than the payload's. `form`: 0 the shortest way to
    write it, else 126 or 127. Masked with zeroes."""
    length = len(payload) if announced is None else announced
    if length > 0xFFFF or form == 127:
        written_length = bytes([127]) + length.to_bytes(8, "big")
    elif length > 125 or form == 126:
        written_length = bytes([126]) + length.to_bytes(2, "big")
    else:
        written_length = bytes([length])
    mask = 0x80 if masked else 0
    head = bytes([first, written_length[0] | mask]) + written_length[1:]
    return Raw(head + (bytes(4) if masked else b"") + payload)


LENGTHS = st.sampled_from([0, 1, 125, 126, 65_535, 65_536, 131_072, 131_073, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
PAYLOADS = st.binary(max_size=130) | large(65_536) | st.sampled_from([b"\xff\xfe", b"\xed\xa0\x80", b'{"type":"stop"}'])
ODD_FRAMES = st.builds(
    wire,
    st.integers(0, 255),
    PAYLOADS,
    masked=st.booleans(),
    announced=st.none() | LENGTHS,
    form=st.sampled_from([0, 126, 127]),
)
CONTROLS = st.builds(wire, st.sampled_from([0x89, 0x8A, 0x09, 0x0A]), st.binary(max_size=140))
CLOSES = st.builds(
    lambda code, reason: wire(0x88, code.to_bytes(2, "big") + reason),
    st.sampled_from(
        [0, 999, 1000, 1001, 1004, 1005, 1006, 1007, 1012, 1015, 1016, 2999, 3000, 4000, 4999, 5000, 65535]
    ),
    st.binary(max_size=130),
)
"""None with 1011: the answer would say the same."""


@st.composite
def pieces(draw: st.DrawFn) -> Raw:
    """A message in several frames, with pings between, and sometimes without its end."""
    opcode, whole = draw(
        st.tuples(st.just(1), LATER_MESSAGES.map(lambda m: json.dumps(m).encode())) | st.tuples(st.just(2), AUDIO)
    )
    size = draw(st.integers(1, len(whole) + 1))
    parts = [whole[at : at + size] for at in range(0, max(1, len(whole)), size)][:400]
    frames = b"".join(
        wire(0x00 if index else opcode, part) + (draw(CONTROLS) if draw(st.integers(0, 20)) == 0 else b"")
        for index, part in enumerate(parts)
    )
    return Raw(frames + wire(draw(st.sampled_from([0x80, 0x80, 0x00])), b""))


NO_FRAMES = st.binary(min_size=1, max_size=200).map(Raw)
RAW = ODD_FRAMES | CONTROLS | CLOSES | pieces() | NO_FRAMES
EMPTY_PIECES = st.just(1000).map(lambda count: Raw(wire(0x02, b"a") + wire(0x00, b"") * count))

# Visits -----------------------------------------------------------------------------------------

GOOD: st.SearchStrategy[Saying] = AUDIO | LATER_MESSAGES.map(written)
BAD: st.SearchStrategy[Saying] = st.one_of(TEXTS, RAW, EMPTY_PIECES, AUDIO, large(65_537), MESSAGES.map(written))
LEAVES: st.SearchStrategy[Leaves] = st.sampled_from(["listens", "listens", "listens", "closes", "vanishes"])


@st.composite
def links(draw: st.DrawFn, firsts: st.SearchStrategy[str], leaves: st.SearchStrategy[Leaves] = LEAVES) -> Link:
    """A session that begins well and goes on for a while, then says something else."""
    good = draw(st.lists(GOOD, max_size=4))
    bad = draw(st.lists(BAD, max_size=3))
    return Link((draw(firsts), *good, *bad), draw(leaves))


WILD = st.builds(Link, st.lists(BAD, max_size=4).map(tuple), LEAVES)
OPENED = links(STARTS.map(written) | PLAIN_STARTS.map(written))
DROPPED = links(PLAIN_STARTS.map(written), st.just("vanishes"))
RESUMED = links(RESUMES.map(written) | spoiled(RESUMES))
VISITS = st.one_of(
    st.tuples(links(spoiled(STARTS))),
    st.tuples(OPENED),
    st.tuples(WILD),
    st.tuples(DROPPED, RESUMED),
    st.tuples(DROPPED, links(RESUMES.map(written), st.just("vanishes")), RESUMED),
)
"""One connection after the other, of one client."""
