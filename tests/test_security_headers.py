"""Every HTTP response says how a browser must treat it, whoever wrote it: a route, an error, or what is below both."""

import re

import httpx
import pytest

from app.api.headers import SECURITY_HEADERS
from app.api.http import CSP
from app.main import create_app
from app.settings import Settings
from tests.gateway import Gateway, run_gateway
from tests.raw import HOST, UPGRADE, Answer, Peer, ask, get
from tests.upstream import ScriptedUpstream

SAYS = [
    get(),
    get(b"/readyz"),
    get(b"/config"),
    get(b"/metrics"),
    get(b"/openapi.json"),
    get(b"/sample.wav"),
    get(b"/nothing"),
    get(b"/sessions/nobody/transcript"),
    get(b"/sessions/nobody/transcript?after=x"),
    b"POST /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    b"hello\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    get(b"/" + b"x" * 20_000),
    b"POST /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 999999\r\n\r\n",
    get(b"/ws/nothing", UPGRADE),
    get(b"*", UPGRADE),
    get(b"/ws/transcribe", UPGRADE.replace(b"13", b"8")),
    get(b"/ws/transcribe", UPGRADE + b"X: " + b"x" * 9_000 + b"\r\n"),
    get(b"/ws/transcribe", UPGRADE + b"Content-Length: 5\r\n"),
]


def check(answer: Answer, policy: str = SECURITY_HEADERS["content-security-policy"]) -> None:
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS | {
        "content-security-policy": policy
    }
    assert "server" not in answer.headers


@pytest.mark.parametrize("says", SAYS, ids=lambda says: repr(says[:60]))
async def test_whatever_is_asked_the_answer_is_safe(gateway: Gateway, says: bytes) -> None:
    check(await ask(gateway, says))


async def test_who_is_refused_is_safe_too(upstream: ScriptedUpstream) -> None:
    """For want of a place, or of time."""
    address = f"grpc://{upstream.address}"
    async with run_gateway(upstream=address, max_sessions=1, request_timeout_seconds=0.5) as gateway:
        async with Peer.connect(gateway) as first, Peer.connect(gateway) as second, Peer.connect(gateway) as slow:
            for peer in (first, second):
                peer.writer.write(get(b"/ws/transcribe", UPGRADE))
                assert (await peer.answer()).status == 101
            answer = await ask(gateway, get(b"/ws/transcribe", UPGRADE))
            assert answer.status == 503
            check(answer)
            answer = await slow.answer()
            assert answer.status == 408
            check(answer)


async def test_a_failure_of_our_own_is_safe_too() -> None:
    """It is outside of what FastAPI's own middleware would see."""

    def fails() -> bytes:
        raise ZeroDivisionError

    app = create_app(Settings(upstream="grpc://127.0.0.1:1"))
    app.state.metrics_page = fails
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 500
    assert SECURITY_HEADERS.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("path", [b"/", b"/web/client.js", b"/web/page.css"])
async def test_the_page_has_a_policy_of_its_own(gateway: Gateway, path: bytes) -> None:
    answer = await ask(gateway, get(path))
    assert answer.status == 200
    check(answer, CSP)


async def test_the_description_may_load_what_it_names_and_nothing_else(gateway: Gateway) -> None:
    """Its one inline script by its hash; every address in it is of the host that is allowed."""
    answer = await ask(gateway, get(b"/docs"))
    policy, html = answer.headers["content-security-policy"], answer.body.decode()
    check(answer, policy)
    assert policy.startswith("default-src 'none'; script-src https://cdn.jsdelivr.net 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy.split("style-src")[0]
    assert {match.split("/")[2] for match in re.findall(r'(?:src|href)="(https?://[^"]+)"', html)} == {
        "cdn.jsdelivr.net"
    }
