"""Where speech begins and where an utterance is cut: the voice-activity network, and the rules over what it says.

The rules know frames (32 ms) only, counted from the last clean cut, and depend on nothing before it. Cuts fall on a
grid, so that every stream that began on it has its frames where all others have theirs.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.emulator.moonshine import session

FRAME = 512  # samples at 16 kHz, what the network takes
CONTEXT = 64  # samples of the frame before, which it wants to see again
FRAMES_PER_SECOND = 16_000 / FRAME

ON, OFF = 0.5, 0.35
ONSET = 2  # frames over ON in a row make speech


def frames(seconds: float) -> int:
    return round(seconds * FRAMES_PER_SECOND)


LEAD_IN = frames(0.4)  # kept before the onset: soft first consonants
PAUSE = frames(0.6)  # of silence ends an utterance,
SHORT_PAUSE = frames(0.25)  # and so does this much
LONG = frames(8.0)  # once the utterance is so long.
LONGEST = frames(15.0)  # The model is meant for short segments: cut there
LAST_CHANCE = frames(3.0)  # at the quietest frame of so much.
GRID = frames(0.16)  # Cuts are whole numbers of it apart: whole samples at every usual rate, and seams of a caller.
BREATH = frames(0.16)  # of silence is not a gap between words any more
TAIL = frames(0.3)  # of the pause stay with the utterance at most


class VoiceModel:
    """Silero: the probability of speech in a frame, and the state to give with the next one."""

    def __init__(self, path: Path) -> None:
        self._session = session(path)
        self._rate = np.array(16_000, np.int64)

    def probability(self, window: NDArray[np.float32], state: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        """Of CONTEXT + FRAME samples."""
        feeds = {"input": window[None, :], "state": state, "sr": self._rate}
        output, state = self._session.run(None, feeds)
        return float(output[0, 0]), state

    @staticmethod
    def fresh_state() -> NDArray[np.float32]:
        return np.zeros((2, 1, 128), np.float32)


@dataclass(frozen=True, slots=True)
class Cut:
    """The utterance covers the frames from `start` up to `end`; by_pause tells whether the speaker paused."""

    start: int
    end: int
    by_pause: bool


@dataclass(slots=True)
class Segmenter:
    """Frame by frame: `start` is set when speech has begun, a Cut is returned when it is over."""

    frame: int = 0  # how many have been heard
    start: int | None = None
    onset: int = 0  # the first voiced frame
    voiced_end: int = 0  # the frame after the last voiced one
    _run: int = 0
    _loudness: list[float] = field(default_factory=list)

    def hear(self, probability: float, loudness: float) -> Cut | None:
        self.frame += 1
        if self.start is None:
            self._wait_for_speech(probability)
            return None
        self._loudness.append(loudness)
        if probability >= OFF:
            self.voiced_end = self.frame
        return self._cut()

    @property
    def in_pause(self) -> bool:
        """Whether there is nothing new to understand just now."""
        return self.frame - self.voiced_end >= BREATH

    def finish(self) -> Cut | None:
        """What is still open at the end of the audio: also a beginning too short to be sure of."""
        if self.start is None and self._run:
            self._begin()
        if self.start is None:
            return None
        return Cut(self.start, self.frame, by_pause=False)

    def _wait_for_speech(self, probability: float) -> None:
        self._run = self._run + 1 if probability >= ON else 0
        if self._run >= ONSET:
            self._begin()

    def _begin(self) -> None:
        self.onset = self.frame - self._run
        self.start = max(0, self.onset - LEAD_IN)
        self.voiced_end = self.frame

    def _cut(self) -> Cut | None:
        assert self.start is not None
        length, silence = self.frame - self.start, self.frame - self.voiced_end
        if silence >= (SHORT_PAUSE if length >= LONG else PAUSE):
            return Cut(self.start, self._nearest(self.voiced_end + min(TAIL, silence * 2 // 3)), by_pause=True)
        if length >= LONGEST:
            return Cut(self.start, self._quietest(), by_pause=False)
        return None

    def _nearest(self, frame: int) -> int:
        """On the grid; never beyond what was heard, since half of it is less than a third of any pause."""
        return (frame + GRID // 2) // GRID * GRID

    def _quietest(self) -> int:
        """The frame of the last chance in the middle of the softest three, of those on the grid."""
        recent = np.array(self._loudness[-LAST_CHANCE:])
        around = np.convolve(recent, np.ones(3) / 3, "same")
        first = self.frame - len(recent)
        return min((at for at in range(1, len(recent) - 1) if not (first + at) % GRID), key=around.__getitem__) + first
