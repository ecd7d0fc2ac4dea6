"""A run beside the uninterrupted one: the finals word by word, and what has to hold besides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import jiwer

from bench.runs import Run

EDITS = ("deleted", "doubled", "inserted", "substituted")
"""Columns of a table."""
MAX_CHANGED = 0.01
"""Part of all words: where an utterance had to be cut, the recognizer hears parts of it, and may hear other words."""
NEAR = 5
"""Words before and after one: where it stands among them once more, it is doubled."""
MAX_LETTERS = 0.3
"""Part of the letters that may differ where words were split or joined."""


@dataclass(frozen=True, slots=True)
class Edits:
    """What it takes to come from one transcript to another, in words."""

    deleted: int
    doubled: int
    inserted: int
    """Others than those that stand there anyway."""
    substituted: int
    shown: str
    """Where."""

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """A number for each of `EDITS`."""
        return self.deleted, self.doubled, self.inserted, self.substituted

    @classmethod
    def between(cls, old: list[str], new: list[str]) -> "Edits":
        """Words that were only split or joined, as `shopboy` and `shock boy`, are substituted, each of them."""
        deleted = doubled = inserted = substituted = 0
        shown = []
        for before, after in _changes(old, new):
            lost, come = old[slice(*before)], new[slice(*after)]
            shown.append(f"{_around(old, *before)} -> {_around(new, *after)}")
            changed = max(len(lost), len(come)) if _sound_alike(lost, come) else min(len(lost), len(come))
            substituted += changed
            deleted += max(0, len(lost) - changed)
            more = max(0, len(come) - changed)
            if set(come) & {*new[max(0, after[0] - NEAR) : after[0]], *new[after[1] : after[1] + NEAR]}:
                doubled += more
            else:
                inserted += more
        return cls(deleted, doubled, inserted, substituted, "; ".join(shown))


def _changes(old: list[str], new: list[str]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where words differ, in both."""
    chunks = jiwer.process_words(" ".join(old), " ".join(new)).alignments[0]
    for equal, group in groupby(chunks, key=lambda chunk: chunk.type == "equal"):
        if not equal:
            edits = list(group)
            first, last = edits[0], edits[-1]
            yield (first.ref_start_idx, last.ref_end_idx), (first.hyp_start_idx, last.hyp_end_idx)


def _sound_alike(lost: list[str], come: list[str]) -> bool:
    """But for the spaces, most of the letters are the same, and about as many: nothing is missing, or there twice."""
    before, after = "".join(lost), "".join(come)
    return bool(before and after) and jiwer.cer(before, after) <= MAX_LETTERS


def _around(words: list[str], start: int, end: int) -> str:
    """Some words with those before and after them."""
    return " ".join([*words[max(0, start - 4) : start], f"[{' '.join(words[start:end])}]", *words[end : end + 4]])


@dataclass(frozen=True, slots=True)
class Compared:
    """A run beside the uninterrupted one."""

    run: Run
    edits: Edits
    wrong: list[str]
    """What does not hold in it but words, in words."""
    few: bool
    """No more words inserted or substituted than may be."""

    @classmethod
    def to(cls, base: Run, run: Run, wrong: Sequence[str] = ()) -> "Compared":
        """`wrong`: what else is."""
        edits = Edits.between(base.words, run.words)
        wrong = [*wrong, *run.wrong(), *(f"no final where there were words: {hole}" for hole in run.holes(base))]
        return cls(run, edits, wrong, edits.inserted + edits.substituted <= MAX_CHANGED * len(base.words))

    @property
    def good(self) -> bool:
        return self.few and not (self.edits.deleted or self.edits.doubled or self.run.gaps or self.wrong)


def seeds(text: str) -> list[int]:
    """`20` is 1 to 20, `3-5` is 3, 4, 5."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else list(range(1, int(first) + 1))
