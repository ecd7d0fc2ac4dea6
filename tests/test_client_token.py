"""The Python client where a gateway asks who is there: with a token of its own, or one that it gets for each
connection.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.client import Audio, GatewayError, SessionConfig, Transcriber, UnreachableError
from app.core.protocol import Final
from tests.credentials import Keyring
from tests.gateway import Gateway, run_gateway
from tests.upstream import ScriptedUpstream

CONFIG = SessionConfig(audio=Audio("LINEAR16", 16_000), language_codes=["en-US"])


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


@pytest.fixture
async def asking(upstream: ScriptedUpstream, keyring: Keyring) -> AsyncIterator[Gateway]:
    settings = {"resume_window_seconds": 60.0, **keyring.settings}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway:
        yield gateway


class Backend:
    """An app's own: gets its devices a one-time token each time they ask."""

    def __init__(self, gateway: Gateway, keyring: Keyring) -> None:
        self.asked = 0
        self._url = f"{gateway.http}/tokens"
        self._headers = {"Authorization": f"Bearer {keyring.keys['app']}"}

    async def token(self) -> str:
        self.asked += 1
        async with httpx.AsyncClient() as client:
            answer = await client.post(self._url, json={"ttl_seconds": 30}, headers=self._headers)
        token: str = answer.raise_for_status().json()["token"]
        return token


async def _whole(transcriber: Transcriber) -> list[str]:
    """Two seconds of audio, between which the network changes; what was heard."""
    await transcriber.send(bytes(32_000))
    transcriber.network_changed()
    while not transcriber.resumes:
        await asyncio.sleep(0.005)
    await transcriber.send(bytes(32_000))
    await transcriber.stop()
    return [message.text async for message in transcriber.messages() if isinstance(message, Final)]


@pytest.mark.parametrize("kind", ["API key", "signed token", "one-time token"])
async def test_one_token_serves_the_session_and_its_resumes(asking: Gateway, keyring: Keyring, kind: str) -> None:
    backend = Backend(asking, keyring)
    tokens = {"API key": keyring.keys["app"], "signed token": keyring.signed()}
    token = tokens.get(kind) or await backend.token()
    async with Transcriber(asking.url, CONFIG, token=token) as transcriber:
        heard = await _whole(transcriber)
        assert heard[-1] == "32000-64000" and transcriber.resumes == 1


async def test_a_function_is_asked_for_a_token_for_each_connection(asking: Gateway, keyring: Keyring) -> None:
    backend = Backend(asking, keyring)
    async with Transcriber(asking.url, CONFIG, token=backend.token) as transcriber:
        heard = await _whole(transcriber)
        assert heard[-1] == "32000-64000" and transcriber.resumes == 1
    assert backend.asked == 2


async def test_an_expired_token_of_a_function_is_no_failure(asking: Gateway, keyring: Keyring) -> None:
    """Clocks differ, phones sleep: the next one is good."""
    tokens = iter([keyring.signed(), keyring.signed(exp=1), keyring.signed()])

    async def token() -> str:
        return next(tokens)

    async with Transcriber(asking.url, CONFIG, token=token) as transcriber:
        heard = await _whole(transcriber)
        assert heard[-1] == "32000-64000" and transcriber.resumes == 1


async def test_a_function_that_fails_is_asked_again(asking: Gateway, keyring: Keyring) -> None:
    """The app's backend is away for a moment, as networks are."""
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise OSError("no network")
        return keyring.signed()

    async with Transcriber(asking.url, CONFIG, token=token) as transcriber:
        heard = await _whole(transcriber)
        assert heard[-1] == "32000-64000" and transcriber.resumes == 1
    assert asked == 3


async def test_at_first_both_are_told(asking: Gateway, keyring: Keyring) -> None:
    async def nothing() -> str:
        raise OSError("no network")

    with pytest.raises(UnreachableError, match="there is no token: no network"):
        await Transcriber(asking.url, CONFIG, token=nothing).__aenter__()
    with pytest.raises(GatewayError, match="has expired"):
        await Transcriber(asking.url, CONFIG, token=keyring.signed(exp=1)).__aenter__()
