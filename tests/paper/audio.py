"""Audio that says what it is: a unit is one millisecond of it, 8 bytes with its number and whether somebody speaks."""

from collections.abc import Iterable, Iterator

from app.core.protocol import Audio, SessionConfig

UNIT = 8
"""Bytes: MULAW at 8,000 Hz, so that milliseconds are exact."""
CONFIG = SessionConfig(Audio("MULAW", 8000), ["en-US"])
SESSION = "s"

Unit = tuple[int, bool]
"""Its number in what the client recorded, and whether somebody speaks in it."""


def write_audio(units: Iterable[Unit]) -> bytes:
    return b"".join((2 * number + spoken).to_bytes(UNIT, "big") for number, spoken in units)


def read_audio(audio: bytes) -> Iterator[Unit]:
    assert len(audio) % UNIT == 0, "the client speaks in whole units"
    for at in range(0, len(audio), UNIT):
        value = int.from_bytes(audio[at : at + UNIT], "big")
        yield value // 2, bool(value % 2)


def words(units: Iterable[Unit]) -> str:
    """What is heard in it."""
    return " ".join(str(number) for number, spoken in units if spoken)
