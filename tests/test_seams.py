"""No byte lost and none heard twice across legs, on a scripted upstream that says which bytes it heard."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from app.speech import last_resorts, retry
from app.speech.errors import BY_TEXT, MEANING
from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.upstream import BYTES_PER_SECOND, Call, ScriptedUpstream, hears_bytes

TENTH = BYTES_PER_SECOND // 10
CODES = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNKNOWN,
]


def sound(count: int) -> bytes:
    """Samples that never repeat within 64 kB: number after number."""
    return b"".join(n.to_bytes(2, "little") for n in range(count // 2))


def numbers(text: str) -> list[int]:
    """The samples that a final names."""
    first, last = map(int, text.split("-"))
    return list(range(first, last + 1))


def names_samples(fail: Any = None, every: int = TENTH) -> Any:
    """Finals that name the first and the last sample heard; `fail(call, heard)` may end the call at any chunk."""

    async def script(call: Call) -> AsyncIterator[Any]:
        done = 0
        async for _ in call.hear():
            if fail and (code := fail(call, len(call.audio))) is not None:
                if code is grpc.StatusCode.OK:
                    return
                await call.context.abort(code, "told to fail")
            while len(call.audio) - done >= every:
                yield call.final(name(call.audio[done : done + every]), done + every)
                done += every
        if len(call.audio) > done:
            yield call.final(name(call.audio[done:]), len(call.audio))
        yield call.billed(1)

    return script


def name(audio: bytes | bytearray) -> str:
    return f"{int.from_bytes(audio[:2], 'little')}-{int.from_bytes(audio[-2:], 'little')}"


async def heard_once(gateway: Gateway, audio: bytes, frame: int = 3200) -> list[dict[str, Any]]:
    """Sends `audio`; asserts that the finals name every sample once, in order."""
    async with Client.connect(gateway) as client:
        listening = asyncio.create_task(client.hear_all())
        await client.say(START, *[audio[i : i + frame] for i in range(0, len(audio), frame)], {"type": "stop"})
        messages = await listening
    check(messages, audio)
    return messages


async def until(condition: Callable[[], object]) -> None:
    """A test's own time limit bounds it."""
    while not condition():
        await asyncio.sleep(0.005)


def check(messages: list[dict[str, Any]], audio: bytes) -> None:
    assert messages[-1]["type"] == "stopped", messages[-1]
    finals = [m for m in messages if m["type"] == "final"]
    assert [n for m in finals for n in numbers(m["text"])] == list(range(len(audio) // 2))
    events = [m["event"] for m in messages if "event" in m]
    assert events == list(range(1, len(events) + 1))
    assert all(a["end_ms"] <= b["start_ms"] for a, b in pairwise(finals))
    assert messages[-1]["gap_ms"] == 0


@pytest.mark.parametrize("code", [*CODES, grpc.StatusCode.OK], ids=lambda code: code.name)
async def test_a_leg_that_fails_is_followed_by_one_that_hears_the_rest(
    gateway: Gateway, upstream: ScriptedUpstream, code: grpc.StatusCode
) -> None:
    """OK is a clean end that nobody asked for."""

    def once(call: Call, heard: int) -> grpc.StatusCode | None:
        return code if call is upstream.calls[0] and heard > 10_000 else None

    upstream.script = names_samples(once)
    audio = sound(40_000)
    async with Client.connect(gateway) as client:
        await client.say(START, audio[:20_000])
        await upstream.called(2)
        await client.say(audio[20_000:], {"type": "stop"})
        messages = await client.hear_all()
    check(messages, audio)
    assert messages[-1]["upstream_streams"] == 2


@pytest.mark.parametrize("seed", range(20))
async def test_random_failures_cost_no_byte(upstream: ScriptedUpstream, seed: int) -> None:
    """Legs that fail at any byte, with any code that allows another try, and legs that are changed all the time."""
    dice = random.Random(seed)

    def often(_: Call, heard: int) -> grpc.StatusCode | None:
        return dice.choice(CODES) if dice.random() < 0.08 and heard > TENTH else None

    upstream.script = names_samples(often, every=dice.choice([TENTH, 1000, 5000]))
    async with run_gateway(
        upstream=f"grpc://{upstream.address}",
        leg_soft_limit_seconds=dice.choice([0.01, 0.1, 60]),
        leg_hard_limit_seconds=60,
    ) as gateway:
        await heard_once(gateway, sound(120_000), frame=dice.choice([640, 3200, 31_999]))


async def test_a_change_of_leg_after_a_final_hands_the_rest_to_the_next(upstream: ScriptedUpstream) -> None:
    """The old leg had heard more than its last final covers: that is heard again by the next one, and counts once."""
    upstream.script = names_samples(every=5000)
    audio = sound(60_000)
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", leg_soft_limit_seconds=0.001, leg_hard_limit_seconds=60
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START)
            for i in range(0, len(audio), 6400):  # two chunks, with one final in them and some audio after it
                await client.say(audio[i : i + 6400])
                await client.hear("final")
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)
    assert messages[-1]["upstream_streams"] > 3
    assert sum(len(call.audio) for call in upstream.calls) > len(audio)


async def test_a_long_utterance_is_heard_to_its_end_by_the_leg_that_follows(upstream: ScriptedUpstream) -> None:
    """The old leg reaches its hard limit in the middle of speech: the next one hears the utterance from its beginning,
    and keeps it however old it gets itself."""

    async def speaks(call: Call) -> AsyncIterator[Any]:
        yield call.activity(2, 0)
        async for _ in call.hear():
            yield call.interim("so far", end=len(call.audio))
        if call is not upstream.calls[0]:
            yield call.final(name(call.audio), len(call.audio))

    upstream.script = speaks
    audio = sound(60_000)
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", leg_soft_limit_seconds=0.05, leg_hard_limit_seconds=0.1
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START)
            for i in range(0, len(audio), 6000):
                await client.say(audio[i : i + 6000])
                await client.hear("interim")
                await asyncio.sleep(0.11)  # a leg gets old by the clock alone
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)
    assert [m["text"] for m in messages if m["type"] == "final"] == [name(audio)]
    assert messages[-1]["upstream_streams"] == 2


async def test_an_utterance_that_is_too_long_is_made_final_piece_by_piece(upstream: ScriptedUpstream) -> None:
    """Nothing is heard twice, and nothing is left out between the pieces."""

    async def speaks(call: Call) -> AsyncIterator[Any]:
        yield call.activity(2, 0)
        async for _ in call.hear():
            yield call.interim("so far", end=len(call.audio))
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = speaks
    audio = sound(9 * 12_800)
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", max_utterance_seconds=1, leg_quiet_seconds=1
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START)
            for end in range(12_800, len(audio) + 1, 12_800):
                await client.say(audio[end - 12_800 : end])
                await until(lambda end=end: sum(len(call.audio) for call in upstream.calls) == end)  # type: ignore[misc]
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)
    assert len([m for m in messages if m["type"] == "final"]) > 2
    assert sum(len(call.audio) for call in upstream.calls) == len(audio)


async def test_silence_that_comes_faster_than_it_goes_up_is_settled_too(upstream: ScriptedUpstream) -> None:
    """However much of it waits, a leg hears hardly more of it than the limit."""
    upstream.script = says_nothing
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", upstream_speed=8, leg_quiet_seconds=4, leg_idle_seconds=60
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *[bytes(BYTES_PER_SECOND)] * 24)
            while (await client.hear("ack"))["final"] < 15 * BYTES_PER_SECOND:
                pass
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    assert messages[-1]["gap_ms"] == 0
    assert sum(len(call.audio) for call in upstream.calls) >= 24 * BYTES_PER_SECOND
    assert max(len(call.audio) for call in upstream.calls) <= 11 * BYTES_PER_SECOND


async def says_nothing(call: Call) -> AsyncIterator[Any]:
    async for _ in call.hear():
        pass
    yield call.billed(1)


async def test_a_leg_that_begins_in_silence_hears_as_the_one_before_would(upstream: ScriptedUpstream) -> None:
    """It begins whole windows of the recognizer's behind the last final, so that they fall where they fell."""
    final_end, window = 24_000, BYTES_PER_SECOND * 160 // 1000

    async def says_one_word(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if call is upstream.calls[0] and len(call.audio) == 30_000:
                yield call.final("yes", final_end)

    upstream.script = says_one_word
    audio = sound(130_000) + bytes(130_000)
    async with run_gateway(upstream=f"grpc://{upstream.address}", leg_quiet_seconds=1) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:30_000])
            await client.hear("final")
            await client.say(*[audio[i : i + TENTH] for i in range(30_000, len(audio), TENTH)])
            second = await upstream.called(2)
            await until(lambda: second.audio)
    begin = 2 * int.from_bytes(second.audio[:2], "little")
    assert begin > final_end
    assert (begin - final_end) % window == 0


async def heard_with_a_wrong_guess(upstream: ScriptedUpstream, audio: bytes) -> list[dict[str, Any]]:
    """Sends 120,000 bytes; the leg is ended in silence, as it seems, and the third one hears all of it anew."""
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", leg_soft_limit_seconds=0.001, leg_hard_limit_seconds=60
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:40_000], audio[40_000:78_400])
            first = await upstream.called(1)
            await until(lambda: len(first.audio) == 78_400)
            await client.say(audio[78_400:])
            await upstream.called(3)
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)
    return messages


async def test_silence_that_was_none_is_heard_again_as_one(upstream: ScriptedUpstream) -> None:
    """An upstream that tells nothing of the speaker: the old leg's last words show that somebody spoke at the seam."""
    upstream.script = names_samples(every=100_000)
    audio = sound(120_000)
    messages = await heard_with_a_wrong_guess(upstream, audio)
    assert [m["text"] for m in messages if m["type"] == "final"] == [name(audio[:100_000]), name(audio[100_000:])]


async def test_a_guess_that_nobody_proves_is_taken_back(upstream: ScriptedUpstream) -> None:
    """The old leg fails before its last words: what it owned and what followed is heard by one leg."""

    async def fails(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        if call is upstream.calls[0]:
            await call.context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = fails
    audio = sound(120_000)
    messages = await heard_with_a_wrong_guess(upstream, audio)
    assert [m["text"] for m in messages if m["type"] == "final"] == [name(audio)]


async def test_dead_streams_that_followed_each_other_in_what_seemed_silence_cut_nothing(
    upstream: ScriptedUpstream,
) -> None:
    """None of them ever said a word: where one ended and the next began, somebody may have spoken."""
    dead = 3

    async def script(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        if call in upstream.calls[:dead]:
            await asyncio.Event().wait()
        yield call.final("all of it", len(call.audio))

    upstream.script = script
    audio = random.Random(1).randbytes(20 * BYTES_PER_SECOND)
    settings = {"leg_soft_limit_seconds": 0.001, "leg_hard_limit_seconds": 60, "answer_seconds": 2}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START)
            said = 0
            while len(upstream.calls) <= dead:
                await client.say(audio[said : said + 6400])
                said += 6400
                await asyncio.sleep(0.01)
            rest = [audio[at : at + 6400] for at in range(said, len(audio), 6400)]
            await client.say(*rest, {"type": "stop"})
            messages = await client.hear_all()
    assert [m["end_ms"] for m in messages if m["type"] == "final"] == [20_000]
    assert upstream.calls[-1].audio == audio


async def test_a_leg_that_is_not_needed_leaves_the_line(upstream: ScriptedUpstream) -> None:
    """There is one place. While the next leg waits for it, the guess that it follows is taken back."""
    upstream.script = names_samples(every=100_000)
    audio = sound(120_000)
    async with run_gateway(
        upstream=f"grpc://{upstream.address}",
        leg_soft_limit_seconds=0.001,
        leg_hard_limit_seconds=60,
        streams_per_channel=1,
        max_channels=1,
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:40_000], audio[40_000:78_400])
            first = await upstream.called(1)
            await until(lambda: len(first.audio) == 78_400)
            await client.say(audio[80_000:], {"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)
    assert all(call.audio for call in upstream.calls)


async def test_a_leg_that_hears_goes_on_while_an_older_one_is_tried_again(upstream: ScriptedUpstream) -> None:
    """What was sent before `finalize` fails in its flush: the next leg hears what comes, byte for byte, meanwhile."""
    refused = 0

    async def refuses_the_first_part(call: Call) -> AsyncIterator[Any]:
        nonlocal refused
        async for _ in call.hear():
            if call.audio[:4] == bytes(4)[:2] + b"\1\0" and refused < 3 and len(call.audio) >= 3200:
                refused += 1
                await call.context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = refuses_the_first_part
    audio = sound(60_000)
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:3200], {"type": "finalize"}, audio[3200:6400])
            await upstream.called(2)
            for i in range(6400, len(audio), 3200):
                await client.say(audio[i : i + 3200])
                await client.hear("ack")
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)


@pytest.mark.parametrize("younger_ends", [True, False], ids=["the younger has ended", "the younger goes on"])
async def test_what_a_younger_leg_has_said_counts_when_the_older_fails_after_its_last_word(
    upstream: ScriptedUpstream, younger_ends: bool
) -> None:
    """All that the older one heard is final, so no leg follows it: the younger one's words are next."""
    younger_has_spoken = asyncio.Event()

    async def speaks(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if call is not upstream.calls[0] and len(call.audio) == 6400:
                yield call.final(name(call.audio), 6400)
                younger_has_spoken.set()
        if call is upstream.calls[0]:
            await younger_has_spoken.wait()
            if younger_ends:
                await upstream.calls[1].ended.wait()
            yield call.final(name(call.audio), len(call.audio))
            await call.context.abort(grpc.StatusCode.UNAVAILABLE, "told to fail")
        yield call.final(name(call.audio[6400:]), len(call.audio))

    upstream.script = speaks
    audio = sound(19_200)
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:6400], {"type": "finalize"}, audio[6400:12_800])
            if younger_ends:
                await client.say(audio[12_800:], {"type": "stop"})
            else:
                await client.hear("finalized")
                await client.say(audio[12_800:], {"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)


async def test_audio_comes_while_the_upstream_is_away(upstream: ScriptedUpstream) -> None:
    """The upstream refuses for a while in the middle of speech: every byte that came meanwhile is heard afterwards."""
    away = True

    def refuse(call: Call, heard: int) -> grpc.StatusCode | None:
        return grpc.StatusCode.UNAVAILABLE if away and (heard > 20_000 or call is not upstream.calls[0]) else None

    upstream.script = names_samples(refuse)
    audio = sound(120_000)
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *[audio[i : i + 3200] for i in range(0, 60_000, 3200)])
            warning = await client.hear("warning")
            assert warning["code"] == "upstream_retrying"
            assert "audio is kept" in warning["message"]
            await client.say(*[audio[i : min(i + 3200, len(audio))] for i in range(60_800, len(audio), 3200)])
            away = False
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    finals = [m["text"] for m in messages if m["type"] == "final"]
    assert [n for text in finals for n in numbers(text)] == list(range(60_000))


async def test_while_the_upstream_fails_new_sessions_do_not_call_it_either(upstream: ScriptedUpstream) -> None:
    """The breaker is everybody's: who comes now is told, waits with the others, and is heard in full afterwards."""
    away = True

    def refuse(_: Call, heard: int) -> grpc.StatusCode | None:
        return grpc.StatusCode.UNAVAILABLE if away and heard else None

    upstream.script = names_samples(refuse)
    audio = sound(6400)
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway, AsyncExitStack() as clients:
        early = [await clients.enter_async_context(Client.connect(gateway)) for _ in range(25)]
        for client in early:
            await client.say(START, audio)
        while (await gateway.get("/readyz")).status_code != 503:
            await asyncio.sleep(0.02)
        calls = len(upstream.calls)
        late = [await clients.enter_async_context(Client.connect(gateway)) for _ in range(20)]
        for client in late:
            await client.say(START, audio)
        for client in late:
            warning = await client.hear("warning")
            assert "failures in a row" in warning["message"]
        assert len(upstream.calls) < calls + len(late), "the late ones wait with the others"
        away = False
        for client in early + late:
            await client.say({"type": "stop"})
            check(await client.hear_all(), audio)


async def test_what_is_over_the_bound_is_an_explicit_gap(upstream: ScriptedUpstream) -> None:
    away = True

    def refuse(_: Call, heard: int) -> grpc.StatusCode | None:
        return grpc.StatusCode.UNAVAILABLE if away and heard else None

    upstream.script = names_samples(refuse)
    second = sound(BYTES_PER_SECOND)
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", replay_seconds=10, max_utterance_seconds=9, leg_quiet_seconds=9
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, second)
            await client.hear("warning")
            await client.say(*[second] * 14)
            assert (await client.hear("throttle"))["state"] == "on"
            while (await client.hear("ack"))["received"] < 15 * BYTES_PER_SECOND:
                pass
            away = False
            while (await client.hear("throttle"))["state"] == "on":
                pass
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    gaps = [m for m in messages if m["type"] == "gap"]
    assert [gap["reason"] for gap in gaps] == ["upstream"]
    assert gaps[0]["start_ms"] == 0
    finals = [m for m in messages if m["type"] == "final"]
    assert finals[0]["start_ms"] == gaps[0]["end_ms"]
    assert finals[-1]["end_ms"] == 15_000
    assert messages[-1]["gap_ms"] == gaps[0]["end_ms"]


@pytest.mark.parametrize("back", [True, False])
async def test_an_outage_takes_any_number_of_cuts(upstream: ScriptedUpstream, back: bool) -> None:
    """What was said in pieces waits for the upstream, or is a gap, as if it had been said in one."""
    away = True

    def refuse(_: Call, heard: int) -> grpc.StatusCode | None:
        return grpc.StatusCode.UNAVAILABLE if away and heard else None

    upstream.script = names_samples(refuse)
    audio = sound(64_000)
    pieces = [audio[i : i + 3200] for i in range(0, len(audio), 3200)]
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", replay_seconds=10, max_utterance_seconds=9
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, pieces[0])
            await client.hear("warning")
            for piece in pieces[1:]:
                await client.say({"type": "finalize"}, piece)
            while (await client.hear("ack"))["received"] < len(audio):
                pass
            away = not back
            await client.say({"type": "stop"})
            if not back:
                (live,) = gateway.hub.registry.lives.values()
                recognizer: Any = live._recognizer
                await until(lambda: recognizer._legs._finished_at is not None and recognizer._legs.is_away)
                recognizer.tick(asyncio.get_running_loop().time() + 10)
            messages = await client.hear_all()
    if back:
        check(messages, audio)
    else:
        assert [m["reason"] for m in messages if m["type"] == "gap"] == ["upstream"]
        assert (messages[-1]["type"], messages[-1]["gap_ms"]) == ("stopped", 2000)


async def test_audio_over_which_every_stream_fails_is_given_up(upstream: ScriptedUpstream) -> None:
    """Though each says something of it: they are tried more and more seldom, and then it is a gap."""

    async def fails_again(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if len(call.audio) >= 6400:
                yield call.interim("poison", end=len(call.audio))
                await call.context.abort(grpc.StatusCode.INTERNAL, "Received Rst Stream")

    upstream.script = fails_again
    audio = sound(32_000)
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", replay_seconds=10, max_utterance_seconds=9
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio, {"type": "stop"})
            await upstream.called(4)
            (live,) = gateway.hub.registry.lives.values()
            recognizer: Any = live._recognizer
            retry = recognizer._legs._retry
            await until(lambda: retry._backoff.failures >= 4)
            retry._backoff.failures = 20
            await upstream.called(len(upstream.calls) + 1)
            await until(lambda: recognizer._legs.is_away)
            recognizer.tick(asyncio.get_running_loop().time() + 10)
            messages = await client.hear_all()
    assert [m["reason"] for m in messages if m["type"] == "gap"] == ["upstream"]
    assert (messages[-1]["type"], messages[-1]["gap_ms"]) == ("stopped", 1000)


async def test_audio_that_is_too_long_for_streams_that_fail_is_heard_in_parts(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many tries: no stream lives long enough to hear the utterance to its end."""
    monkeypatch.setattr(last_resorts, "SHORT_SECONDS", 1.0)
    monkeypatch.setattr(last_resorts, "SPLIT_TRIES", 12)
    monkeypatch.setattr(retry, "BACKOFF_CAP", 0.01)

    async def fails_early(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if len(call.audio) == TENTH:
                yield call.interim("so far", end=TENTH)
            if len(call.audio) > 40_000:
                await call.context.abort(grpc.StatusCode.INTERNAL, "Internal error encountered.")
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = fails_early
    audio = sound(120_000)
    async with run_gateway(upstream=f"grpc://{upstream.address}", upstream_speed=100) as gateway:
        messages = await heard_once(gateway, audio)
    assert (messages[-1]["type"], messages[-1]["gap_ms"]) == ("stopped", 0)
    assert len([m for m in messages if m["type"] == "final"]) >= 3


async def test_after_stop_what_is_still_being_heard_is_not_given_up(upstream: ScriptedUpstream) -> None:
    """The time that audio is kept counts from the upstream's last word: a session that has fallen behind gets there."""
    clock = asyncio.get_running_loop().time
    may_speak = asyncio.Event()

    async def one_word_then_away(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        await may_speak.wait()
        if call is upstream.calls[0]:
            yield call.final(name(call.audio[:3200]), 3200)
        await call.context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    upstream.script = one_word_then_away
    audio = sound(6400)
    async with run_gateway(
        upstream=f"grpc://{upstream.address}", replay_seconds=10, max_utterance_seconds=9, leg_quiet_seconds=9
    ) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio, {"type": "stop"})
            call = await upstream.called(1)
            await until(lambda: call.half_closed)
            stopped_by = clock()
            await until(lambda: clock() > stopped_by + 0.01)
            may_speak.set()
            await client.hear("warning")
            recognizer: Any = next(iter(gateway.hub.registry.lives.values()))._recognizer
            recognizer.tick(stopped_by + 10)
            upstream.script = names_samples()
            messages = await client.hear_all()
    assert [m["text"] for m in messages if m["type"] == "final"] == ["0-1599", "1600-3199"]


async def test_a_leg_that_does_not_answer_is_given_up(upstream: ScriptedUpstream) -> None:
    """It was half-closed and says nothing: another one hears the same audio, and the client knows why it waits."""

    async def silent(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        await asyncio.Event().wait()
        yield

    audio = sound(6400)
    upstream.script = silent
    async with run_gateway(upstream=f"grpc://{upstream.address}", answer_seconds=0.3) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, audio, {"type": "stop"})
            await upstream.called(1)
            upstream.script = names_samples()
            messages = await client.hear_all()
    assert [m["text"] for m in messages if m["type"] == "final"] == ["0-1599", "1600-3199"]
    (warning,) = client.heard("warning")
    assert (warning["code"], "no answer for 0.3 s" in warning["message"]) == ("upstream_retrying", True)


async def test_a_client_that_waits_for_us_makes_no_pause(upstream: ScriptedUpstream) -> None:
    """A stream takes all that may be kept and says nothing: the client may send no more, and what it was about to say
    belongs to the same utterance."""
    settings = {"replay_seconds": 10, "max_utterance_seconds": 9, "answer_seconds": 1}
    pauses = {"leg_idle_seconds": 0.2, "leg_pause_seconds": 0.2}
    audio = random.Random(1).randbytes(14 * BYTES_PER_SECOND)
    window = 10 * BYTES_PER_SECOND

    async def script(call: Call) -> AsyncIterator[Any]:
        if call is upstream.calls[0]:
            async for _ in call.hear():
                pass
            await asyncio.Event().wait()
        async for response in hears_bytes()(call):
            yield response

    upstream.script = script
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings, **pauses) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *[audio[at : at + 3200] for at in range(0, window, 3200)])
            while not (await client.hear("ack"))["final"]:
                pass
            await client.say(*[audio[at : at + 3200] for at in range(window, len(audio), 3200)], {"type": "stop"})
            messages = await client.hear_all()
    assert upstream.calls[1].audio == audio
    finals = [message for message in messages if message["type"] == "final"]
    assert [message["end_ms"] for message in finals] == list(range(1000, 14_001, 1000))
    assert (messages[-1]["audio_ms"], messages[-1]["gap_ms"]) == (14_000, 0)


async def test_a_long_utterance_without_interims_is_not_given_up(upstream: ScriptedUpstream) -> None:
    """Who asked for no interims hears nothing while somebody speaks: that is no sign of a dead stream."""

    async def speaks(call: Call) -> AsyncIterator[Any]:
        yield call.activity(2, 0)
        async for _ in call.hear():
            pass
        yield call.final("all of it", len(call.audio))

    upstream.script = speaks
    async with run_gateway(upstream=f"grpc://{upstream.address}", answer_seconds=0.3) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START | {"interim_results": False})
            for _ in range(4):  # the gateway looks at its legs as often as it acknowledges
                await client.say(sound(6400))
                await client.hear("ack")
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    assert [m["text"] for m in messages if m["type"] == "final"] == ["all of it"]
    assert messages[-1]["upstream_streams"] == 1


async def test_a_stream_that_may_be_dead_is_followed_by_another_before_an_utterance_is_cut(
    upstream: ScriptedUpstream,
) -> None:
    """Without interims a dead stream looks like a long utterance: another one hears it too, once."""

    async def dies(call: Call) -> AsyncIterator[Any]:
        yield call.activity(2, 0)
        async for _ in call.hear():
            pass
        if call is upstream.calls[0]:
            await asyncio.Event().wait()
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = dies
    audio = sound(96_000)
    async with run_gateway(upstream=f"grpc://{upstream.address}", answer_seconds=0.2, leg_quiet_seconds=1) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START | {"interim_results": False}, audio[:48_000])
            first = await upstream.called(1)
            await until(lambda: len(first.audio) == 48_000)
            await asyncio.sleep(0.3)  # it says nothing for longer than that
            await client.say(audio[48_000:], {"type": "stop"})
            messages = await client.hear_all()
    check(messages, audio)
    assert messages[-1]["upstream_streams"] == 2


async def test_a_stream_that_is_dead_while_it_catches_up_is_not_fed_to_the_end(upstream: ScriptedUpstream) -> None:
    """It takes what was kept and says nothing of it, though somebody spoke: the next one need not wait until it has all
    of it, and the utterance is not cut meanwhile."""
    audio = random.Random(1).randbytes(10 * BYTES_PER_SECOND)

    async def script(call: Call) -> AsyncIterator[Any]:
        first, second = (call in upstream.calls[:1], call in upstream.calls[1:2])
        if not second:
            yield call.activity(2, 0)
        async for _ in call.hear():
            if not second:
                yield call.interim("so far", end=len(call.audio))
            if first and len(call.audio) == len(audio):
                await call.context.abort(grpc.StatusCode.ABORTED, "Max duration of 5 minutes reached for stream.")
        yield call.final(name(call.audio), len(call.audio))

    upstream.script = script
    settings = {"upstream_speed": 4.0, "answer_seconds": 0.3, "max_utterance_seconds": 9.5, "replay_seconds": 60}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *[audio[at : at + 3200] for at in range(0, len(audio), 3200)])
            await upstream.called(3)
            assert len(upstream.calls[1].audio) < 8 * BYTES_PER_SECOND
            await client.say({"type": "stop"})
            messages = await client.hear_all()
    assert [message["end_ms"] for message in messages if message["type"] == "final"] == [10_000]
    assert upstream.calls[2].audio == audio


async def test_a_final_that_is_said_twice_counts_once(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def repeats(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        yield call.final("once", 3200)
        yield call.final("once", 3200)
        yield call.final("once", 6400)

    upstream.script = repeats
    messages = await transcribe(gateway, sound(6400))
    assert [(m["text"], m["end_ms"]) for m in messages if m["type"] == "final"] == [("once", 100), ("once", 200)]


async def test_pauses_between_words_are_found_in_every_encoding() -> None:
    from app.speech.seam import loudness

    assert loudness(b"\0\0" * 10, "LINEAR16") == 0
    assert loudness(b"\0\x80\0\0", "LINEAR16") == 32768
    assert loudness(b"\xff\x7f", "MULAW") == 0
    assert loudness(b"\x80", "MULAW") == 127
    assert loudness(b"\xd5\x55", "ALAW") == 0
    assert loudness(b"\xaa", "ALAW") == 127


def test_the_page_about_errors_is_the_table_in_the_code() -> None:
    page = (Path(__file__).parent.parent / "docs" / "upstream-errors.md").read_text()
    codes, texts = page.split("Two texts decide")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.+?) \|$", codes, re.MULTILINE))
    assert rows == {code.name: verdict.value for code, verdict in MEANING.items()}
    exceptions = re.findall(r'^\| `(\w+)` \| "(.+)" \| (.+?) \|$', texts, re.MULTILINE)
    assert exceptions == [(code.name, text, verdict.value) for (code, text), verdict in BY_TEXT.items()]
