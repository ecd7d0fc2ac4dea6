"""Several worker processes on one socket, and what signals do: `GATEWAY_WORKERS`, or uvicorn's own command."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway import START, Client, Gateway
from tests.process import Process, all_end, run_process, watch
from tests.redis_server import RedisServer
from tests.test_gateways import begin, go_on
from tests.test_resume import resume
from tests.test_seams import check, names_samples, sound, until
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.timeout(120)


@asynccontextmanager
async def workers(
    folder: Path, upstream: ScriptedUpstream, redis: RedisServer, **settings: Any
) -> AsyncIterator[tuple[Process, Gateway]]:
    """Two of them, that both serve."""
    upstream.script = names_samples()
    common = {"upstream": f"grpc://{upstream.address}", "store": redis.url, "workers": 2, "upstream_speed": 1000}
    async with run_process(folder, **(common | settings)) as process:
        gateway = await process.gateway()
        await two_serve(process, gateway)
        yield process, gateway


async def two_serve(process: Process, gateway: Gateway) -> None:
    """Opens sessions until each process has had one: several at a time, else the same one may get them all."""
    while len(serving(process)) < 2:
        await asyncio.gather(*[a_session(gateway) for _ in range(10)])


async def a_session(gateway: Gateway) -> None:
    async with Client.connect(gateway, open_timeout=None) as client:  # the socket is there before the workers
        await client.say(START, {"type": "stop"})
        await client.hear_all()


def serving(process: Process) -> set[str]:
    """Process ids that have opened a session, by their log lines."""
    return set(re.findall(r"\[(\d+)\] app\.hub: session \S+ opened", process.log))


async def test_a_session_goes_on_though_the_worker_that_held_it_is_killed(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    audio = sound(64_000)
    async with workers(tmp_path, upstream, redis) as (process, gateway):
        async with Client.connect(gateway) as client:
            await client.say(START, audio[:32_000])
            session = await client.hear("started")
            while (await client.hear("ack"))["received"] < 32_000:
                pass
            found = re.search(rf"\[(\d+)\] app\.hub: session {session['session_id']} opened", process.log)
            assert found
            os.kill(int(found[1]), signal.SIGKILL)
            await client.hear_all()
            heard = [m for m in client.messages if "event" in m]
        check(await go_on(gateway, session, heard, audio), audio)


async def test_whichever_worker_gets_the_connection_goes_on(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    audio = sound(64_000)
    async with workers(tmp_path, upstream, redis) as (_, gateway):
        for _ in range(8):
            session, heard = await begin(gateway, audio[:20_000])
            check(await go_on(gateway, session, heard, audio), audio)


async def test_sigterm_drains_every_worker(tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer) -> None:
    async with workers(tmp_path, upstream, redis, drain_seconds=6) as (process, gateway):
        async with Client.connect(gateway) as client:
            await client.say(START, sound(3200))
            await client.hear("final")
            process.child.terminate()
            assert (await client.hear("go_away"))["reason"] == "drain"
            assert (await client.hear_all())[-1]["code"] == "restarting"
            assert client.close_code == 1012
        await process.ends()
        assert "Traceback" not in process.log


async def test_workers_end_when_who_started_them_is_killed(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    async with workers(tmp_path, upstream, redis) as (process, _):
        watched = watch(process.descendants())
        process.child.kill()
        assert await all_end(watched)


async def test_workers_without_a_shared_store_are_refused_at_the_start(tmp_path: Path) -> None:
    async with run_process(tmp_path, workers=2, upstream="grpc://127.0.0.1:1") as process:
        assert await process.ends() == 2
        assert process.log == (
            "captions gateway: several workers need a store that they share: GATEWAY_STORE=redis://HOST:PORT/N, "
            "not memory://\n"
        )


def uvicorn_command(port: int, count: int) -> list[str]:
    web_socket = "app.api.websocket:GatewayWebSocket"
    return [
        *["uvicorn", "--factory", "app.asgi:create"],
        *["--http", "app.api.door:DoorProtocol", "--ws", web_socket],
        *["--port", str(port), "--workers", str(count), "--log-level", "warning"],
    ]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


async def serves(gateway: Gateway) -> bool:
    try:
        return (await gateway.get("/healthz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_uvicorns_own_command_works_the_same_way(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, port: int
) -> None:
    upstream.script = names_samples()
    settings = {"upstream": f"grpc://{upstream.address}", "store": redis.url, "drain_seconds": 6}
    audio = sound(64_000)
    async with run_process(tmp_path, *uvicorn_command(port, 2), **settings) as process:
        gateway = Gateway(port, hub=None)  # type: ignore[arg-type]
        while not await serves(gateway):
            await asyncio.sleep(0.05)
        await two_serve(process, gateway)
        session, heard = await begin(gateway, audio[:20_000])
        check(await go_on(gateway, session, heard, audio), audio)
        async with Client.connect(gateway) as client:
            await client.say(START)
            await client.hear("started")
            process.child.terminate()
            assert (await client.hear("go_away"))["reason"] == "drain"
            await client.drop()
        await process.ends()


async def test_uvicorns_workers_without_a_shared_store_are_refused_too(tmp_path: Path, port: int) -> None:
    async with run_process(tmp_path, *uvicorn_command(port, 2), upstream="grpc://127.0.0.1:1") as process:
        assert await process.ends() == 0, "uvicorn's, whatever its workers end with"
        assert "several workers need a store that they share" in process.log
        assert "Traceback" not in process.log


async def test_uvicorn_without_our_websocket_class_says_what_is_missing(
    tmp_path: Path, upstream: ScriptedUpstream, port: int
) -> None:
    command = ["uvicorn", "--factory", "app.asgi:create", "--port", str(port), "--log-level", "warning"]
    async with run_process(tmp_path, *command, upstream=f"grpc://{upstream.address}") as _:
        gateway = Gateway(port, hub=None)  # type: ignore[arg-type]
        while not await serves(gateway):
            await asyncio.sleep(0.05)
        async with Client.connect(gateway, origin="http://127.0.0.1") as client:
            error = await client.hear("error")
        assert (error["code"], client.close_code) == ("internal", 1011)
        assert "--ws app.api.websocket:GatewayWebSocket" in error["message"]


# Signals --------------------------------------------------------------------------------------------------


async def test_while_it_drains_new_connections_are_refused_with_503(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    upstream.script = names_samples()
    settings = {"upstream": f"grpc://{upstream.address}", "store": redis.url, "drain_seconds": 25}
    async with run_process(tmp_path, **settings) as process:
        gateway = await process.gateway()
        async with Client.connect(gateway) as client:
            await client.say(START)
            session = await client.hear("started")
            process.child.terminate()
            await client.hear("go_away")
            ready = await gateway.get("/readyz")
            assert (ready.status_code, ready.json()["reason"]) == (503, "draining: the gateway is shutting down")
            with pytest.raises(Exception, match="HTTP 503"):
                async with Client.connect(gateway) as late:
                    await late.say(resume(session))
            process.child.terminate()  # a second signal: no peace any more
            assert (await client.hear_all())[-1]["code"] == "restarting"
        await process.ends()


async def test_a_gateway_that_serves_nobody_ends_at_once(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with run_process(tmp_path, upstream=f"grpc://{upstream.address}", drain_seconds=300) as process:
        await process.gateway()
        process.child.terminate()
        await process.ends()
    await until(lambda: upstream.open_calls == 0)


async def test_a_signal_to_the_whole_group_drains_too(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    """Ctrl-C, or systemd: a worker gets it twice, since its supervisor passes it on."""
    async with workers(tmp_path, upstream, redis, drain_seconds=6) as (process, gateway):
        async with Client.connect(gateway) as client:
            await client.say(START, sound(3200))
            await client.hear("final")
            os.killpg(process.pid, signal.SIGTERM)
            messages = await client.hear_all()
            assert (messages[-1]["code"], client.close_code) == ("restarting", 1012)
        await process.ends()
