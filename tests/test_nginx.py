"""nginx in front, as deploy/nginx has it for operators: a real one, in plaintext and with TLS."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.api.limits import ConnectionLimits
from app.api.server import listen, uvicorn_config
from tests.certificates import Authority
from tests.gateway import START, Client, Gateway, run_gateway
from tests.nginx import DEPLOYED, Nginx, nginx
from tests.redis_server import free_port
from tests.test_resume import resume
from tests.test_seams import check, names_samples, sound
from tests.upstream import ScriptedUpstream

LIMITS = ConnectionLimits(
    request_seconds=10, head_bytes=8192, body_bytes=8192, waiting=10, frame_bytes=8192, messages_per_second=10
)
CLIENT = "127.0.0.2"
"""Another address than nginx', whose word is believed."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    upstream.script = names_samples()
    more = {"resume_window_seconds": 60.0, "max_sessions": 1}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **more) as running:
        yield running


@pytest.fixture
def front(gateway: Gateway, authority: Authority) -> Iterator[Nginx]:
    """With TLS, before the gateway."""
    with nginx("gateway-tls.conf", gateway.port, authority.issue()) as running:
        yield running


def behind(front: Nginx) -> Gateway:
    return Gateway(front.port, hub=None, tls=True)  # type: ignore[arg-type]


async def test_a_session_over_wss_goes_on_after_its_connection_was_cut(front: Nginx, authority: Authority) -> None:
    audio = sound(64_000)
    async with Client.connect(behind(front), ssl=authority.trusted()) as client:
        await client.say(START, audio[:32_000])
        session = await client.hear("started")
        while (await client.hear("ack"))["received"] < 32_000:
            pass
        await client.drop()
        heard = [m for m in client.messages if "event" in m]
    async with Client.connect(behind(front), ssl=authority.trusted()) as client:
        await client.say(resume(session, heard[-1]["event"] if heard else 0))
        await client.say(audio[(await client.hear("resumed"))["offset"] :], {"type": "stop"})
        await client.hear_all()
        assert client.close_code == 1000
        check(heard + [m for m in client.messages if "event" in m], audio)


async def test_in_plaintext_it_serves_too(gateway: Gateway) -> None:
    with nginx("gateway.conf", gateway.port) as front:
        async with Client.connect(Gateway(front.port, hub=None)) as client:  # type: ignore[arg-type]
            await client.say(START, sound(3200), {"type": "stop"})
            await client.hear("stopped")


async def test_an_error_and_its_close_code_pass_through(front: Nginx, authority: Authority) -> None:
    async with Client.connect(behind(front), ssl=authority.trusted()) as client:
        await client.say(START, "x" * 200_000)
        assert (await client.hear_all())[-1]["code"] == "frame_too_large"
        assert client.close_code == 1009


async def test_a_refused_upgrade_passes_with_status_header_and_body(front: Nginx, authority: Authority) -> None:
    async with AsyncExitStack() as stack:

        async def fill() -> None:
            while True:
                await stack.enter_async_context(Client.connect(behind(front), ssl=authority.trusted()))

        with pytest.raises(InvalidStatus) as refused:
            await fill()
    response = refused.value.response
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert json.loads(response.body or b"")["error"]["retryable"] is True


async def test_browsers_are_told_to_stay_with_tls(front: Nginx, authority: Authority) -> None:
    async with httpx.AsyncClient(verify=authority.trusted(), base_url=behind(front).http) as client:
        for path in ("/", "/nowhere"):
            assert (await client.get(path)).headers.get_list("Strict-Transport-Security") == ["max-age=31536000"]


async def test_in_plaintext_browsers_are_sent_on_and_apps_are_refused(front: Nginx) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.plain_port}") as client:
        page = await client.get("/docs?a=b")
        assert (page.status_code, page.headers["Location"]) == (308, "https://127.0.0.1/docs?a=b")
    with pytest.raises(InvalidStatus, match="HTTP 403"):
        await connect(f"ws://127.0.0.1:{front.plain_port}/ws/transcribe", compression=None)


async def test_only_tls_from_1_2_on_is_spoken(front: Nginx, authority: Authority) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = authority.trusted()
        context.minimum_version = context.maximum_version = version
        async with httpx.AsyncClient(verify=context) as client:
            assert (await client.get(f"{behind(front).http}/healthz")).status_code == 200
    assert "ssl_protocols TLSv1.2 TLSv1.3;" in (DEPLOYED / "gateway-tls.conf").read_text()


async def test_no_query_string_is_logged_whether_the_gateway_is_there_or_not(
    front: Nginx, authority: Authority
) -> None:
    secret = "?token=hunter2"
    with nginx("gateway-tls.conf", free_port(), authority.issue()) as alone:
        for there in (front, alone):
            async with httpx.AsyncClient(verify=authority.trusted()) as client:
                await client.get(f"{behind(there).http}/healthz{secret}", headers={"Referer": f"http://h/{secret}"})
            with suppress(InvalidStatus):
                async with connect(behind(there).url + secret, ssl=authority.trusted(), compression=None):
                    pass
            logged = there.log.read_text()
            assert '"GET /healthz"' in logged and '"GET /ws/transcribe"' in logged
            assert "hunter2" not in logged


# Who is asking, and by which address ------------------------------------------------------------------------


async def _tells(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with what its server says of the request."""
    if scope["type"] == "lifespan":
        scope["state"]["limits"] = LIMITS
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    seen = {"client": scope["client"][0], "scheme": scope["scheme"], "headers": headers}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})


@asynccontextmanager
async def _telling() -> AsyncIterator[int]:
    """The gateway's own server, which believes its proxy at 127.0.0.1, around that application."""
    application: Any = _tells
    config = uvicorn_config(application, ping_interval=10, ping_timeout=10, trusted_proxies="127.0.0.1")
    server, listener = uvicorn.Server(config), listen("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        listener.close()


async def _seen(url: str, authority: Authority, **headers: str) -> dict[str, Any]:
    """By a client at CLIENT."""
    transport = httpx.AsyncHTTPTransport(local_address=CLIENT, verify=authority.trusted())
    async with httpx.AsyncClient(transport=transport) as client:
        seen: dict[str, Any] = (await client.get(url, headers=headers)).json()
        return seen


FORGED = {"X-Forwarded-For": "6.6.6.6, 127.0.0.1", "X-Forwarded-Proto": "http"}


@pytest.mark.parametrize("claims", [{}, FORGED], ids=["says nothing", "forges"])
async def test_the_gateway_sees_the_clients_own_address_whatever_it_claims(
    authority: Authority, claims: dict[str, str]
) -> None:
    async with _telling() as port:
        with nginx("gateway-tls.conf", port, authority.issue()) as front:
            seen = await _seen(f"https://127.0.0.1:{front.port}/", authority, **claims)
    assert (seen["client"], seen["scheme"]) == (CLIENT, "https")
    assert seen["headers"]["x-forwarded-for"] == CLIENT
    assert seen["headers"]["host"] == f"127.0.0.1:{front.port}", "with its port, as a browser's Origin has it"


async def test_who_comes_past_the_proxy_is_not_believed(authority: Authority) -> None:
    async with _telling() as port:
        seen = await _seen(f"http://127.0.0.1:{port}/", authority, **FORGED | {"X-Forwarded-Proto": "https"})
    assert (seen["client"], seen["scheme"]) == (CLIENT, "http")
