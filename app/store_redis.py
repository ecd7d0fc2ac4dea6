"""The store of several gateways: Redis. docs/store.md says what is kept in it, and what happens without it.

Each change is one script, so one atomic step; the time is Redis' own, so nobody's clock matters. A write that was given
up may still arrive, even after those that came later (Redis was frozen, or the network): writes are numbered, and an
older one changes nothing.
"""

import asyncio
import hashlib
import itertools
import re
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from app.core.errors import unknown
from app.core.record import Change, Record
from app.core.tolerant import decode
from app.store import StoreAwayError, StoreBehindError, Stored, ended, expired

ANSWER_SECONDS = 0.5
"""For a round trip, and the connect before it. Redis answers within a few milliseconds, or something is wrong."""
TURN_SECONDS = 2.0
"""So long a claim waits for its turn, when all clients of another gateway come at once."""
AT_A_TIME = 8
"""Claims, and reads. Each may be a whole transcript, which has to be parsed within `ANSWER_SECONDS`."""
BATCH_BYTES = 262_144
"""In one round trip, unless one change alone is more: when Redis has lost its memory, whole transcripts are written."""
FORGET_MS = 2_000
"""A connection that Redis reads nothing from is given up by the kernel, with what is still to be sent on it."""

URL_FORM = (
    "redis://HOST:PORT/NUMBER, or rediss: for TLS, with :PASSWORD@ or USER:PASSWORD@ before the host "
    "(a / ? # @ % in the password is written %2F %3F %23 %40 %25)"
)
OPTIONS: dict[str, Any] = {
    "decode_responses": True,
    "encoding_errors": "surrogatepass",  # clients name any session they like
    "protocol": 2,
    "max_connections": None,
    "retry": Retry(NoBackoff(), 0),
    "socket_timeout": None,  # one limit for the whole round trip is ours
    "socket_connect_timeout": None,
    "socket_keepalive_options": {socket.TCP_USER_TIMEOUT: FORGET_MS} if hasattr(socket, "TCP_USER_TIMEOUT") else {},
}

LARGEST = 2**63 - 1
"""Number that Redis knows."""

Command = tuple[str | int, ...]


class Script:
    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


SAVE = Script("""
local epoch, first, last_event, writer, serial = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local resume_ms, keep_ms, record = ARGV[6], ARGV[7], ARGV[8]
local function number(answer) return type(answer) == 'number' and answer or 0 end

local stored = redis.pcall('HMGET', KEYS[1], 'epoch', 'writer', 'serial')
local owner = tonumber(stored[1])
if owner and owner > epoch then return -1 end
local held = owner == epoch and number(redis.pcall('LLEN', KEYS[2])) or 0
if owner == epoch and stored[2] == writer and tonumber(stored[3]) > tonumber(serial) then return held end
if first > held + 1 then return held end

if held == 0 and redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then redis.call('DEL', KEYS[1], KEYS[2]) end
for i = 9 + held - first + 1, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
local now = redis.call('TIME')
local resume_until = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + resume_ms)
redis.call('HSET', KEYS[1], 'record', record, 'epoch', epoch, 'writer', writer, 'serial', serial,
    'resume_until', resume_until)
redis.call('PEXPIRE', KEYS[1], keep_ms)
redis.call('PEXPIRE', KEYS[2], keep_ms)
return tonumber(last_event)
""")
"""Answers as `Store.save`. What is no record of ours under a key of ours counts as nothing, and is replaced. (A script
whose first write is DEL may write on where Redis' memory is full: so only where there is something to delete.)"""

CLAIM = Script("""
local stored = redis.call('HMGET', KEYS[1], 'record', 'resume_until')
if not stored[1] then return {'unknown'} end
local record, admitted = cjson.decode(stored[1]), false
for _, token in ipairs(record.tokens) do admitted = admitted or token == ARGV[1] end
if not admitted or redis.call('LLEN', KEYS[2]) < record.last_event then return {'unknown'} end
if type(record.over) == 'string' then return {'ended', stored[1]} end
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 >= tonumber(stored[2]) then return {'expired'} end
if record.last_event < tonumber(ARGV[2]) then return {'behind'} end
return {'claimed', stored[1], redis.call('HINCRBY', KEYS[1], 'epoch', 1)}
""")
"""A verdict, the record and its epoch. A record that has lost events is unknown."""


class RedisStore:
    shared = True

    def __init__(self, url: str, *, prefix: str = "captions", answer_seconds: float = ANSWER_SECONDS) -> None:
        """Connects when it is first asked. Raises ValueError for a URL that is none; it does not show the URL."""
        self.pool = _pool(url)
        self.prefix = prefix
        self.answer_seconds = answer_seconds
        self._redis = Redis.from_pool(self.pool)
        self._claims = asyncio.Semaphore(AT_A_TIME)
        self._reads = asyncio.Semaphore(AT_A_TIME)
        """Who reads does not keep anybody from coming back."""
        self._writer = secrets.token_hex(8)
        self._serials = itertools.count(1)

    async def save(self, changes: Sequence[Change]) -> list[int]:
        answers: list[int] = []
        for batch in _batches([self._saving(change) for change in changes]):
            answers += await self.ask(batch, SAVE)
        return answers

    async def claim(self, session_id: str, token: str, seen: int = 0) -> Stored:
        record, events = self._keys(session_id)
        claiming: Command = ("EVALSHA", CLAIM.sha, 2, record, events, token, seen)
        async with _turn(self._claims):
            verdict, texts = await self.ask([claiming, ("LRANGE", events, 0, -1)], CLAIM, atomic=True)
        match verdict:
            case ["claimed", text, epoch]:
                return _stored(text, epoch, texts)
            case ["ended", text]:
                raise ended(_record(text))
            case ["expired"]:
                raise expired(session_id)
            case ["behind"]:
                raise StoreBehindError
        raise unknown(session_id)

    async def read(self, session_id: str, after: int) -> Stored | None:
        record, events = self._keys(session_id)
        reading: list[Command] = [("HMGET", record, "record", "epoch"), ("LRANGE", events, min(after, LARGEST), -1)]
        async with _turn(self._reads):
            (text, epoch), texts = await self.ask(reading, atomic=True)
        if text is None:
            return None
        stored = _stored(text, epoch, texts)
        return stored if after + len(texts) >= stored.record.last_event else None

    async def put(self, key: str, text: str, seconds: float) -> bool:
        setting: Command = ("SET", f"{self.prefix}:{key}", text, "NX", "PX", max(1, round(seconds * 1000)))
        return bool((await self.ask([setting]))[0])

    async def get(self, key: str) -> str | None:
        text: str | None = (await self.ask([("GET", f"{self.prefix}:{key}")]))[0]
        return text

    async def close(self) -> None:
        with suppress(RedisError, OSError):
            async with asyncio.timeout(self.answer_seconds):
                await self._redis.aclose()

    def _keys(self, session_id: str) -> tuple[str, str]:
        """Both are on the same node of a cluster: what is in braces says which."""
        key = f"{self.prefix}:{{{session_id}}}"
        return key, f"{key}:events"

    def _saving(self, change: Change) -> Command:
        record = change.record
        return (
            *("EVALSHA", SAVE.sha, 2),
            *self._keys(record.session_id),
            *(record.epoch, change.first, record.last_event, self._writer, next(self._serials)),
            *(round(change.resume_seconds * 1000), round(change.keep_seconds * 1000)),
            msgspec.json.encode(record).decode(),
            *change.events,
        )

    async def ask(
        self, commands: Sequence[Command], script: Script | None = None, *, atomic: bool = False
    ) -> list[Any]:
        """The answer to each command, `atomic`: as one step. Raises StoreAwayError, after all of them were tried."""
        try:
            async with asyncio.timeout(self.answer_seconds):
                answers = await self._execute(commands, atomic)
                if script and any(isinstance(answer, NoScriptError) for answer in answers):
                    teaching: Command = ("SCRIPT LOAD", script.text)
                    _, *answers = await self._execute([teaching, *commands], atomic)
        except (RedisError, OSError, UnicodeError) as error:
            reason = str(error).rpartition("caused error: ")[2] or f"not within {self.answer_seconds} s"
            raise StoreAwayError(f"Redis does not answer: {reason}") from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise StoreAwayError(f"Redis refuses: {answer}") from answer
        return answers

    async def _execute(self, commands: Iterable[Command], atomic: bool) -> list[Any]:
        """In one round trip. What fails is among the answers, as an exception."""
        async with self._redis.pipeline(transaction=atomic) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await turns.acquire()
    except TimeoutError as error:
        raise StoreAwayError(f"Redis was not asked: {AT_A_TIME} others wait for its answers") from error
    try:
        yield
    finally:
        turns.release()


def _batches(commands: Iterable[Command]) -> Iterator[list[Command]]:
    batch: list[Command] = []
    size = 0
    for command in commands:
        weight = sum(len(part) for part in command if isinstance(part, str))
        if batch and size + weight > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(command)
        size += weight
    if batch:
        yield batch


def _stored(record: str, epoch: str | int, events: Iterable[str]) -> Stored:
    return Stored(replace(_record(record), epoch=int(epoch)), tuple(events))


def _record(text: str) -> Record:
    try:
        return decode(text, Record)
    except msgspec.MsgspecError as error:
        raise StoreAwayError(f"a record in Redis cannot be read by this version: {error}") from error


def _pool(url: str) -> ConnectionPool:
    try:
        options = {**_options(url), **OPTIONS}
        pool = ConnectionPool(**options)
        pool.make_connection()  # type: ignore[no-untyped-call]  # connects to nothing, but knows every option
    except (ValueError, TypeError, RedisError) as error:
        raise ValueError(f"the URL of Redis is wrong: {error}; it is {URL_FORM}") from None
    return pool


def _options(url: str) -> dict[str, Any]:
    """Never names what it found: any part of a wrong URL may be a part of the password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("its host or its port cannot be read") from None
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError("it does not begin with redis:// or rediss://")
    if not parts.hostname or port == 0:
        raise ValueError("it names no host, or port 0")
    if not re.fullmatch(r"/?\d*", parts.path, re.ASCII):
        raise ValueError("its database is not a number")
    return dict(parse_url(url))
