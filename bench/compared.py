"""A run beside the uninterrupted one: the finals word by word, and what has to hold besides."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from bench.runs import Run

MAX_SUBSTITUTED = 0.01
"""Part of all words."""


@dataclass(frozen=True, slots=True)
class Edits:
    """What it takes to come from one transcript to another, in words."""

    deleted: int
    inserted: int
    substituted: int
    shown: str
    """Where."""

    @classmethod
    def between(cls, old: list[str], new: list[str]) -> "Edits":
        found = jiwer.process_words(" ".join(old), " ".join(new))
        changes = [
            f"{_around(old, chunk.ref_start_idx, chunk.ref_end_idx)} -> "
            f"{_around(new, chunk.hyp_start_idx, chunk.hyp_end_idx)}"
            for chunk in found.alignments[0]
            if chunk.type != "equal"
        ]
        return cls(found.deletions, found.insertions, found.substitutions, "; ".join(changes))


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
    """No more words substituted than may be."""

    @classmethod
    def to(cls, base: Run, run: Run, wrong: Sequence[str] = ()) -> "Compared":
        """`wrong`: what else is."""
        edits = Edits.between(base.words, run.words)
        wrong = [*wrong, *run.wrong(), *(f"no final where there were words: {hole}" for hole in run.holes(base))]
        return cls(run, edits, wrong, edits.substituted <= MAX_SUBSTITUTED * len(base.words))

    @property
    def good(self) -> bool:
        return self.few and not (self.edits.deleted or self.edits.inserted or self.run.gaps or self.wrong)


def seeds(text: str) -> list[int]:
    """`20` is 1 to 20, `3-5` is 3, 4, 5."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else list(range(1, int(first) + 1))
