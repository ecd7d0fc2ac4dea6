"""The file of API keys: what stands there, what may not, and what an entry gives."""

from pathlib import Path

import pytest

from app.auth.keys import ApiKeys, new_key
from app.auth.watched import FileError
from app.core.errors import SessionError
from app.core.grant import Allowance


def keys(tmp_path: Path, text: str) -> ApiKeys:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return ApiKeys(path)


def test_the_file_holds_no_key(tmp_path: Path) -> None:
    key, entry = new_key("app")
    assert key not in entry and key.removeprefix("cgk_") not in entry
    assert keys(tmp_path, entry).check(key).principal == "key:app"


def test_no_two_keys_are_alike() -> None:
    assert len({new_key("app")[0] for _ in range(100)}) == 100


def test_an_entry_says_what_its_holder_may(tmp_path: Path) -> None:
    key, entry = new_key("app")
    more = 'rights = ["speak"]\nmax_sessions = 7\nbudget_seconds = 3600\nmax_session_seconds = 60\n'
    grant = keys(tmp_path, entry + more + 'language_codes = ["de-DE"]\n').check(key)
    assert grant.rights == {"speak"}
    assert grant.allowance == Allowance(max_sessions=7, budget_seconds=3600)
    assert (grant.bounds.max_session_seconds, grant.bounds.language_codes) == (60, ("de-DE",))


def test_without_more_it_may_speak_and_make_tokens(tmp_path: Path) -> None:
    key, entry = new_key("app")
    assert keys(tmp_path, entry).check(key).rights == {"speak", "mint"}


HASH = "a" * 64
WRONG = {
    "no TOML": ("keys = ", "Invalid value"),
    "no keys": ("", "missing required field `keys`"),
    "a key in place of its hash": ('[[keys]]\nname = "a"\nsha256 = "cgk_x"', r"64 hexadecimal digits|matching regex"),
    "a name with a blank": (f'[[keys]]\nname = "a b"\nsha256 = "{HASH}"', "matching regex"),
    "an unknown right": (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"\nrights = ["all"]', "Invalid enum value 'all'"),
    "an unknown field": (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"\nrigths = []', "unknown field `rigths`"),
    "a limit that is none": (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"\nmax_sessions = -1', ">= 1"),
    "two of one name": (
        f'[[keys]]\nname = "a"\nsha256 = "{HASH}"\n[[keys]]\nname = "a"\nsha256 = "{"b" * 64}"',
        "name a stands there more than once",
    ),
    "one key under two names": (
        f'[[keys]]\nname = "a"\nsha256 = "{HASH}"\n[[keys]]\nname = "b"\nsha256 = "{HASH}"',
        "sha256 a+ stands there more than once",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_cannot_be_taken_is_told_by_its_name(tmp_path: Path, what: str) -> None:
    text, says = WRONG[what]
    with pytest.raises(FileError, match=f"(?s)keys.toml: .*({says})"):
        keys(tmp_path, text)


def test_a_new_key_is_known_without_a_restart_and_an_old_one_dies(tmp_path: Path) -> None:
    (old, old_entry), (new, new_entry) = new_key("app"), new_key("app")
    known = keys(tmp_path, old_entry)
    keys(tmp_path, new_entry)
    assert known.check(new).principal == "key:app"
    with pytest.raises(SessionError, match="not known, or not any more"):
        known.check(old)


def test_while_the_file_is_broken_or_gone_what_was_known_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, however many come meanwhile."""
    key, entry = new_key("app")
    known = keys(tmp_path, entry)
    (tmp_path / "keys.toml").write_text("[[")
    assert known.check(key)
    (tmp_path / "keys.toml").unlink()
    assert all(known.check(key) for _ in range(5))
    assert len(caplog.records) == 2
