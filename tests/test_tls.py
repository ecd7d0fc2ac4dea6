"""TLS at the gateway itself: whole sessions over wss, and clients that do not get as far."""

import asyncio
import signal
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage, InvalidStatus

from tests.certificates import Authority, Pair
from tests.gateway import START, Client, Gateway, run_gateway
from tests.process import run_process
from tests.redis_server import RedisServer
from tests.test_resume import resume
from tests.test_seams import check, names_samples, sound
from tests.upstream import ScriptedUpstream


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue()


@pytest.fixture
async def gateway(upstream: ScriptedUpstream, pair: Pair) -> AsyncIterator[Gateway]:
    upstream.script = names_samples()
    more = pair.settings() | {"resume_window_seconds": 60.0, "max_sessions": 2}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **more) as running:
        yield running


async def test_a_session_goes_on_after_its_tls_connection_was_cut(gateway: Gateway, authority: Authority) -> None:
    audio = sound(64_000)
    async with Client.connect(gateway, ssl=authority.trusted()) as client:
        await client.say(START, audio[:32_000])
        session = await client.hear("started")
        while (await client.hear("ack"))["received"] < 32_000:
            pass
        await client.drop()
        heard = [m for m in client.messages if "event" in m]
    async with Client.connect(gateway, ssl=authority.trusted()) as client:
        await client.say(resume(session, heard[-1]["event"] if heard else 0))
        offset = (await client.hear("resumed"))["offset"]
        await client.say(audio[offset:], {"type": "stop"})
        await client.hear_all()
        assert client.close_code == 1000
        check(heard + [m for m in client.messages if "event" in m], audio)


async def test_rest_is_there_too_and_browsers_are_told_to_stay_with_tls(gateway: Gateway, authority: Authority) -> None:
    async with httpx.AsyncClient(verify=authority.trusted(), base_url=gateway.http) as client:
        for path in ("/", "/healthz", "/nowhere"):
            assert (await client.get(path)).headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_without_tls_nothing_is_said_of_it(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}") as plain:
        assert "Strict-Transport-Security" not in (await plain.get("/healthz")).headers


async def test_a_refused_upgrade_has_its_status_and_body(gateway: Gateway, authority: Authority) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(gateway.url.replace("/ws/transcribe", "/ws/else"), ssl=authority.trusted(), compression=None)
    assert refused.value.response.status_code == 404
    assert b"it is at /ws/transcribe" in (refused.value.response.body or b"")


@pytest.mark.parametrize(
    ("broken", "code", "close_code"),
    [(b"x" * 70_000, "frame_too_large", 1009), ("x" * 3_000_000, "frame_too_large", 1009), ("{", "bad_json", 1007)],
    ids=["audio", "text that goes on coming", "json"],
)
async def test_an_error_can_be_read_before_the_close(
    gateway: Gateway, authority: Authority, broken: str | bytes, code: str, close_code: int
) -> None:
    async with Client.connect(gateway, ssl=authority.trusted()) as client:
        await client.say(START)
        await client.hear("started")
        listening = asyncio.create_task(client.hear_all())
        await asyncio.gather(client.say(broken), return_exceptions=True)
        assert (await listening)[-1]["code"] == code
        assert client.close_code == close_code


@pytest.mark.parametrize(
    ("said", "status"),
    [(b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000, b"431"), (b"nonsense\r\n\r\n" + bytes(300_000), b"400")],
    ids=["a head without an end", "no request"],
)
async def test_a_refused_request_is_answered_while_it_still_comes(
    gateway: Gateway, authority: Authority, said: bytes, status: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=authority.trusted())
    writer.write(said)
    assert (await reader.read()).startswith(b"HTTP/1.1 " + status)
    writer.close()


# Who does not get as far ----------------------------------------------------------------------------------


async def _is_left(gateway: Gateway, first: bytes) -> None:
    """Who says this is closed, and not answered in plaintext."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(first)
    try:
        assert b"HTTP" not in await reader.read()
    except ConnectionResetError:
        pass
    finally:
        writer.close()


@pytest.mark.parametrize(
    "first",
    [b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", bytes(5000), b"\x16\x03\x01\xff\xff" + bytes(70_000)],
    ids=["http", "zeros", "half a hello"],
)
async def test_who_speaks_no_tls_is_left_and_disturbs_nobody(
    gateway: Gateway, authority: Authority, caplog: pytest.LogCaptureFixture, first: bytes
) -> None:
    async with Client.connect(gateway, ssl=authority.trusted()) as client:
        await client.say(START)
        await client.hear("started")
        await asyncio.gather(*[_is_left(gateway, first) for _ in range(20)])
        await client.say(sound(3200), {"type": "stop"})
        await client.hear("stopped")
    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


async def test_a_client_without_tls_is_told_that_nobody_understands_it(gateway: Gateway) -> None:
    with pytest.raises((InvalidMessage, ConnectionResetError)):
        await connect(f"ws://127.0.0.1:{gateway.port}/ws/transcribe", compression=None)


def _only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # else this machine's OpenSSL would not even try the old ones
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_from_1_2_on_is_taken(gateway: Gateway, authority: Authority, version: ssl.TLSVersion) -> None:
    async with Client.connect(gateway, ssl=_only(authority.trusted(), version)) as client:
        await client.say(START)
        await client.hear("started")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_older_tls_is_refused(
    gateway: Gateway, authority: Authority, pair: Pair, version: ssl.TLSVersion
) -> None:
    client, old_server = _only(authority.trusted(), version), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old_server.load_cert_chain(pair.certificate, pair.key)
    async with await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", ssl=_only(old_server, version)) as old:
        _, writer = await asyncio.open_connection(*old.sockets[0].getsockname(), ssl=client)
        writer.close()
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await connect(gateway.url, ssl=client, compression=None)


async def test_a_client_that_does_not_know_the_authority_goes_away(gateway: Gateway, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect(gateway.url, ssl=Authority(tmp_path).trusted(), compression=None)


# A process ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _raw(port: int) -> AsyncIterator[socket.socket]:
    """A connection that has said nothing yet."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setblocking(False)
        yield connection


async def test_a_handshake_that_is_never_finished_is_given_up(
    tmp_path: Path, upstream: ScriptedUpstream, authority: Authority, pair: Pair
) -> None:
    loop = asyncio.get_running_loop()
    settings = {"upstream": f"grpc://{upstream.address}", "tls_handshake_seconds": 0.5} | pair.settings()
    async with run_process(tmp_path, **settings) as process:
        gateway = Gateway((await process.gateway()).port, hub=None, tls=True)  # type: ignore[arg-type]
        async with Client.connect(gateway, ssl=authority.trusted()) as client:
            await client.say(START)
            await client.hear("started")
            async with _raw(gateway.port) as silent, _raw(gateway.port) as slow:
                await loop.sock_sendall(slow, b"\x16\x03\x01\x02\x00\x01")
                for connection in (silent, slow):
                    assert await loop.sock_recv(connection, 1) == b""
            await client.say({"type": "stop"})
            await client.hear("stopped")
        assert "Traceback" not in process.log


async def test_the_greeting_names_the_addresses_with_tls(
    tmp_path: Path, upstream: ScriptedUpstream, pair: Pair
) -> None:
    async with run_process(tmp_path, upstream=f"grpc://{upstream.address}", **pair.settings()) as process:
        assert process.child.stdout is not None
        lines = [(await process.child.stdout.readline()).decode() for _ in range(3)]
        assert [word for line in lines for word in line.split() if "://127" in word and "grpc" not in word] == [
            f"{scheme}://127.0.0.1:{lines[1].rstrip().rpartition(':')[2]}{path}"
            for scheme, path in (("https", ""), ("https", ""), ("wss", "/ws/transcribe"))
        ]


async def _shown(gateway: Gateway) -> str:
    """The certificate that the gateway shows, as PEM."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=_trusting())
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return ssl.DER_cert_to_PEM_cert(shown)


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.mark.timeout(200)
async def test_workers_take_a_renewed_certificate_at_sighup(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, authority: Authority
) -> None:
    pair = authority.issue()
    common: dict[str, Any] = {"upstream": f"grpc://{upstream.address}", "store": redis.url, "workers": 2}
    async with run_process(tmp_path, **common, **pair.settings()) as process:
        gateway = Gateway((await process.gateway()).port, hub=None, tls=True)  # type: ignore[arg-type]
        await _a_session(gateway, authority)
        old = await _shown(gateway)
        authority.write(pair)
        process.child.send_signal(signal.SIGHUP)
        while await _shown(gateway) == old:
            await asyncio.sleep(0.05)
        await _a_session(gateway, authority)


@pytest.mark.timeout(200)
async def test_workers_serve_on_where_the_renewed_certificate_is_broken(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, authority: Authority
) -> None:
    pair = authority.issue()
    common: dict[str, Any] = {"upstream": f"grpc://{upstream.address}", "store": redis.url, "workers": 2}
    async with run_process(tmp_path, **common, **pair.settings()) as process:
        gateway = Gateway((await process.gateway()).port, hub=None, tls=True)  # type: ignore[arg-type]
        await _a_session(gateway, authority)
        pair.certificate.write_text("half of it")
        process.child.send_signal(signal.SIGHUP)
        while "aborting the restart" not in process.log:
            await asyncio.sleep(0.05)
        assert f"there is no certificate in PEM in '{pair.certificate}'" in process.log
        assert "Traceback" not in process.log
        await _a_session(gateway, authority)


async def _a_session(gateway: Gateway, authority: Authority) -> None:
    """Where a worker drains, the client comes again, as it is asked to."""
    while True:
        try:
            async with Client.connect(gateway, ssl=authority.trusted(), open_timeout=None) as client:
                await client.say(START, {"type": "stop"})
                await client.hear("stopped")
                return
        except InvalidStatus:
            await asyncio.sleep(0.05)


async def test_uvicorns_own_command_does_not_serve_in_plaintext_who_asked_for_tls(tmp_path: Path, pair: Pair) -> None:
    command = ["uvicorn", "--factory", "app.asgi:create", "--port", "0", "--log-level", "warning"]
    async with run_process(tmp_path, *command, upstream="grpc://127.0.0.1:1", **pair.settings()) as process:
        assert await process.ends() == 3
        assert process.log == (
            "captions gateway: uvicorn's own command takes --ssl-certfile and --ssl-keyfile, not GATEWAY_TLS_*\n"
        )
