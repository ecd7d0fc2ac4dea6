"""Access to Google: a token is renewed once for all who need it."""

import asyncio
import datetime
import json
import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.auth.credentials import Credentials
from google.auth.transport.grpc import AuthMetadataPlugin

from app.assembly import upstream
from app.settings import Settings, SettingsError
from app.speech.credentials import OneRefresh, google_access

HOUR = datetime.timedelta(hours=1)


class Counted(Credentials):
    """Expired at first; renewing takes a while, as it does over a network."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refreshes = 0

    def refresh(self, request: Any) -> None:
        self.refreshes += 1
        time.sleep(0.1)  # in a thread of grpc's plugin
        self.token = f"token-{self.refreshes}"
        self.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + HOUR


async def test_fifty_calls_at_once_renew_an_expired_token_once() -> None:
    tokens: list[str] = []

    async def handle(request: bytes, context: Any) -> bytes:
        tokens.append(dict(context.invocation_metadata())["authorization"])
        return request

    server = grpc.aio.server()
    method: Any = grpc.unary_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Echo": method}),))
    port = server.add_secure_port("127.0.0.1:0", grpc.local_server_credentials())
    await server.start()
    counted = Counted()
    calls = grpc.metadata_call_credentials(AuthMetadataPlugin(OneRefresh(counted), None))  # type: ignore[no-untyped-call]
    access = grpc.composite_channel_credentials(grpc.local_channel_credentials(), calls)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", access) as channel:
        echo: Any = channel.unary_unary("/test/Echo")
        await asyncio.gather(*[echo(b"x") for _ in range(50)])
        assert counted.refreshes == 1
        counted.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - HOUR
        await asyncio.gather(*[echo(b"x") for _ in range(50)])
    await server.stop(None)
    assert counted.refreshes == 2
    assert tokens == ["Bearer token-1"] * 50 + ["Bearer token-2"] * 50


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    """Its key file."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    told = {
        "type": "service_account",
        "project_id": "a-project",
        "private_key_id": "one",
        "private_key": pem,
        "client_email": "captions@a-project.example",
        "token_uri": "https://nobody.invalid/token",
    }
    (file := tmp_path / "key.json").write_text(json.dumps(told))
    return file


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """Credentials of a person, whose tokens come from Google."""
    told = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    (file := tmp_path / "user.json").write_text(json.dumps(told))
    return file


@pytest.mark.filterwarnings("ignore:The load_credentials_from_file method:DeprecationWarning")
async def test_a_service_account_signs_its_tokens_itself(service_account: Path) -> None:
    """Without the network: there is nobody at its address. The same one until it expires."""
    access = google_access(service_account)
    said = dict(await access.authorization())
    claims = jwt.decode(said["authorization"].removeprefix("Bearer "), options={"verify_signature": False})
    assert claims["iss"] == claims["sub"] == "captions@a-project.example"
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert dict(await access.authorization()) == said


@pytest.mark.filterwarnings("ignore:The load_credentials_from_file method:DeprecationWarning")
def test_without_grpcs_core_other_credentials_are_refused_at_the_start(service_account: Path, user: Path) -> None:
    def settings(file: Path, over: str) -> Settings:
        return Settings(upstream="google", google_credentials_file=file, grpc=over)

    for file, over in ((service_account, "core"), (service_account, "asyncio"), (user, "core")):
        assert upstream.account(settings(file, over)) is not None
    assert upstream.account(settings(user, "auto")) is not None
    with pytest.raises(SettingsError, match="GATEWAY_GRPC=asyncio: with Google it needs a service account's key"):
        upstream.account(settings(user, "asyncio"))


@pytest.mark.filterwarnings("ignore:The load_credentials_from_file method:DeprecationWarning")
def test_grpcs_core_is_taken_where_nothing_else_can_do_it(
    service_account: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scheme in upstream.PROXIED:
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)

    def over_core(file: Path | None, grpc: str = "auto") -> bool:
        where = "grpc://127.0.0.1:1" if file is None else "google"
        settings = Settings(upstream=where, google_credentials_file=file, grpc=grpc)
        return upstream.over_core(settings, upstream.account(settings))

    assert [over_core(None), over_core(service_account), over_core(user)] == [False, False, True]
    assert [over_core(service_account, "core"), over_core(service_account, "asyncio")] == [True, False]
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert [over_core(None), over_core(service_account)] == [False, True]
