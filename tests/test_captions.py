"""What a final looks like as TXT, SRT, VTT and JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from app.captions import LINE_CHARS, Captions, Cue, Format, cues, json_line, srt, txt, vtt
from app.core.protocol import Durable, Final, Finalized, GapEvent, Stopped, WordInfo

LONG = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
    "it was the epoch of belief."
)


def final(text: str, start_ms: int = 0, end_ms: int = 1000, words: list[WordInfo] | None = None) -> Final:
    return Final(
        event=1,
        text=text,
        start_ms=start_ms,
        end_ms=end_ms,
        confidence=0.9,
        language_code="en-US",
        channel=0,
        words=UNSET if words is None else words,
    )


GAP = GapEvent(event=2, start_ms=1000, end_ms=3500, reason="upstream")
STOPPED = Stopped(event=3, audio_ms=1, billed_ms=1, finals=1, gap_ms=0, upstream_streams=1, resumes=0)


def test_a_short_final_is_one_cue_with_its_own_times() -> None:
    assert cues(final("Hello there.", 250, 1900)) == [Cue(250, 1900, "Hello there.")]


def test_a_long_final_becomes_cues_of_two_even_lines() -> None:
    assert [cue.text for cue in cues(final(LONG, 0, 10_000))] == [
        "It was the best of times, it was the\nworst of times, it was the age of",
        "wisdom, it was the age of foolishness,\nit was the epoch of belief.",
    ]


def test_a_sentence_begins_a_new_line_where_that_costs_none() -> None:
    (cue,) = cues(final("It was the epoch of belief. It was the epoch of incredulity."))
    assert cue.text == "It was the epoch of belief.\nIt was the epoch of incredulity."
    (cue,) = cues(final("Yes. No. Perhaps."))
    assert cue.text == "Yes. No. Perhaps."


def test_without_words_time_is_spread_by_length() -> None:
    first, second = cues(final(LONG, 1000, 11_000))
    assert first.start_ms == 1000
    assert first.end_ms == second.start_ms == 6000
    assert second.end_ms == 11_000


def test_with_words_a_cue_lasts_from_its_first_word_to_its_last() -> None:
    words = [
        WordInfo(word=word, start_ms=100 * number, end_ms=100 * number + 60) for number, word in enumerate(LONG.split())
    ]
    first, second = cues(final(LONG, 0, 9000, words))
    assert (first.start_ms, first.end_ms) == (0, 1660)
    assert (second.start_ms, second.end_ms) == (1700, 2960)


def test_words_that_do_not_match_the_text_are_not_trusted_for_times() -> None:
    """As where the text says `$5` and the words say `five dollars`."""
    words = [WordInfo(word=word, start_ms=0, end_ms=10) for word in ("five", "dollars")]
    assert cues(final("$5", 0, 800, words)) == [Cue(0, 800, "$5")]


def test_text_without_spaces_is_cut_to_lines() -> None:
    (cue,) = cues(final("語" * 60))
    assert [len(line) for line in cue.text.splitlines()] == [42, 18]


def test_a_cue_is_never_without_length() -> None:
    assert cues(final("Hm.", 500, 500)) == [Cue(500, 501, "Hm.")]


def test_a_final_without_text_shows_nothing() -> None:
    assert cues(final(" ")) == []
    assert txt(final(" ")) == ""


@given(
    words=st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=60), max_size=80),
    start_ms=st.integers(0, 10**7),
    length_ms=st.integers(0, 10**5),
)
def test_cues_keep_every_character_fit_their_lines_and_run_forward(
    words: list[str], start_ms: int, length_ms: int
) -> None:
    made = cues(final(" ".join(words), start_ms, start_ms + length_ms))
    assert "".join("".join(cue.text.split()) for cue in made) == "".join("".join(words).split())
    assert all(len(line) <= LINE_CHARS for cue in made for line in cue.text.split("\n"))
    assert all(cue.text.count("\n") <= 1 for cue in made)
    assert all(cue.start_ms < cue.end_ms for cue in made)
    assert [cue.start_ms for cue in made] == sorted(cue.start_ms for cue in made)


def test_srt_counts_its_cues_and_writes_milliseconds_behind_a_comma() -> None:
    assert srt(7, Cue(3_723_004, 3_725_678, "a\nb")) == "7\n01:02:03,004 --> 01:02:05,678\na\nb\n\n"


def test_vtt_writes_milliseconds_behind_a_point_and_escapes_markup() -> None:
    assert vtt(Cue(0, 1500, "a < b & c --> d")) == "00:00:00.000 --> 00:00:01.500\na &lt; b &amp; c --&gt; d\n\n"


def test_a_gap_is_told_to_the_reader() -> None:
    assert txt(GAP) == "[... audio missing: upstream]\n"
    assert cues(GAP) == [Cue(1000, 3500, "[... audio missing: upstream]")]


def test_json_is_the_message_itself() -> None:
    assert json.loads(json_line(final("Hello.", 0, 900))) == {
        "type": "final",
        "event": 1,
        "text": "Hello.",
        "start_ms": 0,
        "end_ms": 900,
        "confidence": 0.9,
        "language_code": "en-US",
        "channel": 0,
    }


SESSION: list[Durable] = [final("One\ntwo."), GAP, Finalized(event=4, id=None, end_ms=4000), STOPPED]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("txt", "One two.\n[... audio missing: upstream]\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:01,000\nOne two.\n\n"
            "2\n00:00:01,000 --> 00:00:03,500\n[... audio missing: upstream]\n\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nOne two.\n\n"
            "00:00:01.000 --> 00:00:03.500\n[... audio missing: upstream]\n\n",
        ),
    ],
)
def test_a_caption_file_grows_message_by_message(form: Format, expected: str) -> None:
    captions = Captions(form)
    assert captions.head + "".join(map(captions.add, SESSION)) == expected


def test_json_lines_hold_every_durable_message_and_the_summary_last() -> None:
    captions = Captions("json")
    lines = "".join(map(captions.add, SESSION)).splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["final", "gap", "finalized", "stopped"]
