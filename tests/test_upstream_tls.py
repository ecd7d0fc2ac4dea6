"""A Speech-to-Text elsewhere, with TLS: who is believed, who is shown a certificate, what is told when that fails."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.certificates import Authority, Pair
from tests.emulator_client import port_of, start_server
from tests.gateway import START, Client, run_gateway, transcribe
from tests.process import run_process
from tests.test_seams import check, names_samples, sound
from tests.upstream import ScriptedUpstream


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(params=["core", "asyncio"])
def channel(request: pytest.FixtureRequest) -> str:
    """Both believe the same, and say so in words of their own."""
    return str(request.param)


def shows(pair: Pair, *, asks: Authority | None = None) -> ScriptedUpstream:
    """An upstream with this certificate, that asks its clients for one of `asks`."""
    ours = [(pair.key.read_bytes(), pair.certificate.read_bytes())]
    credentials = grpc.ssl_server_credentials(ours, asks.ca.read_bytes() if asks else None, asks is not None)
    return ScriptedUpstream(names_samples(), credentials=credentials)


async def _session_goes_well(upstream: ScriptedUpstream, **settings: Any) -> None:
    audio = sound(32_000)
    async with run_gateway(upstream=f"grpcs://{upstream.address}", **settings) as gateway:
        assert (await gateway.get("/readyz")).json()["ready"]
        check([m for m in await transcribe(gateway, audio) if "event" in m], audio)


async def _why_not(upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture, **settings: Any) -> str:
    """What the log says of an upstream that no session gets to."""
    async with run_gateway(upstream=f"grpcs://{upstream.address}", **settings) as gateway:
        ready = await gateway.get("/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "upstream: Speech-to-Text does not answer")
        async with Client.connect(gateway) as client:
            await client.say(START, sound(3200))
            assert (await client.hear("warning"))["code"] == "upstream_retrying"
        assert upstream.calls == []
    (said,) = [record.getMessage() for record in caplog.records if record.name == "app.assembly.upstream"]
    begin = f"the upstream, grpcs://{upstream.address}, does not answer: "
    assert said.startswith(begin)
    return said.removeprefix(begin)


async def test_an_upstream_of_the_authority_that_is_trusted_is_heard(authority: Authority, channel: str) -> None:
    async with shows(authority.issue()) as upstream:
        await _session_goes_well(upstream, upstream_ca_file=authority.ca, grpc=channel)


async def test_another_authority_is_not_believed(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture, channel: str
) -> None:
    async with shows(authority.issue()) as upstream:
        said = await _why_not(upstream, caplog, grpc=channel, upstream_ca_file=stranger.ca)
        assert "CERTIFICATE_VERIFY_FAILED" in said and "unable to get local issuer certificate" in said


async def test_by_default_only_public_authorities_are_believed(
    authority: Authority, caplog: pytest.LogCaptureFixture, channel: str
) -> None:
    async with shows(authority.issue()) as upstream:
        assert "CERTIFICATE_VERIFY_FAILED" in await _why_not(upstream, caplog, grpc=channel)


async def test_a_certificate_for_another_name_is_not_believed(
    authority: Authority, caplog: pytest.LogCaptureFixture, channel: str
) -> None:
    async with shows(authority.issue("elsewhere.example")) as upstream:
        said = await _why_not(upstream, caplog, grpc=channel, upstream_ca_file=authority.ca)
        assert {"core": "Hostname Verification", "asyncio": "IP address mismatch"}[channel] in said


async def test_an_upstream_in_plaintext_gets_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture, channel: str
) -> None:
    async with ScriptedUpstream() as upstream:
        assert "WRONG_VERSION_NUMBER" in await _why_not(upstream, caplog, grpc=channel, upstream_ca_file=authority.ca)


async def test_the_gateway_shows_its_own_certificate_where_it_is_asked_for_one(
    authority: Authority, channel: str
) -> None:
    async with shows(authority.issue(), asks=authority) as upstream:
        more = authority.issue("gateway").settings("upstream")
        await _session_goes_well(upstream, upstream_ca_file=authority.ca, grpc=channel, **more)


@pytest.mark.parametrize("whose", ["nobody's", "a stranger's"])
async def test_without_a_certificate_that_the_upstream_knows_it_is_not_heard(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture, channel: str, whose: str
) -> None:
    """gRPC tells the client no more than that the connection was closed."""
    more = {} if whose == "nobody's" else stranger.issue("gateway").settings("upstream")
    async with shows(authority.issue(), asks=authority) as upstream:
        assert await _why_not(upstream, caplog, grpc=channel, upstream_ca_file=authority.ca, **more)


# The emulator's own server --------------------------------------------------------------------------------


async def test_the_emulator_serves_with_tls_who_shows_a_certificate(authority: Authority) -> None:
    pytest.importorskip("onnxruntime")
    pair = authority.issue()
    options = ["--tls-certificate", pair.certificate, "--tls-key", pair.key, "--client-ca", authority.ca]
    own = authority.issue("gateway").settings("upstream")
    with ExitStack() as stack:
        server = stack.enter_context(start_server("--workers", "1", *map(str, options)))
        address = f"grpcs://127.0.0.1:{port_of(server)}"
        async with run_gateway(upstream=address, upstream_ca_file=authority.ca, **own) as gateway:
            assert (await gateway.get("/readyz")).json()["ready"]
            assert (await transcribe(gateway, bytes(32_000)))[-1]["type"] == "stopped"
        async with run_gateway(upstream=address, upstream_ca_file=authority.ca) as gateway:
            assert not (await gateway.get("/readyz")).json()["ready"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-key", "KEY"], "--tls-certificate and --tls-key go together"),
        (["--client-ca", "CA"], "--client-ca is for both of them"),
        (["--tls-certificate", "CERTIFICATE", "--tls-key", "OTHER"], "does not fit the certificate"),
        (["--tls-certificate", "CERTIFICATE", "--tls-key", "/nonexistent"], "'/nonexistent': No such file"),
        (["--tls-certificate", "CERTIFICATE", "--tls-key", "KEY", "--client-ca", "KEY"], "there is no certificate"),
        (["--tls-certificate", "CERTIFICATE", "--tls-key", "KEY", "--connection-faults"], "need plaintext"),
    ],
)
async def test_the_emulator_tells_what_is_wrong(
    tmp_path: Path, authority: Authority, options: list[str], said: str
) -> None:
    pair, other = authority.issue(), authority.issue()
    files = {"CERTIFICATE": pair.certificate, "KEY": pair.key, "OTHER": other.key, "CA": authority.ca}
    command = ["app.emulator", *(str(files.get(word, word)) for word in options)]
    async with run_process(tmp_path, *command) as process:
        assert await process.ends() == 2
        assert said in process.log.splitlines()[-1]
