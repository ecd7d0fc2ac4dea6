"""The silence gate: long silence does not go upstream, so nobody pays for it.

    open     every chunk goes up, until nobody has spoken for `patience`
    closed   chunks wait in the lead-in; the oldest go unheard as it fills. A voice opens, and the lead-in goes up first

It errs on the side of hearing: it closes only while the upstream hears nobody either, and for good stays open once the
upstream had words where the detector heard no voice. Positions are bytes of the session. No I/O.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

VOICE = 0.3
"""Probability of speech, on Silero's scale, from which somebody speaks. Silero itself suggests 0.5; noise stays below
0.13, soft words at -65 dBFS or under loud noise reach 0.3 within a syllable."""
DOUBT = 0.1
"""From which silence is not sure enough to go unheard when it is not known what comes after it."""
LEAD_IN_SECONDS = 1.0
"""Goes up before the first voice: the network needs up to 0.2 s of it, soft first consonants are older."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What leaves the gate: so many bytes that nobody will hear, then chunks to hear."""

    unheard: int = 0
    heard: tuple[bytes, ...] = ()


class Gate:
    def __init__(self, probability: Callable[[bytes], float], *, patience: int, lead_in: int) -> None:
        """`probability`: that somebody speaks in a chunk, 0 to 1. `patience`, `lead_in`: in bytes."""
        self.is_open = True
        self._probability = probability
        self._patience = patience
        self._lead_in = lead_in
        self._trusted = True
        """No word was heard upstream where the detector heard no voice."""
        self._voice_end = 0
        self._words_end = 0
        """Where the upstream's last words ended."""
        self._held: deque[tuple[bytes, float]] = deque()
        self._held_bytes = 0

    def take(self, chunk: bytes, end: int, *, busy: bool) -> Passed:
        """`end`: where `chunk` ends. `busy`: the upstream hears somebody, or fails: not the time to close."""
        likely = self._probability(chunk) if self._trusted else 1.0
        if likely >= VOICE:
            self._voice_end = end
        silent = end - max(self._voice_end, self._words_end) >= self._patience
        if self.is_open:
            self.is_open = busy or not silent
        elif likely >= VOICE or not self._trusted:
            self.is_open = True
        self._held.append((chunk, likely))
        self._held_bytes += len(chunk)
        return Passed(heard=self._release()) if self.is_open else Passed(unheard=self._overflow())

    def words(self, start: int, end: int, *, is_final: bool) -> None:
        """The upstream has words for the bytes from `start` to `end`."""
        if is_final and start >= self._voice_end:
            self._trusted = False
        self._words_end = max(self._words_end, end)

    def rest(self) -> Passed:
        """What waits, when what comes next does not belong to it: unheard only where it surely is silence."""
        if any(likely >= DOUBT for _, likely in self._held):
            return Passed(heard=self._release())
        return Passed(unheard=sum(map(len, self._release())))

    def _release(self) -> tuple[bytes, ...]:
        chunks = tuple(chunk for chunk, _ in self._held)
        self._held.clear()
        self._held_bytes = 0
        return chunks

    def _overflow(self) -> int:
        """Bytes of the oldest chunks that are not needed for the lead-in."""
        dropped = 0
        while self._held_bytes - len(self._held[0][0]) >= self._lead_in:
            size = len(self._held.popleft()[0])
            self._held_bytes -= size
            dropped += size
        return dropped
