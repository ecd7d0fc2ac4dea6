"""Every door x every state: who comes in, and with which status or close code the others are told."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.credentials import SECRET, Keyring, ec_key, rsa_key
from tests.gateway import START, Client, Gateway, run_gateway
from tests.upstream import ScriptedUpstream

DOORS: dict[str, Callable[[str], dict[str, Any]]] = {
    "header": lambda token: {"additional_headers": {"Authorization": f"Bearer {token}"}},
    "subprotocol": lambda token: {"subprotocols": [Subprotocol("stt.v1"), Subprotocol(f"bearer.{token}")]},
}
"""Those for every kind of credential; one-time tokens may stand in the URL besides."""


@dataclass
class Stage:
    gateway: Gateway
    keyring: Keyring

    async def minted(self, key: str = "app", **wish: Any) -> str:
        """A one-time token, made as an app's backend does it."""
        answer = await self.post("/tokens", self.keyring.keys[key], wish)
        assert answer.status_code == 201, answer.text
        token: str = answer.json()["token"]
        return token

    async def post(self, path: str, token: str | None, body: Any) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.post(self.gateway.http + path, json=body, headers=_bearer(token))

    async def get(self, path: str, token: str | None) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(self.gateway.http + path, headers=_bearer(token))

    @asynccontextmanager
    async def come(self, door: str, token: str) -> AsyncIterator[Client]:
        """Through one of the doors."""
        if door == "url":
            async with connect(f"{self.gateway.url}?token={token}", compression=None) as socket:
                yield Client(socket)
        else:
            async with Client.connect(self.gateway, **DOORS[door](token)) as client:
                yield client

    async def refusal(self, door: str, token: str) -> tuple[int, str]:
        """Status and code of a refused upgrade."""
        with pytest.raises(InvalidStatus) as caught:
            async with self.come(door, token):
                pass
        response = caught.value.response
        assert response.body is not None
        return response.status_code, json.loads(response.body)["error"]["code"]


@pytest.fixture
async def stage(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[Stage]:
    keyring = Keyring(tmp_path)
    settings = {"resume_window_seconds": 60.0, **keyring.settings}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway:
        yield Stage(gateway, keyring)


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


async def _speak(client: Client) -> dict[str, Any]:
    """A whole session; what it was opened with."""
    await client.say(START)
    started = await client.hear("started")
    await client.say(bytes(32_000), {"type": "stop"})
    await client.hear("stopped")
    return started


# Those who come in ------------------------------------------------------------------------------

VALID: dict[str, Callable[[Keyring], str]] = {
    "API key": lambda ring: ring.keys["app"],
    "signed, HS256": lambda ring: ring.signed(),
    "signed, RS256": lambda ring: ring.signed("RS256"),
    "signed, ES256": lambda ring: ring.signed("ES256"),
    "signed, several audiences": lambda ring: ring.signed(aud=["others", "captions"]),
    "signed, expired within what clocks differ by": lambda ring: ring.signed(exp=int(time.time()) - 2),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", VALID)
async def test_a_good_credential_opens_a_session(stage: Stage, kind: str, door: str) -> None:
    async with stage.come(door, VALID[kind](stage.keyring)) as client:
        await _speak(client)
        assert client.socket.subprotocol == ("stt.v1" if door == "subprotocol" else None)


@pytest.mark.parametrize("door", [*DOORS, "url"])
async def test_a_one_time_token_opens_one_session_and_may_come_back_to_it(stage: Stage, door: str) -> None:
    token = await stage.minted()
    async with stage.come(door, token) as client:
        await client.say(START)
        started = await client.hear("started")
        await client.drop()
    resume = {"type": "resume", "session_id": started["session_id"], "resume_token": started["resume_token"]}
    async with stage.come(door, token) as again:
        await again.say(resume | {"last_event": 0})
        await again.hear("resumed")
        await again.say({"type": "stop"})
        await again.hear("stopped")


# Those who do not -------------------------------------------------------------------------------


def _tampered(token: str) -> str:
    """Somebody else's name under the same signature."""
    head, claims, signature = token.split(".")
    return f"{head}.{_part(base64.urlsafe_b64decode(claims + '==').replace(b'somebody', b'everybody'))}.{signature}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _confused(ring: Keyring) -> str:
    """HS256 with what everybody knows: the text of the public keys (the classic confusion of algorithms)."""
    claims = {"sub": "root", "aud": "captions", "exp": int(time.time()) + 60}
    parts = [_part(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "r"}, claims)]
    signed = ".".join(parts)
    return f"{signed}.{_part(hmac.digest(ring.jwks.read_bytes(), signed.encode(), hashlib.sha256))}"


REFUSED: dict[str, tuple[Callable[[Keyring], str], str]] = {
    "API key, unknown": (lambda _: "cgk_" + "A" * 43, "unauthenticated"),
    "API key, cut off": (lambda ring: ring.keys["app"][:-1], "unauthenticated"),
    "API key, longer": (lambda ring: ring.keys["app"] + "A", "unauthenticated"),
    "API key, without its beginning": (lambda ring: ring.keys["app"][4:], "unauthenticated"),
    "signed, expired": (lambda ring: ring.signed(exp=int(time.time()) - 60), "token_expired"),
    "signed, not yet good": (lambda ring: ring.signed(nbf=int(time.time()) + 60), "unauthenticated"),
    "signed, for ever": (lambda ring: ring.signed(exp=None), "unauthenticated"),
    "signed, wrong signature": (lambda ring: _tampered(ring.signed()), "unauthenticated"),
    "signed, another secret": (lambda ring: ring.signed(key="x" * 32), "unauthenticated"),
    "signed, another RSA key": (
        lambda ring: ring.signed("RS256", key=rsa_key("another")),
        "unauthenticated",
    ),
    "signed, another EC key": (
        lambda ring: ring.signed("ES256", key=ec_key("another")),
        "unauthenticated",
    ),
    "signed, a key that is not in the set": (lambda ring: ring.signed("RS256", key_id="new"), "unauthenticated"),
    "signed, the other kind of key": (lambda ring: ring.signed("RS256", key_id="e"), "unauthenticated"),
    "signed, the public key taken for a secret": (_confused, "unauthenticated"),
    "signed, by nobody": (lambda ring: ring.signed("none", key=""), "unauthenticated"),
    "signed, HS512": (lambda ring: ring.signed("HS512", key=SECRET * 2), "unauthenticated"),
    "signed, wrong audience": (lambda ring: ring.signed(aud="others"), "unauthenticated"),
    "signed, no audience": (lambda ring: ring.signed(aud=None), "unauthenticated"),
    "signed, no subject": (lambda ring: ring.signed(sub=None), "unauthenticated"),
    "signed, a subject with a line break": (lambda ring: ring.signed(sub="a\nb"), "unauthenticated"),
    "signed, a subject that ends in one": (lambda ring: ring.signed(sub="a\n"), "unauthenticated"),
    "signed, a bound that is none": (lambda ring: ring.signed(max_session_seconds=-1), "unauthenticated"),
    "one-time, unknown": (lambda _: "cgt_" + "A" * 43, "unauthenticated"),
    "neither": (lambda _: "password", "unauthenticated"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", REFUSED)
async def test_a_bad_credential_is_refused_at_the_upgrade(stage: Stage, kind: str, door: str) -> None:
    make, code = REFUSED[kind]
    assert await stage.refusal(door, make(stage.keyring)) == (401, code)


async def test_without_a_credential_nobody_comes_in(stage: Stage) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with Client.connect(stage.gateway):
            pass
    response = caught.value.response
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert b"a credential is missing" in (response.body or b"")


@pytest.mark.parametrize("scheme", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "Token x", ""])
async def test_an_authorization_of_another_form_is_refused(stage: Stage, scheme: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with Client.connect(stage.gateway, additional_headers={"Authorization": scheme}):
            pass
    assert caught.value.response.status_code == 401


async def test_two_credentials_are_one_too_many(stage: Stage) -> None:
    key = stage.keyring.keys["app"]
    with pytest.raises(InvalidStatus) as caught:
        async with Client.connect(stage.gateway, **(DOORS["header"](key) | DOORS["subprotocol"](key))):
            pass
    assert b"2 credentials were presented" in (caught.value.response.body or b"")


@pytest.mark.parametrize("kind", ["API key", "signed, HS256"])
async def test_what_lasts_may_not_stand_in_a_url(stage: Stage, kind: str) -> None:
    """Proxies write URLs down."""
    assert await stage.refusal("url", VALID[kind](stage.keyring)) == (401, "unauthenticated")


@pytest.mark.parametrize("door", [*DOORS, "url"])
async def test_a_one_time_token_that_was_used_opens_no_second_session(stage: Stage, door: str) -> None:
    token = await stage.minted()
    async with stage.come(door, token) as client:
        await _speak(client)
    async with stage.come(door, token) as again:
        await again.say(START)
        error = (await again.hear_all())[0]
        assert error["code"] == "unauthenticated" and "has opened a session already" in error["message"]
        assert again.close_code == 4401


@pytest.mark.parametrize("door", [*DOORS, "url"])
async def test_an_expired_one_time_token_is_told_as_such(
    upstream: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    keyring, clock, passed = Keyring(tmp_path), time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: clock() + passed[0])
    async with run_gateway(upstream=f"grpc://{upstream.address}", **keyring.settings) as gateway:
        stage = Stage(gateway, keyring)
        token = await stage.minted(ttl_seconds=60)
        async with stage.come(door, token) as slow:
            passed[0] = 60.0
            assert await stage.refusal(door, token) == (401, "token_expired")
            await slow.say(START)
            assert (await slow.hear_all())[-1]["code"] == "token_expired"


@pytest.mark.parametrize("door", DOORS)
async def test_a_key_that_was_taken_away_is_dead_at_once_and_so_are_its_tokens(stage: Stage, door: str) -> None:
    key, token = stage.keyring.keys["app"], await stage.minted()
    stage.keyring.revoke("app")
    assert await stage.refusal(door, key) == (401, "unauthenticated")
    assert await stage.refusal(door, token) == (401, "unauthenticated")
    async with stage.come(door, stage.keyring.keys["other"]) as other:
        await _speak(other)


async def test_a_broken_file_of_keys_changes_nothing(stage: Stage) -> None:
    stage.keyring.file.write_text("[[keys]]\nname = ")
    async with stage.come("header", stage.keyring.keys["app"]) as client:
        await _speak(client)


# Somebody else's session ------------------------------------------------------------------------

OTHERS: dict[str, Callable[[Stage], Any]] = {
    "another API key": lambda stage: stage.keyring.keys["other"],
    "a signed token": lambda stage: stage.keyring.signed(),
    "a signed token whose subject is the key's name": lambda stage: stage.keyring.signed(sub="app"),
    "a one-time token of another key": lambda stage: stage.minted("other"),
}


@pytest.mark.parametrize("who", OTHERS)
async def test_somebody_elses_session_is_unknown_whatever_is_known_of_it(stage: Stage, who: str) -> None:
    """Also with its resume token: and the session goes on undisturbed."""
    token = OTHERS[who](stage)
    token = token if isinstance(token, str) else await token
    async with stage.come("header", stage.keyring.keys["app"]) as owner:
        await owner.say(START)
        started = await owner.hear("started")
        resume = {"type": "resume", "session_id": started["session_id"], "resume_token": started["resume_token"]}
        async with stage.come("header", token) as thief:
            await thief.say(resume | {"last_event": 0})
            assert (await thief.hear_all())[0]["code"] == "session_unknown"
            assert thief.close_code == 4404
        path = f"/sessions/{started['session_id']}/transcript"
        assert (await stage.get(path, token)).status_code == 404
        assert (await stage.get(path, None)).status_code == 401
        assert (await stage.get(path, stage.keyring.keys["app"])).status_code == 200
        await owner.say(bytes(32_000), {"type": "stop"})
        assert (await owner.hear("stopped"))["audio_ms"] == 1000


async def test_a_one_time_token_has_no_more_connections_than_its_session_needs(stage: Stage) -> None:
    """However often it is presented: the others have a place, too."""
    token = await stage.minted()
    async with stage.come("header", token), stage.come("subprotocol", token):
        assert await stage.refusal("url", token) == (429, "too_many_sessions")
        async with stage.come("url", await stage.minted()) as another:
            await _speak(another)


async def test_a_key_that_may_only_make_tokens_makes_good_ones(stage: Stage) -> None:
    key = stage.keyring.add("backend", 'rights = ["mint"]')
    assert await stage.refusal("header", key) == (403, "forbidden")
    async with stage.come("url", await stage.minted("backend")) as device:
        await _speak(device)


async def test_a_fresh_one_time_token_resumes_a_session_of_its_key_and_then_belongs_to_it(stage: Stage) -> None:
    """A device that gets a new token for each connection comes back with one; what others said it cannot read."""
    async with stage.come("header", await stage.minted()) as device:
        await device.say(START)
        started = await device.hear("started")
        await device.drop()
    path = f"/sessions/{started['session_id']}/transcript"
    fresh = await stage.minted()
    assert (await stage.get(path, fresh)).status_code == 404
    resume = {"type": "resume", "session_id": started["session_id"], "resume_token": started["resume_token"]}
    async with stage.come("url", fresh) as again:
        await again.say(resume | {"last_event": 0})
        await again.hear("resumed")
        assert (await stage.get(path, fresh)).status_code == 200
        async with stage.come("url", fresh) as another:
            await another.say(START)
            assert (await another.hear_all())[0]["code"] == "unauthenticated"


async def test_a_resume_token_may_be_guessed_by_nobody(stage: Stage) -> None:
    """The same answer for a session that is there, one that is not, and one that is somebody else's."""
    key = stage.keyring.keys["app"]
    async with stage.come("header", key) as owner:
        await owner.say(START)
        there = (await owner.hear("started"))["session_id"]
        said = set()
        for session_id in (there, "A" * len(there)):
            async with stage.come("header", key) as guesser:
                guess = {"type": "resume", "session_id": session_id, "resume_token": "x", "last_event": 0}
                await guesser.say(guess)
                said.add((await guesser.hear_all())[0]["message"].replace(session_id, "ID"))
        assert len(said) == 1


# What a one-time token is made with -------------------------------------------------------------

WISHES: dict[str, tuple[Any, str]] = {
    "longer than allowed": ({"ttl_seconds": 601}, "ttl_seconds: 601 is not allowed"),
    "not at all": ({"ttl_seconds": 0}, "ttl_seconds: 0 is not allowed"),
    "an unknown field": ({"ttl": 5}, "ttl: there is no such field"),
    "no language": ({"language_codes": ["x y"]}, "language_codes.0: 'x y' is not allowed"),
    "a key in a field of its own": ({"key": "cgk_secret"}, "key: there is no such field"),
    "no object": ([], "body: [] is not allowed"),
}


@pytest.mark.parametrize("wish", WISHES)
async def test_a_wish_that_cannot_be_is_refused_by_name(stage: Stage, wish: str) -> None:
    body, text = WISHES[wish]
    answer = await stage.post("/tokens", stage.keyring.keys["app"], body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(text)


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        (lambda _: None, 401, "unauthenticated"),
        (lambda ring: ring.signed(), 403, "forbidden"),
        (lambda ring: ring.keys["ops"], 403, "forbidden"),
    ],
    ids=["nobody", "a signed token", "a key without the right"],
)
async def test_only_a_key_that_may_makes_tokens(
    stage: Stage, who: Callable[[Keyring], str | None], status: int, code: str
) -> None:
    answer = await stage.post("/tokens", who(stage.keyring), {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_one_time_token_makes_no_tokens(stage: Stage) -> None:
    answer = await stage.post("/tokens", await stage.minted(), {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_a_token_holds_its_session_to_its_languages(stage: Stage) -> None:
    token = await stage.minted(language_codes=["de-DE"])
    async with stage.come("header", token) as client:
        await client.say(START)
        error = (await client.hear_all())[0]
    assert (error["code"], error["param"]) == ("forbidden", "language_codes[0]")
    assert client.close_code == 4403
    async with stage.come("header", token) as client:  # it was refused, and so not used
        await client.say(START | {"language_codes": ["de-DE"]})
        await client.hear("started")


async def test_a_key_has_the_bounds_of_its_own_entry_and_a_phone_those_of_the_settings(stage: Stage) -> None:
    """A key stands behind as many phones as it makes tokens for."""
    narrow = stage.keyring.add("narrow", "max_sessions = 1")
    for token, most in ((stage.keyring.signed(), 4), (narrow, 1), (stage.keyring.keys["app"], 6)):
        async with AsyncExitStack() as stack:
            for _ in range(most):
                client = await stack.enter_async_context(stage.come("header", token))
                await client.say(START)
                await client.hear("started")
            if most < 6:
                more = await stack.enter_async_context(stage.come("header", token))
                await more.say(START)
                error = (await more.hear_all())[-1]
                assert error["code"] == "too_many_sessions" and f"{most} sessions, the limit" in error["message"]


async def test_nobody_hands_on_more_than_they_have(stage: Stage) -> None:
    key = stage.keyring.add("narrow", 'max_session_seconds = 60\nlanguage_codes = ["en-US"]')
    for wish, param in (
        ({"max_session_seconds": 61}, "max_session_seconds"),
        ({"language_codes": ["en-US", "fr-FR"]}, "language_codes[1]"),
    ):
        answer = await stage.post("/tokens", key, wish)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


# Browsers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["API key, unknown", "signed, expired"])
async def test_a_browser_is_told_within_the_socket(stage: Stage, kind: str) -> None:
    """It cannot read a status."""
    make, code = REFUSED[kind]
    more = DOORS["subprotocol"](make(stage.keyring)) | {"origin": Origin(stage.gateway.http)}
    async with Client.connect(stage.gateway, **more) as browser:
        assert (await browser.hear_all())[0]["code"] == code
        assert browser.close_code == 4401


# What is about the service ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json"])
async def test_what_is_for_operators_wants_a_key_that_may(stage: Stage, path: str) -> None:
    assert (await stage.get(path, None)).status_code == 401
    assert (await stage.get(path, stage.keyring.keys["app"])).status_code == 403
    assert (await stage.get(path, stage.keyring.signed())).status_code == 403
    assert (await stage.get(path, stage.keyring.keys["ops"])).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/config", "/"])
async def test_what_a_client_needs_before_it_has_a_token_is_open(stage: Stage, path: str) -> None:
    assert (await stage.get(path, None)).status_code == 200


async def test_which_routes_are_open_is_a_setting(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    settings = Keyring(tmp_path).settings
    async with run_gateway(upstream=f"grpc://{upstream.address}", open_routes="metrics", **settings) as gateway:
        assert (await gateway.get("/metrics")).status_code == 200
        assert (await gateway.get("/config")).status_code == 401
    async with run_gateway(upstream=f"grpc://{upstream.address}", open_routes="none", **settings) as gateway:
        assert (await gateway.get("/config")).status_code == 401


# Who fails too often ----------------------------------------------------------------------------


async def test_who_fails_too_often_is_told_to_wait_and_nobody_else(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    settings = {"auth_failures_per_minute": 3, **keyring.settings}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway:
        stage = Stage(gateway, keyring)
        answers = [await stage.get("/metrics", "cgk_wrong") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert answers[-1].headers["Retry-After"] == "60"
        assert "over 3 credentials" in answers[-1].json()["error"]["message"]
        async with stage.come("header", keyring.keys["app"]) as client:  # from the same address
            await _speak(client)
