"""What another version of the gateway has written can be read."""

from typing import Any

import msgspec
import pytest

from app.core.record import Record
from app.core.tolerant import decode
from tests.stores import record

WHOLE: dict[str, Any] = msgspec.to_builtins(record(last=1))


def read(written: object) -> Record:
    return decode(msgspec.json.encode(written).decode(), Record)


def test_fields_that_are_not_known_are_left_out_wherever_they_stand() -> None:
    """In the config too, where a client's unknown field is an error."""
    phrases = [{"value": "Gera", "boost": 1.5, "sound": "x"}]
    config = {**WHOLE["config"], "phrases": phrases, "translate": {"to": "de"}}
    config["audio"] = {**config["audio"], "bits": 24}
    config["diarization"] = {"min_speaker_count": 1, "max_speaker_count": 2, "names": ["a"]}
    found = read({**WHOLE, "config": config, "mood": "good", "tally": {"finals": 3, "words": 7, "gaps": {"muted": 5}}})
    del config["translate"], config["audio"]["bits"], config["diarization"]["names"], phrases[0]["sound"]
    assert found == read({**WHOLE, "config": config, "tally": {"finals": 3, "gaps": {"muted": 5}}})
    assert found.config.phrases and found.config.phrases[0].boost == 1.5
    assert found.config.diarization and found.tally.gaps == {"muted": 5}


def test_fields_that_are_missing_have_their_defaults() -> None:
    older = {name: value for name, value in WHOLE.items() if name not in ("tally", "over")}
    older["config"] = {"audio": WHOLE["config"]["audio"], "language_codes": ["en-US"]}
    assert read(older) == record(last=1)


@pytest.mark.parametrize("wrong", [{"settled": "all"}, {"config": {}}, {"tokens": None}, {"x": 1, "epoch": 1.5}])
def test_what_is_of_another_kind_is_an_error_all_the_same(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        read({**WHOLE, **wrong})
    with pytest.raises(msgspec.DecodeError):
        decode("{", Record)
