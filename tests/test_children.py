"""Processes that are started while gRPC is at work: each of them gets to run its own program."""

import asyncio
from typing import Any

import grpc

from tests.upstream import ScriptedUpstream

METHOD = "/google.cloud.speech.v2.Speech/StreamingRecognize"
CHILDREN = 150
"""Every fiftieth did not."""


async def _call(address: str) -> None:
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call: Any = channel.stream_stream(METHOD)()
        await call.write(b"")
        await call.done_writing()
        assert [response async for response in call]


async def test_no_child_dies_before_it_runs_its_own_program(upstream: ScriptedUpstream) -> None:
    over = asyncio.Event()

    async def calls() -> None:
        while not over.is_set():
            await _call(upstream.address)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(calls())
        codes = []
        for _ in range(CHILDREN):
            child = await asyncio.create_subprocess_exec("/bin/true")
            codes.append(await child.wait())
        over.set()
    assert codes == [0] * CHILDREN
