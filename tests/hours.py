"""One long session in compressed time, against an upstream that checks what it hears and names it in its finals.

The audio counts: every four bytes are a number, one more than the four before, so that six hours of it never repeat. A
number with the highest bit set is silence. What is said must be named once, in order.
"""

import asyncio
import itertools
import json
import random
from array import array
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from app.speech.google import GoogleRecognizer
from tests.gateway import START, Client, Gateway
from tests.test_seams import CODES
from tests.upstream import BYTES_PER_SECOND, Call, Script, ScriptedUpstream

NUMBERS = BYTES_PER_SECOND // 4
"""In a second of audio."""
FRAME_SECONDS = 0.1
FRAME = round(NUMBERS * FRAME_SECONDS)
"""Numbers in a frame: speech and silence take turns between frames only."""
SILENT = 1 << 31
UPSTREAM_SECONDS = 305.0
"""The upstream ends a stream that is older, as Google does."""


def limits(speed: float) -> dict[str, float]:
    """A gateway's settings: what it counts by the clock passes `speed` times as fast. But not so fast that what is
    there against a dead upstream takes a busy machine for one; and a backoff takes as long as ever, so more is kept."""
    return {
        "replay_seconds": max(120, 10 * speed),
        "upstream_speed": 2 * speed,
        "leg_soft_limit_seconds": 240 / speed,
        "leg_hard_limit_seconds": 285 / speed,
        "leg_idle_seconds": max(0.5, 4 / speed),
        "leg_pause_seconds": max(1.0, 25 / speed),
        "answer_seconds": max(5.0, 10 / speed),
    }


@dataclass
class Utterance:
    """What one stream has heard and not made final. In numbers."""

    first: int = 0
    count: int = 0
    silence: int = 0
    """After it."""
    longest: int = 0
    """Then it is over in any case."""


class Listener:
    """One stream of the upstream. Every number that it hears is one more than the number before."""

    def __init__(self, call: Call, dice: random.Random) -> None:
        self._call = call
        self._dice = dice
        self._next: int | None = None
        self._heard = 0
        """Bytes."""
        self._utterance = Utterance()

    def hear(self, chunk: bytes) -> list[Any]:
        """What there is to say after it."""
        numbers = array("I", chunk)
        at, said = 0, list[Any]()
        while at < len(numbers):
            first = self._next or numbers[0] & ~SILENT
            size = min(FRAME - first % FRAME, len(numbers) - at)
            silent = numbers[at] & SILENT
            assert numbers[at : at + size] == audio(first, size, silent), f"not the numbers from {first} on"
            said += self._hear_silence(size) if silent else self._hear_speech(first, size)
            at += size
            self._next = first + size
        return said

    def flush(self) -> list[Any]:
        """At the half-close."""
        billed = self._call.billed(-(-self._heard // BYTES_PER_SECOND))
        return [self._final(), billed] if self._utterance.count else [billed]

    def _hear_speech(self, first: int, size: int) -> list[Any]:
        said = []
        if not self._utterance.count:
            self._utterance = Utterance(first, longest=self._dice.randint(2, 14) * NUMBERS)
            said.append(self._call.activity(2, self._heard))
        self._heard += 4 * size
        self._utterance.count += size
        if self._utterance.count >= self._utterance.longest:
            said.append(self._final())
        elif first % NUMBERS < size:
            said.append(self._call.interim("and so on", end=self._heard))
        return said

    def _hear_silence(self, size: int) -> list[Any]:
        self._heard += 4 * size
        self._utterance.silence += size
        if not self._utterance.count or self._utterance.silence < NUMBERS:
            return []  # an utterance is over a second after its last word
        over = self._call.activity(3, self._heard - 4 * self._utterance.silence)
        return [over, self._final()]

    def _final(self) -> Any:
        utterance, self._utterance = self._utterance, Utterance()
        text = f"{utterance.first}-{utterance.first + utterance.count}"
        return self._call.final(text, self._heard - 4 * utterance.silence)


def audio(first: int, count: int, silent: int = 0) -> "array[int]":
    return array("I", range(first | silent, (first + count) | silent))


def upstream_of_hours(upstream: ScriptedUpstream, speed: float, failures: float) -> Script:
    """`failures`: how many to expect in a second of audio. Calls that have ended are forgotten, as is all audio."""
    calls = itertools.count()

    async def script(call: Call) -> AsyncIterator[Any]:
        clock = asyncio.get_running_loop().time
        began, dice = clock(), random.Random(next(calls))
        listener = Listener(call, dice)
        try:
            async for chunk in call.hear():
                call.audio.clear()
                call.chunks.clear()
                for response in listener.hear(chunk):
                    yield response
                if clock() - began > UPSTREAM_SECONDS / speed:
                    await call.context.abort(grpc.StatusCode.ABORTED, "Max duration of 5 minutes reached for stream.")
                if dice.random() < failures * len(chunk) / BYTES_PER_SECOND:
                    await call.context.abort(dice.choice(CODES), "told to fail")
            for response in listener.flush():
                yield response
        finally:
            upstream.calls.remove(call)

    return script


@dataclass
class Witness:
    """Hears one session to its end. Raises AssertionError where anything is not as it was said."""

    said: deque[list[int]] = field(default_factory=deque)
    """[first, end) of what was said and not named yet."""
    events: int = 0
    finals: int = 0
    skipped: int = 0
    """Numbers that the client left out."""

    def say(self, first: int) -> None:
        """A frame goes out."""
        if self.said and self.said[-1][1] == first:
            self.said[-1][1] += FRAME
        else:
            self.said.append([first, first + FRAME])

    def hear(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self.events += 1
            assert message["event"] == self.events, message
        assert message["type"] != "error", message
        if message["type"] == "gap":
            assert message["reason"] == "muted", message
        if message["type"] == "final":
            self._hear_final(message)

    def _hear_final(self, message: dict[str, Any]) -> None:
        self.finals += 1
        first, end = map(int, message["text"].split("-"))
        assert (message["start_ms"], message["end_ms"]) == (1000 * first // NUMBERS, 1000 * end // NUMBERS), message
        assert first == self.said[0][0], f"{self.said[0]} was said, {message} came"
        assert end <= self.said[0][1], f"{self.said[0]} was said, {message} came"
        self.said[0][0] = end
        if end == self.said[0][1]:
            self.said.popleft()


@dataclass
class Speaker:
    """The client's side: speech, silence, gaps, pauses without audio, and now and then `finalize`."""

    client: Client
    witness: Witness
    speed: float
    look: Callable[[float], None]
    """Called after every frame with the seconds of the session so far."""
    at: float = 0.0
    """Seconds of the session; in pauses it goes on."""
    number: int = 0

    async def talk(self, seconds: float) -> None:
        dice = random.Random(0)
        self._began = asyncio.get_running_loop().time()
        await self.client.say(START)
        while self.at < seconds:
            await self._say(dice.randint(2, 40), 0)
            await self._say(dice.choice([2, 4, 8, 45]), SILENT)
            if dice.random() < 0.03:
                await self._say(dice.randint(2, 10), 0)
                await self.client.say({"type": "finalize"})
            if dice.random() < 0.02:
                await self._leave_out(dice.randint(1, 20))
            if dice.random() < 0.03:
                self.at += dice.randint(60, 120)
        await self.client.say({"type": "stop"})

    async def _say(self, seconds: int, silent: int) -> None:
        clock = asyncio.get_running_loop().time
        for _ in range(round(seconds / FRAME_SECONDS)):
            await asyncio.sleep(self._began + self.at / self.speed - clock())
            if not silent:
                self.witness.say(self.number)
            await self.client.say(audio(self.number, FRAME, silent).tobytes())
            self.number += FRAME
            self.at += FRAME_SECONDS
            self.look(self.at)

    async def _leave_out(self, seconds: int) -> None:
        await self.client.say({"type": "gap", "bytes": seconds * BYTES_PER_SECOND, "reason": "muted"})
        self.number += seconds * NUMBERS
        self.witness.skipped += seconds * NUMBERS
        self.at += seconds


async def live_long(
    gateway: Gateway, seconds: float, speed: float, look: Callable[[float], None]
) -> tuple[Witness, dict[str, Any]]:
    """One session, and what `stopped` said of it. Raises AssertionError where a number was not named once, in order."""
    witness = Witness()
    async with Client.connect(gateway) as client:
        speaker = Speaker(client, witness, speed, look)
        talking = asyncio.create_task(speaker.talk(seconds))
        stopped: dict[str, Any] = {}
        try:
            async for frame in client.socket:
                stopped = json.loads(frame)
                witness.hear(stopped)
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
    assert stopped["type"] == "stopped", stopped
    assert not witness.said, f"{list(witness.said)[:3]} were never named"
    sent_ms, gap_ms = 1000 * speaker.number // NUMBERS, 1000 * witness.skipped // NUMBERS
    assert (stopped["audio_ms"], stopped["gap_ms"]) == (sent_ms - gap_ms, gap_ms), stopped
    await gateway.until_no_session()
    return witness, stopped


def kept_bytes(gateway: Gateway) -> int:
    """Audio that the gateway holds for its sessions."""
    recognizers = [live._recognizer for live in gateway.hub.registry.lives.values()]
    return sum(
        recognizer._legs._handover.kept for recognizer in recognizers if isinstance(recognizer, GoogleRecognizer)
    )


def kept_events(gateway: Gateway) -> int:
    """Durable events that the gateway holds for its sessions."""
    return sum(len(live.session.transcript.history._events) for live in gateway.hub.registry.lives.values())


def tasks() -> Counter[str]:
    """What runs in this process, by the name of its coroutine."""
    return Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())


async def until_nothing_is_left(before: Counter[str], upstream: ScriptedUpstream) -> None:
    """Waits until no task runs that did not run before, and no call; whoever asks bounds it."""
    while tasks() - before or upstream.calls:
        await asyncio.sleep(0.01)
