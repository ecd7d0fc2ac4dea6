"""Speech to test with: what is shared beside the repository, else the recording in the model's own package."""

import csv
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from app.emulator.audio import Decoder
from app.emulator.models import sample_recording

SHARED = Path(__file__).resolve().parents[2] / "shared" / "audio"

TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
    "it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing "
    "before us, we were all going direct to Heaven, we were all going direct the other way - in short, the period was "
    "so far like the present period, that some of its noisiest authorities insisted on its being received, for good "
    "or for evil, in the superlative degree of comparison only."
)
ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


@dataclass(frozen=True, slots=True)
class Recording:
    """One line of the manifest."""

    path: Path
    seconds: float
    rate: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return str(self.path.relative_to(SHARED)) if self.path.is_relative_to(SHARED) else self.path.name

    @property
    def readable(self) -> bool:
        """WAV always; compressed files where PyAV is installed."""
        return self.path.suffix == ".wav" or find_spec("av") is not None

    def pcm(self) -> tuple[int, bytes]:
        """The rate, and 16-bit little-endian samples of one channel."""
        return _read_wav(self.path) if self.path.suffix == ".wav" else _read_any(self.path)


def shared_recordings(language: str = "en") -> list[Recording]:
    """The recordings of a language that can be read without further packages; empty where nothing is shared."""
    manifest = SHARED / "MANIFEST.tsv"
    if not manifest.is_file():
        return []
    with manifest.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Recording(
            SHARED / row["path"], float(row["seconds"]), int(row["sample_rate"]), row["language"], row["reference"]
        )
        for row in rows
        if row["language"].startswith(language)
    ]


def sample() -> Recording | None:
    """The 44 s recording inside the model's package, and its text."""
    path = sample_recording()
    return Recording(path, 44.4, 48_000, "en-GB", TWO_CITIES) if path else None


def normal(text: str) -> str:
    """Words to compare: lower case, no punctuation, numbers spelled out."""
    text = re.sub(r"(?<=\d)\.(?=\d)", " point ", text.lower().replace("’", "'").replace("%", " percent"))
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"\d+", lambda digits: f" {_spelled(digits[0])} ", text)
    return " ".join(re.sub(r"[^\w' ]", " ", text).replace("_", " ").split())


def word_errors(said: Sequence[str], references: Sequence[str]) -> float:
    """The word error rate over everything together, 0 to 1."""
    jiwer = import_module("jiwer")
    rate: float = jiwer.wer([normal(text) for text in references], [normal(text) for text in said])
    return rate


def _spelled(digits: str) -> str:
    number = int(digits)
    if digits[0] == "0" or number >= 10_000:
        return " ".join(ONES[int(digit)] for digit in digits)
    if number < 20:
        return ONES[number]
    if number < 100:
        return f"{TENS[number // 10]} {ONES[number % 10] if number % 10 else ''}"
    if 1100 <= number < 2000:  # read as a year
        return f"{_spelled(digits[:2])} {_spelled(digits[2:]) if number % 100 else 'hundred'}"
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    return f"{ONES[number // unit]} {name} {_spelled(str(number % unit)) if number % unit else ''}"


def _read_wav(path: Path) -> tuple[int, bytes]:
    """Canonical RIFF, also mu-law, which the standard library does not read."""
    data, at, fmt = path.read_bytes(), 12, b""
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if name == b"fmt ":
            fmt = body
        if name == b"data":
            break
        at += 8 + size + size % 2
    form, channels, rate = struct.unpack_from("<HHI", fmt)
    if channels != 1:
        raise ValueError(f"{path.name} has {channels} channels")
    return rate, Decoder("MULAW").decode(body).tobytes() if form == 7 else body


def _read_any(path: Path) -> tuple[int, bytes]:
    av = import_module("av")
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=stream.rate)
        frames = [out for frame in container.decode(stream) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
        return stream.rate, b"".join(frame.to_ndarray().tobytes() for frame in frames)
