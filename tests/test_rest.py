"""The REST routes, and how a WebSocket is admitted or refused at the upgrade."""

import asyncio
import inspect
import json
import re
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from app import drain, hub
from app.api import docs, http, ws
from app.core.protocol import MAX_FRAME_BYTES
from app.main import create_app
from app.settings import Settings
from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.process import run_process
from tests.upstream import BYTES_PER_SECOND, ScriptedUpstream, refuses

SECOND = b"\1\2" * (BYTES_PER_SECOND // 2)
PYTHON = Path(sys.executable).name
"""What a thread is called that Python starts, as ours would be."""


# Alive, ready ---------------------------------------------------------------------------------------------


async def test_healthz_answers_as_long_as_the_loop_turns() -> None:
    """With no upstream at all."""
    async with run_gateway(upstream="grpc://127.0.0.1:1") as gateway:
        answer = await gateway.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_readyz_says_yes_and_counts_sessions(gateway: Gateway) -> None:
    async with Client.connect(gateway) as client:
        await client.say(START)
        await client.hear("started")
        answer = await gateway.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reason": "ok", "sessions": 1})


async def test_readyz_names_an_upstream_that_does_not_answer(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream="grpc://127.0.0.1:1") as gateway:
        answer = await gateway.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "ready": False,
        "reason": "upstream: Speech-to-Text does not answer",
        "sessions": 0,
    }


async def test_readyz_says_that_the_upstream_fails_and_when_it_is_tried_again(upstream: ScriptedUpstream) -> None:
    """The breaker that all sessions share; once its time is over a session may try, so the gateway is ready for one."""
    upstream.script = refuses(grpc.StatusCode.UNAVAILABLE, "down")
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway, AsyncExitStack() as clients:
        for _ in range(25):
            client = await clients.enter_async_context(Client.connect(gateway))
            await client.say(START, bytes(3200))
        while (answer := await gateway.get("/readyz")).status_code != 503:
            pass
    reason = answer.json()["reason"]
    assert re.fullmatch(r"upstream: Speech-to-Text fails: \d+ failures in a row, the next try in \d\.\d s", reason)


async def test_readyz_is_for_room_that_is_left(upstream: ScriptedUpstream) -> None:
    """A socket takes a place before it says `start`; its end gives the place back."""
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_sessions=2) as gateway:
        async with Client.connect(gateway) as client, Client.connect(gateway):
            await client.say(START)
            await client.hear("started")
            answer = await gateway.get("/readyz")
            assert answer.status_code == 503
            assert answer.json() == {"ready": False, "reason": "full: 2 of 2 places are taken", "sessions": 1}
        while (await gateway.get("/readyz")).status_code == 503:
            pass


async def test_readyz_and_the_upgrade_refuse_while_shutting_down(gateway: Gateway) -> None:
    """A load balancer sends nobody any more, and who comes is told when to come again."""
    async with Client.connect(gateway) as client:
        await client.say(START)
        await client.hear("started")
        await drain.close(gateway.hub.registry)
        messages = await client.hear_all()
        assert (messages[-1]["code"], client.close_code) == ("restarting", 1012)
    answer = await gateway.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reason": "draining: the gateway is shutting down", "sessions": 0}
    refusal = await refused(gateway)
    assert (refusal.status_code, told(refusal)["code"]) == (503, "restarting")
    assert (await gateway.get("/healthz")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
async def test_head_answers_as_get_without_a_body(gateway: Gateway, path: str) -> None:
    """What many a load balancer and monitor asks with."""
    async with httpx.AsyncClient() as client:
        head = await client.head(gateway.http + path)
    get = await gateway.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for answer in (head, get):
        answer.headers.pop("date")
    assert head.headers == get.headers


# What it says of itself -----------------------------------------------------------------------------------


async def test_config_agrees_with_the_settings(upstream: ScriptedUpstream) -> None:
    """Every limit and timer that a client meets."""
    chosen = {
        "upstream": f"grpc://{upstream.address}",
        "speech_api": "v1",
        "model": "phone_call",
        "language_codes": "de-DE,en-US",
        "max_sessions": 7,
        "replay_seconds": 61,
        "max_session_seconds": 1001,
        "start_timeout_seconds": 11,
        "idle_timeout_seconds": 62,
        "send_timeout_seconds": 12,
        "ping_interval_seconds": 13,
        "ping_timeout_seconds": 14,
    }
    async with run_gateway(**chosen) as gateway:
        config = (await gateway.get("/config")).json()
        messages = await transcribe(gateway)
    assert (config["protocol"], config["speech_api"], config["upstream"]) == ("stt.v1", "v1", "grpc")
    assert config["model"] == "phone_call"
    assert "latest_long" in config["models"]
    assert config["language_codes"] == ["de-DE", "en-US"]
    assert config["encodings"] == ["LINEAR16", "MULAW", "ALAW"]
    assert [type(config["limits"][name]) for name in ("max_frame_bytes", "max_sessions")] == [int, int]
    assert config["sample_rate_hertz"] == {"min": 8000, "max": 48000}
    assert config["limits"] == {
        "max_frame_bytes": MAX_FRAME_BYTES,
        "max_sessions": 7,
        "window_seconds": 61,
        "max_session_seconds": 1001,
    }
    assert {name: config["timers"][name] for name in chosen if name in config["timers"]} == {
        name: value for name, value in chosen.items() if name.endswith("_seconds") and name in config["timers"]
    }
    assert len(config["timers"]) >= 5
    limits = messages[0]["limits"]
    assert limits["max_frame_bytes"] == config["limits"]["max_frame_bytes"]
    assert limits["window_bytes"] == 61 * BYTES_PER_SECOND
    assert limits["idle_timeout_ms"] == 62_000
    assert limits["max_session_ms"] == 1_001_000


async def test_config_holds_no_secret(upstream: ScriptedUpstream, tmp_path: Any) -> None:
    """Neither where the upstream is, nor whose project it is, nor where its key lies."""
    key = tmp_path / "key-of-the-operator.json"
    key.write_text("{}")
    async with run_gateway(
        upstream=f"grpc://{upstream.address}",
        google_project="project-of-the-operator",
        google_credentials_file=key,
        trusted_proxies="192.0.2.7",
    ) as gateway:
        text = (await gateway.get("/config")).text
    for secret in (upstream.address, "of-the-operator", "192.0.2.7"):
        assert secret not in text


async def test_the_api_describes_itself(gateway: Gateway) -> None:
    """/docs for people, /openapi.json for machines: with every route a client may call, and what it answers."""
    page = await gateway.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    described = (await gateway.get("/openapi.json")).json()
    assert {"/healthz", "/readyz", "/config"} <= set(described["paths"])
    assert set(described["paths"]["/readyz"]["get"]["responses"]) == {"200", "503"}


async def test_the_api_tells_its_refusals(gateway: Gateway) -> None:
    """Those of each route that asks for a credential, all of one shape; and none that there is not."""
    described = (await gateway.get("/openapi.json")).json()
    for path in ("/tokens", "/sessions/{session_id}/transcript", "/metrics"):
        (operation,) = described["paths"][path].values()
        assert {"401", "403", "429", "503"} <= set(operation["responses"]), path
        assert "422" not in operation["responses"]
        assert operation["security"] == [{"HTTPBearer": []}]
        refusal = operation["responses"]["401"]["content"]["application/json"]["schema"]
        assert refusal == {"$ref": "#/components/schemas/Refused"}
    assert {"code", "message", "retryable"} <= set(described["components"]["schemas"]["Error"]["properties"])


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/web/../main.py", 404), ("POST", "/healthz", 405)]
)
async def test_an_http_error_has_the_shape_of_the_protocols_error(
    gateway: Gateway, method: str, path: str, status: int
) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.request(method, gateway.http + path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert (error["code"], error["retryable"]) == (f"http_{status}", False)
    assert error["message"]


# The upgrade ----------------------------------------------------------------------------------------------


async def refused(gateway: Gateway, path: str = "/ws/transcribe", **more: Any) -> Any:
    """The HTTP response to an upgrade that is refused."""
    with pytest.raises(InvalidStatus) as raised:
        await connect(gateway.http.replace("http", "ws") + path, **more)
    return raised.value.response


def told(response: Any) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    body = json.loads(response.body)
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    return error


async def test_a_full_gateway_refuses_with_a_status_and_a_time_to_come_again(upstream: ScriptedUpstream) -> None:
    """503, Retry-After, and the same words as an `error` message."""
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_sessions=1) as gateway:
        async with Client.connect(gateway), Client.connect(gateway):
            response = await refused(gateway)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        assert told(response) == {
            "type": "error",
            "code": "overloaded",
            "message": "1 of 1 places are taken",
            "retryable": True,
            "retry_after_ms": 5000,
        }


async def test_a_browser_that_cannot_read_a_status_is_told_and_closed(upstream: ScriptedUpstream) -> None:
    """With the code that stands for the status."""
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_sessions=1) as gateway:
        async with Client.connect(gateway), Client.connect(gateway):
            async with Client.connect(
                gateway, origin=Origin(gateway.http), subprotocols=[Subprotocol("stt.v1")]
            ) as browser:
                messages = await browser.hear_all()
                assert browser.close_code == 1013
                assert browser.socket.subprotocol == "stt.v1"
        assert [message["type"] for message in messages] == ["error"]
        assert (messages[0]["code"], messages[0]["retry_after_ms"]) == ("overloaded", 5000)


async def test_who_says_nothing_makes_room_for_who_comes(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest silent first; who has begun stays."""
    monkeypatch.setattr(hub, "SILENT_SECONDS", 0.0)
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_sessions=2) as gateway:
        async with Client.connect(gateway) as speaker, Client.connect(gateway) as silent, Client.connect(gateway):
            await speaker.say(START)
            await speaker.hear("started")
            async with Client.connect(gateway) as newcomer:
                error = (await silent.hear_all())[-1]
                assert (error["code"], silent.close_code) == ("overloaded", 1013)
                assert "has said nothing for the longest time" in error["message"]
                await newcomer.say(START)
                await newcomer.hear("started")
                await speaker.say({"type": "stop"})
                await speaker.hear("stopped")


async def test_of_many_that_come_at_once_as_many_as_fit_are_admitted(upstream: ScriptedUpstream) -> None:
    """A hundred into ten places: ninety are refused, one of them when it says `start`, and the places are free again
    afterwards."""
    async with run_gateway(upstream=f"grpc://{upstream.address}", max_sessions=10) as gateway:
        async with AsyncExitStack() as stack:
            results = await asyncio.gather(
                *[stack.enter_async_context(Client.connect(gateway)) for _ in range(100)], return_exceptions=True
            )
            inside = [result for result in results if isinstance(result, Client)]
            assert len(inside) == 11
            assert sum(isinstance(result, InvalidStatus) for result in results) == 89
            for client in inside:
                await client.say(START)
            assert Counter([(await client.hear_one())["type"] for client in inside]) == {"started": 10, "error": 1}
        while gateway.hub.full:
            await asyncio.sleep(0.005)
        assert (await transcribe(gateway, SECOND))[-1]["type"] == "stopped"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [([], None), (["stt.v1"], "stt.v1"), (["other", "stt.v1", "bearer.abc"], "stt.v1"), (["stt.v2"], None)],
    ids=["none", "ours", "ours among others", "another"],
)
async def test_the_subprotocol_is_echoed_where_it_was_offered(
    gateway: Gateway, offered: list[str], chosen: str | None
) -> None:
    """And a token beside it never is."""
    names = [Subprotocol(name) for name in offered]
    async with Client.connect(gateway, subprotocols=names or None) as client:
        assert client.socket.subprotocol == chosen
        await client.say(START)
        await client.hear("started")


async def test_a_websocket_at_another_path_is_not_found(gateway: Gateway) -> None:
    """As a plain request would be: 404 and why."""
    response = await refused(gateway, "/ws/nothing")
    assert response.status_code == 404
    assert told(response)["code"] == "http_404"


# No threads -----------------------------------------------------------------------------------------------


def test_every_route_is_a_coroutine() -> None:
    """A plain function would run in a thread pool."""
    app = create_app(Settings(upstream="grpc://127.0.0.1:1"))
    routes = [route for router in (app.router, http.router, docs.router) for route in router.routes]
    endpoints = {route.path: route.endpoint for route in routes if isinstance(route, Route | WebSocketRoute)}
    assert {"/", "/healthz", "/readyz", "/config", "/ws/transcribe", "/docs", "/openapi.json"} <= set(endpoints)
    for path, endpoint in endpoints.items():
        called = endpoint.__call__ if isinstance(endpoint, ws.Endpoint) else endpoint
        assert inspect.iscoroutinefunction(called), path


CORE_THREADS = {"event_engine", "grpc_global_tim", "lifeguard"}
"""The names that grpc's core gives to its own."""


@pytest.mark.parametrize(
    ("grpc", "others", "pythons"),
    [
        pytest.param("core", CORE_THREADS, 2, id="core"),  # the main thread, and the poller of grpc.aio
        pytest.param("asyncio", set(), 1, id="asyncio"),
    ],
)
async def test_no_request_starts_a_thread(
    upstream: ScriptedUpstream, tmp_path: Path, grpc: str, others: set[str], pythons: int
) -> None:
    """Forty sessions, every REST route and a refused upgrade: the threads stay the ones of a single session."""
    settings = {"upstream": f"grpc://{upstream.address}", "max_sessions": 40, "grpc": grpc}
    async with run_process(tmp_path, **settings) as process:
        gateway = await process.gateway()
        async with AsyncExitStack() as stack:

            async def begin() -> None:
                client = await stack.enter_async_context(Client.connect(gateway))
                await client.say(START, SECOND)
                await client.hear("final")

            await begin()
            await gateway.get("/readyz")
            one = threads(process.pid)
            await asyncio.gather(*[begin() for _ in range(39)])
            for path in ("/", "/healthz", "/readyz", "/config", "/docs", "/openapi.json", "/sample.wav", "/nothing"):
                await gateway.get(path)
            for _ in range(4):
                await stack.enter_async_context(Client.connect(gateway))
            await refused(gateway)
            forty = threads(process.pid)
    assert forty == one
    assert set(one) == others | {PYTHON}
    assert one[PYTHON] == pythons


def threads(pid: int) -> Counter[str]:
    """How many threads a process has of each name, Python's and everybody's."""
    return Counter(path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm"))
