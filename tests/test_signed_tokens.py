"""Keys of signed tokens behind a URL: fetched when they are needed, renewed when a new one is named, kept while nobody
answers. The server that has them is a real one.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.auth import jwks_url
from app.auth.jwks import KeyFile
from app.auth.jwks_url import AGAIN_SECONDS, MAX_BYTES, OLD_SECONDS, KeyUrl
from app.auth.signed import SignedTokens
from app.auth.watched import FileError
from app.core.errors import SessionError
from tests.credentials import AUDIENCE, Keyring


class KeyServer:
    """What it answers can be changed at any time."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.status = 200
        self.asked = 0
        self.url = ""
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await self.may_answer.wait()
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(self.answer)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + self.answer)
        await writer.drain()
        writer.close()


class Stage:
    """Signed tokens whose keys are behind a URL; `now` passes as told."""

    def __init__(self, keyring: Keyring, server: KeyServer, client: httpx.AsyncClient) -> None:
        self.keyring = keyring
        self.server = server
        self.now = 1000.0
        keys = KeyUrl(server.url, client, lambda: self.now)
        self._tokens = SignedTokens(secret=None, keys=keys, audience=AUDIENCE, issuer="https://id.example")

    async def check(self, key_id: str = "r") -> str:
        """How a token with this key's name fares: its principal, or the code of the refusal."""
        try:
            token = self.keyring.signed("RS256", key_id=key_id, iss="https://id.example")
            return (await self._tokens.check(token)).principal
        except SessionError as error:
            return error.code

    def rename(self, key_id: str) -> None:
        """The signer has a new key."""
        key = json.loads(self.keyring.jwks.read_bytes())["keys"][0] | {"kid": key_id}
        self.server.answer = json.dumps({"keys": [key]}).encode()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    keyring = Keyring(tmp_path)
    server = KeyServer(keyring.jwks.read_bytes())
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/keys"
    async with listening, httpx.AsyncClient() as client:
        yield Stage(keyring, server, client)


async def test_keys_are_fetched_once_for_all_who_wait(stage: Stage) -> None:
    assert set(await asyncio.gather(*[stage.check() for _ in range(20)])) == {"user:somebody"}
    assert stage.server.asked == 1


async def test_a_new_key_is_known_as_soon_as_it_is_used(stage: Stage) -> None:
    assert await stage.check("r") == "user:somebody"
    stage.rename("new")
    stage.now += AGAIN_SECONDS
    assert await stage.check("new") == "user:somebody"
    assert await stage.check("r") == "unauthenticated", "it was taken away"


async def test_names_that_are_made_up_are_not_one_fetch_each(stage: Stage) -> None:
    await stage.check()
    for name in range(50):
        assert await stage.check(f"made up {name}") == "unauthenticated"
    assert stage.server.asked == 1


async def test_a_key_that_was_taken_away_is_forgotten_in_time(stage: Stage) -> None:
    await stage.check()
    stage.rename("new")
    stage.now += OLD_SECONDS
    assert await stage.check("r") == "unauthenticated"


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"keys": [1]}', b"x" * (MAX_BYTES + 1)])
async def test_what_is_no_set_of_keys_takes_none_away(
    stage: Stage, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.check()
    stage.server.answer = answer
    stage.now += OLD_SECONDS
    assert await stage.check() == "user:somebody"
    assert "could not be fetched" in caplog.text


async def test_without_any_keys_the_client_is_to_come_again(stage: Stage) -> None:
    stage.server.status = 503
    assert await stage.check() == "overloaded"
    stage.server.status = 200
    stage.now += AGAIN_SECONDS
    assert await stage.check() == "user:somebody"


async def test_nobody_waits_for_long_whose_key_is_known(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the URL hangs. With its answer, however late, the new keys are there."""
    await stage.check()
    monkeypatch.setattr(jwks_url, "KNOWN_SECONDS", 0.0)
    stage.server.may_answer.clear()
    stage.rename("new")
    stage.now += OLD_SECONDS
    assert await stage.check("r") == "user:somebody"
    stage.server.may_answer.set()
    assert await stage.check("new") == "user:somebody"
    assert await stage.check("r") == "unauthenticated"
    assert stage.server.asked == 2


async def test_a_token_of_another_issuer_is_refused(stage: Stage) -> None:
    token = stage.keyring.signed("RS256", iss="https://other.example")
    with pytest.raises(SessionError, match=r"(?i)issuer"):
        await stage._tokens.check(token)


async def test_a_file_of_keys_is_read_anew(tmp_path: Path) -> None:
    path = Keyring(tmp_path).jwks
    keys = KeyFile(path)
    assert await keys.key("r") is not None
    assert await keys.key(None) is None, "there are two: which one is not said"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps({"keys": content["keys"][1:]}))
    assert await keys.key("r") is None
    assert await keys.key(None) is not None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"keys": []}'])
def test_a_file_that_is_no_set_of_keys_is_told_by_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(content)
    with pytest.raises(FileError, match=r"jwks\.json: this is no JSON Web Key Set"):
        KeyFile(path)
