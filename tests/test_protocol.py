"""The messages: what is taken, what an error says, and docs/protocol.md against the structs."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import CODES, SessionError
from app.core.protocol import (
    ClientMessage,
    Finalize,
    ServerMessage,
    SessionConfig,
    Start,
    parse,
    parse_server,
    serialize,
)

DOCS = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
START: dict[str, Any] = {
    "type": "start",
    "audio": {"encoding": "LINEAR16", "sample_rate_hertz": 16000},
    "language_codes": ["en-US"],
}


def refusal(message: object) -> SessionError:
    with pytest.raises(SessionError) as error:
        parse(message if isinstance(message, str) else json.dumps(message))
    return error.value


def kinds(union: Any) -> dict[str, Any]:
    return {kind.__struct_config__.tag: kind for kind in union.__args__}


def test_start_gets_the_defaults_of_the_protocol() -> None:
    config = parse(json.dumps(START))
    assert isinstance(config, Start)
    assert (config.interim_results, config.enable_automatic_punctuation, config.max_alternatives) == (True, True, 1)
    assert not (config.enable_word_time_offsets or config.enable_word_confidence or config.profanity_filter)
    assert config.audio.audio_channel_count == 1


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        (
            {"audio": START["audio"] | {"sample_rate_hertz": 96000}},
            "audio.sample_rate_hertz",
            "96000 is not allowed: an integer from 8000 to 48000",
        ),
        (
            {"audio": START["audio"] | {"encoding": "MP3"}},
            "audio.encoding",
            "'MP3' is not allowed: one of ALAW, LINEAR16, MULAW",
        ),
        (
            {"audio": START["audio"] | {"rate": 1}},
            "audio.rate",
            "is no field here: allowed are encoding, sample_rate_hertz",
        ),
        ({"audio": {"encoding": "MULAW"}}, "audio.sample_rate_hertz", "is missing: an integer from 8000 to 48000"),
        ({"language_codes": []}, "language_codes", "[] is not allowed: a list of 1 to 4"),
        ({"language_codes": ["english!"]}, "language_codes[0]", "'english!' is not allowed: a BCP-47 code"),
        ({"phrases": [{"value": "a", "boost": 99}]}, "phrases[0].boost", "99 is not allowed: a number from 0 to 20"),
        (
            {"voice_activity_timeout": {"speech_end_ms": 500}},
            "voice_activity_timeout.speech_end_ms",
            "500 is not allowed: an integer from 501 to 59999",
        ),
        (
            {"diarization": {"min_speaker_count": 3, "max_speaker_count": 2}},
            "diarization.min_speaker_count",
            "at most max_speaker_count, which is 2",
        ),
        ({"interim_results": "yes"}, "interim_results", "'yes' is not allowed: true or false"),
    ],
)
def test_an_error_names_the_field_the_value_and_what_is_allowed(change: dict[str, Any], param: str, said: str) -> None:
    error = refusal(START | change)
    assert (error.code, error.param) == ("invalid_config", param)
    assert error.message.startswith(param)
    assert said in error.message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '"start"', "null", "[" * 100_000, '{"type":' + "[" * 100_000, "\0"]
)
def test_what_is_no_json_object_is_bad_json(text: str) -> None:
    assert refusal(text).code == "bad_json"


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refusal({"type": "x" * 100_000}).message) < 300


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ANY_JSON = st.recursive(SCALARS, lambda value: st.lists(value) | st.dictionaries(st.text(), value), max_leaves=5)


@given(ANY_JSON)
def test_whatever_stands_in_a_field_is_taken_or_refused_by_name(value: object) -> None:
    for field in (*SessionConfig.__struct_fields__, "type", "anything"):
        try:
            parse(json.dumps(START | {field: value}))
        except SessionError as error:
            assert (error.code in CODES, bool(error.message)) == (True, True)  # noqa: PT017 - either way is right


def test_what_is_serialized_is_parsed_again() -> None:
    message = Finalize("x")
    assert parse(serialize(message)) == message


def test_every_server_message_can_be_parsed_by_a_client() -> None:
    assert parse_server('{"type":"ack","received":2,"final":1,"window":3}') is not None
    with pytest.raises(msgspec.ValidationError):
        parse_server('{"type":"nonsense"}')


# The page ---------------------------------------------------------------------------------------


def rows(section: str) -> dict[str, str]:
    """The rows of the first table after a heading: type -> the rest of the row."""
    text = DOCS.split(section, 1)[1]
    table = re.findall(r"^\| (.+?) \| (.*)\|$", text.split("\n## ", 1)[0].split("\n### ", 1)[0], re.MULTILINE)
    return {name: rest for names, rest in table for name in re.findall(r"`(\w+)`", names)}


def fields(kind: Any) -> list[str]:
    """Every field name of a struct, the nested ones too."""
    names = []
    for field in msgspec.structs.fields(kind):
        names.append(field.encode_name)
        if kind is not Start or field.name != "config":
            names += _nested(field.type)
    return names


def _nested(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return [] if annotation is SessionConfig else fields(annotation)
    return [name for inner in getattr(annotation, "__args__", ()) for name in _nested(inner)]


@pytest.mark.parametrize(
    ("section", "union"), [("### Client to server", ClientMessage), ("### Server to client", ServerMessage)]
)
def test_the_page_names_every_message_and_every_field(section: str, union: Any) -> None:
    documented = rows(section)
    assert set(kinds(union)) <= set(documented)
    for tag, kind in kinds(union).items():
        for name in fields(kind):
            assert f"`{name}`" in documented[tag], f"docs/protocol.md: `{tag}` has a field `{name}`"


def test_the_page_has_every_code_with_its_close_code() -> None:
    for code, refused in CODES.items():
        row = next(
            line
            for line in DOCS.split("## Close codes")[1].splitlines()
            if line.startswith("|") and f"`{code}`" in line
        )
        assert str(refused.close_code) in row.split("|")[1], f"{code} closes {refused.close_code}"
