"""Paths, targets and Host headers that want to be something else: each has its exact status, and nobody is sent on."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.gateway import Gateway, run_gateway
from tests.raw import HOST, UPGRADE, Peer, ask, get

pytestmark = pytest.mark.asyncio(loop_scope="module")

TARGETS = [
    (b"/healthz", 200, 404),
    (b"/healthz?x=1", 200, 404),
    (b"/healthz/", 404, 404),
    (b"//healthz", 404, 404),
    (b"/./healthz", 404, 404),
    (b"/HEALTHZ", 404, 404),
    (b"/healthz;x=1", 404, 404),
    (b"/ws/transcribe", 404, 101),
    (b"/ws/transcribe?token=x", 404, 101),
    (b"/ws/transcribe/", 404, 404),
    (b"//ws/transcribe", 404, 404),
    (b"/ws//transcribe", 404, 404),
    (b"/ws/%2e%2e/metrics", 404, 404),
    (b"/ws/../metrics", 404, 404),
    (b"/ws/transcribe/../../metrics", 404, 404),
    (b"/ws%2ftranscribe", 404, 101),
    (b"/web/../settings.py", 404, 404),
    (b"/web/%2e%2e/settings.py", 404, 404),
    (b"/web/%2E%2E%2Fsettings.py", 404, 404),
    (b"/web/..%2fsettings.py", 404, 404),
    (b"/web/..%5csettings.py", 404, 404),
    (b"/web/..\\settings.py", 404, 404),
    (b"/web/%252e%252e%252fsettings.py", 404, 404),
    (b"/web/%c0%ae%c0%ae/settings.py", 404, 404),
    (b"/web//etc/passwd", 404, 404),
    (b"/web/%2fetc%2fpasswd", 404, 404),
    (b"/web/client.js%00.html", 404, 404),
    (b"/web/client.js/", 404, 404),
    (b"/web", 404, 404),
    (b"/%0d%0aSet-Cookie:%20x", 404, 403),
    (b"/%ff%fe", 404, 404),
    (b"//evil.example/%2f..", 404, 404),
    (b"//", 404, 404),
    (b"*", 404, 403),
    (b"http://gateway/healthz", 200, 404),
    (b"http://evil.example:99/healthz?x=1", 200, 404),
    (b"http://evil.example/ws/transcribe", 404, 101),
    (b"http://evil.example", 400, 404),
    (b"healthz", 400, 400),
    (b"/\xff", 400, 400),
    (b"/a b", 400, 400),
    (b"/" + b"x" * 20_000, 431, 431),
]
"""Target, status of a GET, status of an upgrade to a WebSocket. A whole URL is a target too (RFC 9112, 3.2.2)."""

HEADS = [
    (b"Host: gateway", 200),
    (b"Host: evil.example:99", 200),
    (b"Host: [::1]:8000", 200),
    (b"Host:", 200),
    (b"X-Host: gateway", 400),
    (b"Host: a\r\nHost: b", 400),
    (b"Host: a b", 400),
    (b"Host: a/../b", 400),
    (b"Host: user@evil.example", 400),
    (b"Host: gateway:99999999", 400),
    (b"Host: <script>", 400),
    (b"Host: \xff", 400),
    (b"Host: gateway\r\n folded: x", 400),
    (b"Host: gateway\r\nBad Name: x", 400),
    (b"Host: gateway\r\nX: a\0b", 400),
    (b"Host: gateway\r\nX: a\x01b", 400),
    (b"Host: gateway\nX: y", 400),
    (b"Host: gateway\rX: y", 400),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bare() -> AsyncIterator[Gateway]:
    """With no upstream."""
    async with run_gateway(upstream="grpc://127.0.0.1:1") as running:
        yield running


@pytest.mark.parametrize(("target", "status", "upgrade"), TARGETS, ids=lambda value: repr(value)[:40])
async def test_a_target_has_its_status_and_leads_nowhere_else(
    bare: Gateway, target: bytes, status: int, upgrade: int
) -> None:
    plain, websocket = await ask(bare, get(target)), await ask(bare, get(target, UPGRADE))
    assert (plain.status, websocket.status) == (status, upgrade)
    assert "location" not in plain.headers | websocket.headers
    if status >= 400:
        assert plain.error["message"]
    if upgrade >= 400:
        assert websocket.error["message"]


@pytest.mark.parametrize(("head", "status"), HEADS, ids=lambda value: repr(value)[:40])
async def test_a_host_that_is_none_is_answered_400(bare: Gateway, head: bytes, status: int) -> None:
    """And what would smuggle in another header is no header."""
    upgrade = UPGRADE.replace(HOST, head + b"\r\n")
    answers = await ask(bare, get(headers=head + b"\r\n")), await ask(bare, get(b"/ws/transcribe", upgrade))
    assert [answer.status for answer in answers] == [status, 101 if status == 200 else status]


@pytest.mark.parametrize(
    ("version", "status"),
    [(b"HTTP/1.0", 200), (b"HTTP/0.9", 505), (b"HTTP/2.0", 505), (b"HTTP/9.9", 400), (b"", 400), (b"http/1.1", 400)],
)
async def test_only_http_1_is_spoken(bare: Gateway, version: bytes, status: int) -> None:
    assert (await ask(bare, b"GET /healthz " + version + b"\r\n" + HOST + b"\r\n")).status == status


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"])
@pytest.mark.parametrize("headers", [HOST, UPGRADE])
async def test_another_method_is_answered_405(bare: Gateway, method: bytes, headers: bytes) -> None:
    path = b"/healthz" if headers == HOST else b"/ws/transcribe"
    assert (await ask(bare, method + b" " + path + b" HTTP/1.1\r\n" + headers + b"\r\n")).status == 405


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (UPGRADE.replace(b"13", b"8"), 400),
        (UPGRADE.replace(b"dGhl", b"!"), 400),
        (UPGRADE.replace(b"websocket", b"h2c"), 404),
        (UPGRADE.replace(b"Connection: Upgrade", b"Connection: close"), 404),
        (UPGRADE + b"Origin: a\r\nOrigin: b\r\n", 400),
        (UPGRADE + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 400),
        (UPGRADE + b"Content-Length: 5\r\n", 400),
        (UPGRADE + b"".join(b"X-%d: x\r\n" % number for number in range(200)), 431),
    ],
    ids=["version", "key", "h2c", "no upgrade", "two origins", "two keys", "a body", "200 headers"],
)
async def test_a_handshake_that_is_none_is_refused(bare: Gateway, asked: bytes, status: int) -> None:
    answer = await ask(bare, get(b"/ws/transcribe", asked))
    assert answer.status == status
    assert answer.error["message"]


@pytest.mark.parametrize("offered", [b"permessage-deflate", b"permessage-deflate; client_max_window_bits", b";;;"])
async def test_no_extension_is_agreed_to(bare: Gateway, offered: bytes) -> None:
    """A compressed frame all the same ends the connection with 1002, unread: a bomb has no way in."""
    async with Peer.connect(bare) as peer:
        peer.writer.write(get(b"/ws/transcribe", UPGRADE + b"Sec-WebSocket-Extensions: " + offered + b"\r\n"))
        answer = await peer.answer()
        assert answer.status == 101
        assert "sec-websocket-extensions" not in answer.headers
        peer.writer.write(b"\xc2\xfe\x80\x00" + bytes(4 + 0x8000))
        assert b"\x03\xea" in await peer.reader.read()
