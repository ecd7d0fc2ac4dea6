"""No transcript, no audio and no token in anything that the service emits, but to whom it belongs: a whole run, with
everything that can go wrong, and a search through all of it.
"""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from app.logs import WordlessFormatter, on_loop_exception
from tests.credentials import SECRET, Keyring
from tests.gateway import START, Client, Gateway
from tests.process import Process, run_process
from tests.redis_server import RedisServer
from tests.upstream import BYTES_PER_SECOND, Call, Script, ScriptedUpstream

SAID, INTERIM, PHRASE, NAME = "marmalade", "marzipan", "Marrakesh", "Margarethe"
"""What is said, what was nearly said, what is expected to be said, and who says it."""
AUDIO = b"MARIMBA+" * 400
FORMS_OF_AUDIO = (b"MARIMBA", base64.b64encode(AUDIO)[:12], repr(AUDIO)[:12].encode(), AUDIO.hex()[:24].encode())


def says_it() -> Script:
    """Words in interims and finals, and now and then a failure that quotes them."""

    async def script(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            end = len(call.audio)
            yield call.interim(INTERIM, end=end)
            if end >= BYTES_PER_SECOND:
                yield call.final(SAID, end)
                await call.context.abort(grpc.StatusCode.UNAVAILABLE, f"the words {SAID} and {PHRASE} were too much")

    return script


def speaks_nonsense() -> Script:
    """What no client library can take: an answer that is no message."""

    async def script(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            yield call.final(SAID, len(call.audio), words=[{"word": SAID, "start_offset": {"seconds": 10**11}}])

    return script


class Run:
    """One gateway process, and every secret that it was told."""

    def __init__(self, gateway: Gateway, process: Process, keyring: Keyring) -> None:
        self.gateway = gateway
        self.process = process
        self.keyring = keyring
        self.secrets: set[str] = {SECRET, *keyring.keys.values()}
        self.answers: list[bytes] = []
        """To those whom none of it belongs to."""

    async def session(self, *frames: Any, **more: Any) -> list[dict[str, Any]]:
        async with Client.connect(self.gateway, **more) as client:
            start = START | {"phrases": [{"value": PHRASE}], "client": {"name": NAME}}
            await client.say(start, *frames)
            return await self._heard(client)

    async def minted(self) -> str:
        headers = {"Authorization": f"Bearer {self.keyring.keys['app']}"}
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{self.gateway.http}/tokens", json={}, headers=headers)
        token: str = answer.json()["token"]
        self.secrets.add(token)
        return token

    async def refused(self, path: str, **more: Any) -> None:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(self.gateway.url + path, compression=None, **more):
                pass
        self.answers.append(bytes(caught.value.response.body or b""))

    async def look(self, path: str, token: str | None = None, method: str = "GET") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient() as http:
            answer = await http.request(method, self.gateway.http + path, headers=headers)
        self.answers += [answer.content, str(answer.headers).encode()]

    async def _heard(self, client: Client) -> list[dict[str, Any]]:
        messages = await client.hear_all()
        self.secrets |= {message["resume_token"] for message in messages if "resume_token" in message}
        return messages

    def emitted(self) -> bytes:
        return self.process.log.encode() + b"".join(self.answers)


async def everything(run: Run, upstream: ScriptedUpstream) -> None:
    key, stop = run.keyring.keys["app"], {"type": "stop"}
    bearer = {"additional_headers": {"Authorization": f"Bearer {key}"}}
    audio = [AUDIO] * 20
    upstream.script = says_it()
    messages = await run.session(*audio, stop, **bearer)
    assert any(SAID in message.get("text", "") for message in messages), "else nothing is shown"
    run.secrets.add(signed := run.keyring.signed(sub="somebody"))
    await run.session(*audio, stop, subprotocols=[Subprotocol("stt.v1"), Subprotocol(f"bearer.{signed}")])
    upstream.script = speaks_nonsense()
    await run.session(*audio, stop, **bearer)
    for wrong in (f'{{"type": "{SAID}"', {"type": SAID}, {"type": "finalize", SAID: 1}, b"x" * 100_000):
        await run.session(wrong, **bearer)
    await run.session({"type": "audio", "content": base64.b64encode(AUDIO).decode(), "offset": 10**9}, **bearer)
    token = await run.minted()
    async with connect(f"{run.gateway.url}?token={token}", compression=None) as socket:
        client = Client(socket)
        await client.say(START, *audio)
        started = await client.hear("started")
        run.secrets.add(started["resume_token"])
        await client.drop()
    await _fail_to_come_in(run, token, started["session_id"])


async def _fail_to_come_in(run: Run, token: str, session_id: str) -> None:
    for secret in ("cgk_" + "S" * 43, run.keyring.signed(exp=1), "cgt_" + "T" * 43):
        run.secrets.add(secret)
        await run.refused("", additional_headers={"Authorization": f"Bearer {secret}"})
        await run.refused(f"?token={secret}")
        await run.refused("", additional_headers={"Authorization": f"Basic {secret}"})
        for path in ("/metrics", f"/sessions/{session_id}/transcript", f"/nowhere?token={secret}"):
            await run.look(path, secret)
    await run.look(f"/sessions/{session_id}/transcript", run.keyring.keys["other"])
    for path in ("/healthz", "/readyz", "/config", "/", "/tokens", f"/ws/transcribe?token={token}"):
        await run.look(path)
    for path in ("/metrics", "/openapi.json"):
        await run.look(path, run.keyring.keys["ops"])


@pytest.mark.parametrize(("level", "grpc"), [("INFO", "core"), ("DEBUG", "core"), ("DEBUG", "asyncio")])
async def test_a_whole_run_tells_nobody_what_was_said_or_how_they_came_in(
    upstream: ScriptedUpstream, tmp_path: Path, level: str, grpc: str
) -> None:
    keyring = Keyring(tmp_path)
    settings = {"upstream": f"grpc://{upstream.address}", "grpc": grpc, "log_level": level, **keyring.settings}
    async with run_process(tmp_path, **settings) as process:
        run = Run(await process.gateway(), process, keyring)
        await everything(run, upstream)
        process.child.terminate()
        await process.ends()
        assert process.child.stdout
        emitted = run.emitted() + await process.child.stdout.read()
    assert b"opened: LINEAR16 16000 Hz" in emitted, "else nothing is shown"
    words = [word.encode() for word in (SAID, INTERIM, PHRASE, NAME, *run.secrets)]
    assert [word for word in (*words, *FORMS_OF_AUDIO) if word in emitted] == []


async def test_at_rest_words_are_in_the_journal_alone_for_their_time_and_tokens_nowhere(
    upstream: ScriptedUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    keyring = Keyring(tmp_path)
    settings = {"upstream": f"grpc://{upstream.address}", "store": redis.url, **keyring.settings}
    async with run_process(tmp_path, **settings) as process, Redis.from_url(redis.url) as raw:
        run = Run(await process.gateway(), process, keyring)
        before = {key async for key in raw.scan_iter()}
        await everything(run, upstream)
        kept = {key: await _dump(raw, key) for key in {key async for key in raw.scan_iter()} - before}
        lasting = [key for key in kept if await raw.pttl(key) <= 0]
    assert lasting == [], "nothing is kept for ever"
    secrets = [secret.encode() for secret in run.secrets]
    assert [key for key, value in kept.items() if any(secret in key + value for secret in secrets)] == []
    assert [key for key, value in kept.items() if any(form in value for form in FORMS_OF_AUDIO)] == []
    speaking = [key for key, value in kept.items() if SAID.encode() in value]
    assert speaking and all(key.endswith(b":events") for key in speaking)


async def _dump(raw: Any, key: bytes) -> bytes:
    match await raw.type(key):
        case b"list":
            return b"\n".join(await raw.lrange(key, 0, -1))
        case b"hash":
            return b"\n".join([part for pair in (await raw.hgetall(key)).items() for part in pair])
        case b"zset":
            return b"\n".join(await raw.zrange(key, 0, -1))
        case _:
            return bytes(await raw.get(key))


# What nobody has foreseen -----------------------------------------------------------------------


def _formatted(error: BaseException) -> str:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "it failed", None, (type(error), error, error.__traceback__))
    return WordlessFormatter("%(message)s").format(record)


def test_of_an_exception_the_kind_and_the_place_are_logged_not_its_words() -> None:
    try:
        try:
            {"": ""}[SAID]
        except KeyError as error:
            raise ExceptionGroup(SAID, [ValueError(SAID)]) from error
    except ExceptionGroup as error:
        logged = _formatted(error)
    assert SAID not in logged
    assert [
        word for word in ("KeyError", "which led to", "ExceptionGroup", "  | ValueError") if word not in logged
    ] == []
    assert "test_privacy.py" in logged


async def test_nor_those_of_a_task_that_nobody_asked(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_exception)
    loop.call_exception_handler({"message": "Task exception was never retrieved", "exception": ValueError(SAID)})
    (record,) = caplog.records
    assert record.getMessage() == "Task exception was never retrieved"
    assert record.exc_info and SAID not in WordlessFormatter().formatException(record.exc_info)
