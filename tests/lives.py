"""Random lives of sessions, over real sockets and real gRPC, against an upstream that fails in every way that allows
another try. What was finalised must be what was said, every sample once.

A life is all in its seed; what the upstream does to it is drawn from the seed and the number of the call.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tests.gateway import START, Client, Gateway, run_gateway
from tests.test_seams import CODES, name, numbers, sound
from tests.upstream import Call, Script, ScriptedUpstream

LONGEST = 120_000
"""Bytes: samples do not repeat within."""
AT_A_TIME = 20
LIMITS: dict[str, dict[str, float]] = {
    "long legs": {},
    "short legs": {"leg_soft_limit_seconds": 0.05, "leg_hard_limit_seconds": 0.2},
    "short utterances": {"leg_soft_limit_seconds": 0.001, "max_utterance_seconds": 1, "leg_quiet_seconds": 1},
}
"""Settings of gateways, by what they make of a session."""


def upstream_of_lives() -> Script:
    """Knows a life by the phrase that its session asks for."""
    calls: Counter[str] = Counter()

    async def script(call: Call) -> AsyncIterator[Any]:
        life = call.config.streaming_config.config.adaptation.phrase_sets[0].inline_phrase_set.phrases[0].value
        calls[life] += 1
        dice = random.Random(f"{life}/{calls[life]}")
        every = dice.choice([1000, 3200, 5000, 20_000])
        fails = dice.choice([0.0, 0.0, 0.05, 0.2])
        tells = dice.random() < 0.5
        if tells:
            yield call.activity(2, 0)
        done = 0
        async for _ in call.hear():
            if dice.random() < fails:
                code = dice.choice(
                    CODES + [None] * tells
                )  # an end that nobody asked for, where it can be told from one
                if code is None:
                    return
                await call.context.abort(code, "told to fail")
            while len(call.audio) - done >= every:
                yield call.final(name(call.audio[done : done + every]), done + every)
                done += every
            if tells:
                yield call.interim("and", end=len(call.audio))
        if dice.random() < fails:
            await call.context.abort(grpc.StatusCode.UNAVAILABLE, "told to fail at the half-close")
        if len(call.audio) > done:
            yield call.final(name(call.audio[done:]), len(call.audio))
        yield call.billed(1)

    return script


async def live(gateway: Gateway, seed: int) -> dict[str, Any]:
    """One life; returns `stopped`. Raises AssertionError where a sample is missing, or stands twice."""
    dice = random.Random(seed)
    audio = sound(2 * dice.randint(2000, LONGEST // 2))
    sent = bytearray(len(audio))
    """1 for each byte that went out; what a gap has torn of a sample is nobody's."""
    async with Client.connect(gateway) as client:
        listening = asyncio.create_task(client.hear_all())
        await client.say(START | {"phrases": [{"value": f"life {seed}"}]})
        at = 0
        while at < len(audio):
            frame = audio[at : at + dice.choice([640, 641, 3200, 9999, 64_000])]
            if (at + len(frame)) % 2 == 0 and dice.random() < 0.05:
                await client.say({"type": "gap", "bytes": len(frame), "reason": "muted"})
            else:
                await client.say(frame)
                sent[at : at + len(frame)] = b"\1" * len(frame)
            at += len(frame)
            if dice.random() < 0.05:
                await client.say({"type": "finalize"})
            if dice.random() < 0.1:
                await asyncio.sleep(dice.random() * 0.05)  # legs get older, and answers come
        await client.say({"type": "stop"})
        messages = await listening
    said = [n for n in range(len(audio) // 2) if sent[2 * n] and sent[2 * n + 1]]
    _check(messages, said, f"life {seed}")
    stopped: dict[str, Any] = messages[-1]
    return stopped


async def live_all(seeds: range, limits: dict[str, float], grpc: str = "core") -> list[dict[str, Any] | AssertionError]:
    """Some lives at a time through one gateway: `stopped` of each, or what was wrong. No call is left open."""
    turn = asyncio.Semaphore(AT_A_TIME)

    async def one(gateway: Gateway, seed: int) -> dict[str, Any] | AssertionError:
        async with turn:
            try:
                return await live(gateway, seed)
            except AssertionError as wrong:
                return wrong

    async with ScriptedUpstream(upstream_of_lives()) as upstream:
        async with run_gateway(upstream=f"grpc://{upstream.address}", grpc=grpc, **limits) as gateway:
            lives = await asyncio.gather(*[one(gateway, seed) for seed in seeds])
        assert upstream.open_calls == 0
    return lives


def _check(messages: list[dict[str, Any]], said: list[int], life: str) -> None:
    assert messages[-1]["type"] == "stopped", f"{life} ended with {messages[-1]}"
    events = [message["event"] for message in messages if "event" in message]
    assert events == list(range(1, len(events) + 1)), f"{life}: events {events}"
    heard = [n for message in messages if message["type"] == "final" for n in numbers(message["text"])]
    twice = [n for n, count in Counter(heard).items() if count > 1]
    assert not twice, f"{life}: samples {twice[:5]} were heard twice"
    missing = sorted(set(said) - set(heard))
    assert not missing, f"{life}: samples {missing[:5]} are missing"
    assert heard == said, f"{life}: not what was said, or not in order"
