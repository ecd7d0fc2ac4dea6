"""The Python client and the command over wss: an authority of one's own, and what is told when TLS fails."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.gateway import Gateway, run_gateway
from tests.test_cli import transcribe, wav
from tests.upstream import ScriptedUpstream


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def gateway(upstream: ScriptedUpstream, authority: Authority) -> AsyncIterator[Gateway]:
    async with run_gateway(upstream=f"grpc://{upstream.address}", **authority.issue().settings()) as running:
        yield running


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    wav(path, 1)
    return path


async def test_ssl_cert_file_names_an_authority_of_ones_own(
    recording: Path, gateway: Gateway, authority: Authority
) -> None:
    command = (recording, "--fast", "--url", gateway.url)
    code, out, err = await transcribe(*command, SSL_CERT_FILE=str(authority.ca))
    assert (code, err) == (0, "")
    assert out == "0-16000\n"


async def test_without_it_the_user_is_told_what_to_do(recording: Path, gateway: Gateway) -> None:
    code, out, err = await transcribe(recording, "--url", gateway.url)
    assert (code, out) == (1, "")
    assert err == (
        f"transcribe: cannot reach {gateway.url}: its certificate is not trusted: unable to get local issuer "
        "certificate: an authority of your own is named by SSL_CERT_FILE=ca.pem\n"
    )


async def test_a_certificate_for_another_name_is_not_trusted(
    recording: Path, upstream: ScriptedUpstream, authority: Authority
) -> None:
    pair = authority.issue("captions.example")
    async with run_gateway(upstream=f"grpc://{upstream.address}", **pair.settings()) as gateway:
        _, _, err = await transcribe(recording, "--url", gateway.url, SSL_CERT_FILE=str(authority.ca))
    assert "not trusted: IP address mismatch, certificate is not valid for '127.0.0.1': " in err


async def test_wss_where_there_is_no_tls_is_told(recording: Path, upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
        url = f"wss://127.0.0.1:{gateway.port}/ws/transcribe"
        _, _, err = await transcribe(recording, "--url", url)
    assert err == (
        f"transcribe: cannot reach {url}: it speaks no TLS that we understand (WRONG_VERSION_NUMBER): "
        "without TLS it is --url ws://...\n"
    )
