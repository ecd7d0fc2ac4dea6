"""How two transcripts are compared: bench/compared.py."""

import pytest

from bench.compared import Edits

SAID = "of having been a shopboy was the thing i was ashamed of"


@pytest.mark.parametrize(
    ("heard", "counts"),
    [
        (SAID, (0, 0, 0, 0)),
        ("of having been shopboy was the thing i was ashamed of", (1, 0, 0, 0)),
        ("of having been a a shopboy was the thing i was ashamed of", (0, 1, 0, 0)),
        ("of having been a shopboy shopboy was the thing i was ashamed of", (0, 1, 0, 0)),
        ("of having been a shopboy was the thing was the thing i was ashamed of", (0, 3, 0, 0)),
        ("of having been a shopboy yeah was the thing i was ashamed of", (0, 0, 1, 0)),
        ("of having been a shopgirl was the thing i was ashamed of", (0, 0, 0, 1)),
        ("of having been a shock boy was the thing i was ashamed of", (0, 0, 0, 2)),
        ("of having been ashopboy was the thing i was ashamed of", (0, 0, 0, 2)),
        ("of having been a shopboy was thing i am ashamed of", (1, 0, 0, 1)),
        ("of having been a boy was the thing i was ashamed of", (0, 0, 0, 1)),
        ("of having been a toy boy girl was the thing i was ashamed of", (0, 0, 2, 1)),
        ("shopboy was the thing i was ashamed of", (4, 0, 0, 0)),
        ("", (12, 0, 0, 0)),
    ],
)
def test_a_word_is_missing_or_more_or_changed(heard: str, counts: tuple[int, int, int, int]) -> None:
    """Deleted, doubled, inserted, substituted. A word that was split or joined is neither missing nor there twice."""
    assert Edits.between(SAID.split(), heard.split()).counts == counts
