"""GATEWAY_MAX_FRAME_BYTES: told before, kept to the byte, and named in each refusal."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway import START, Client, Gateway, run_gateway
from tests.upstream import ScriptedUpstream

LIMIT = 4096


@pytest.fixture
async def small(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_frame_bytes=LIMIT) as running:
        yield running


def padded(size: int) -> str:
    """A keepalive of so many characters."""
    text = json.dumps({"type": "keepalive"})
    return text + " " * (size - len(text))


def content(size: int) -> dict[str, Any]:
    return {"type": "audio", "content": base64.b64encode(bytes(size)).decode()}


async def test_the_limit_is_told(small: Gateway) -> None:
    async with Client.connect(small) as client:
        await client.say(START)
        assert (await client.hear("started"))["limits"]["max_frame_bytes"] == LIMIT
    assert (await small.get("/config")).json()["limits"]["max_frame_bytes"] == LIMIT


async def test_what_is_just_within_it_is_taken(small: Gateway) -> None:
    async with Client.connect(small) as client:
        await client.say(START, bytes(LIMIT), content(LIMIT), padded(2 * LIMIT), {"type": "stop"})
        assert (await client.hear("stopped"))["audio_ms"] == LIMIT * 2 / 32


@pytest.mark.parametrize(
    ("says", "named"),
    [
        (bytes(LIMIT + 1), f"{LIMIT + 1} bytes is over the limit of {LIMIT}"),
        (content(LIMIT + 1), f"{LIMIT + 1} bytes is over the limit of {LIMIT}"),
        (padded(2 * LIMIT + 1), f"{LIMIT} bytes of audio, {2 * LIMIT} of text"),
        (bytes(2 * LIMIT + 1), f"{LIMIT} bytes of audio, {2 * LIMIT} of text"),
        ([bytes(LIMIT)] * 3, f"{LIMIT} bytes of audio, {2 * LIMIT} of text"),
    ],
    ids=["audio", "base64", "text", "twice the audio", "in pieces"],
)
async def test_what_is_over_it_ends_with_1009_and_its_name(small: Gateway, says: Any, named: str) -> None:
    async with Client.connect(small) as client:
        await client.say(START)
        await client.hear("started")
        await client.say(says)
        error = (await client.hear_all())[-1]
        assert (error["code"], client.close_code) == ("frame_too_large", 1009)
        assert named in error["message"]


@pytest.mark.parametrize("size", [1024, 1_048_576])
async def test_the_smallest_and_the_largest_frame_that_can_be_set(upstream: ScriptedUpstream, size: int) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_frame_bytes=size) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, bytes(size), {"type": "stop"})
            assert (await client.hear("stopped"))["audio_ms"] == size // 32
