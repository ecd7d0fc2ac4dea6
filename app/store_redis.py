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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from app.core.record import Change, Record
from app.core.tolerant import decode
from app.store import StoreAwayError, Stored, ended, expired, unknown

ANSWER_SECONDS = 0.5
"""For a round trip, and the connect before it. Redis answers within a few milliseconds, or something is wrong."""
TURN_SECONDS = 2.0
"""So long a claim waits for its turn, when all clients of another gateway come at once."""
AT_A_TIME = 8
"""Claims and reads. Each may be a whole transcript, which has to be parsed within `ANSWER_SECONDS`."""
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
    "protocol": 2,
    "max_connections": None,
    "retry": Retry(NoBackoff(), 0),
    "socket_timeout": None,  # one limit for the whole round trip is ours
    "socket_connect_timeout": None,
    "socket_keepalive_options": {socket.TCP_USER_TIMEOUT: FORGET_MS} if hasattr(socket, "TCP_USER_TIMEOUT") else {},
}

Call = tuple[str | int, ...]
"""What follows the name of a script: the number of keys, the keys, the arguments."""


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

if held == 0 then redis.call('DEL', KEYS[1], KEYS[2]) end
for i = 9 + held - first + 1, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
local now = redis.call('TIME')
local resume_until = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + resume_ms)
redis.call('HSET', KEYS[1], 'record', record, 'epoch', epoch, 'writer', writer, 'serial', serial,
    'resume_until', resume_until)
redis.call('PEXPIRE', KEYS[1], keep_ms)
redis.call('PEXPIRE', KEYS[2], keep_ms)
return tonumber(last_event)
""")
"""Answers as `Store.save`. What is no record of ours under a key of ours counts as nothing, and is replaced."""

CLAIM = Script("""
local stored = redis.call('HMGET', KEYS[1], 'record', 'resume_until')
if not stored[1] then return cjson.encode({'unknown'}) end
local record, admitted = cjson.decode(stored[1]), false
for _, token in ipairs(record.tokens) do admitted = admitted or token == ARGV[1] end
if not admitted or redis.call('LLEN', KEYS[2]) < record.last_event then return cjson.encode({'unknown'}) end
if type(record.over) == 'string' then return cjson.encode({'ended', stored[1]}) end
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 >= tonumber(stored[2]) then return cjson.encode({'expired'}) end

local answer = redis.call('LRANGE', KEYS[2], 0, -1)
table.insert(answer, 1, tostring(redis.call('HINCRBY', KEYS[1], 'epoch', 1)))
table.insert(answer, 1, stored[1])
table.insert(answer, 1, 'claimed')
return cjson.encode(answer)
""")
"""A verdict, the record, its epoch, the events: as one JSON text, which is parsed ten times as fast as a list of Redis
is. A record that has lost events is unknown."""

READ = Script("""
local stored = redis.call('HMGET', KEYS[1], 'record', 'epoch')
if not stored[1] then return false end
local answer = redis.call('LRANGE', KEYS[2], ARGV[1], -1)
table.insert(answer, 1, stored[2])
table.insert(answer, 1, stored[1])
return cjson.encode(answer)
""")
"""The record, its epoch, the events."""


class RedisStore:
    shared = True

    def __init__(self, url: str, *, prefix: str = "captions", answer_seconds: float = ANSWER_SECONDS) -> None:
        """Connects when it is first asked. Raises ValueError for a URL that is none; it does not show the URL."""
        self._redis = Redis.from_pool(_pool(url))
        self._prefix = prefix
        self._answer_seconds = answer_seconds
        self._turns = asyncio.Semaphore(AT_A_TIME)
        self._writer = secrets.token_hex(8)
        self._serials = itertools.count(1)

    async def save(self, changes: Sequence[Change]) -> list[int]:
        answers: list[int] = []
        for batch in _batches([self._save_call(change) for change in changes]):
            answers += await self._ask(SAVE, batch)
        return answers

    async def claim(self, session_id: str, token: str) -> Stored:
        match await self._ask_in_turn(CLAIM, (*self._keys(session_id), token)):
            case ["claimed", record, epoch, *events]:
                return _stored(record, epoch, events)
            case ["ended", record]:
                raise ended(_record(record))
            case ["expired"]:
                raise expired(session_id)
        raise unknown(session_id)

    async def read(self, session_id: str, after: int) -> Stored | None:
        answer = await self._ask_in_turn(READ, (*self._keys(session_id), after))
        if answer is None:
            return None
        record, epoch, *events = answer
        stored = _stored(record, epoch, events)
        return stored if after + len(events) >= stored.record.last_event else None

    async def close(self) -> None:
        with suppress(RedisError, OSError):
            async with asyncio.timeout(self._answer_seconds):
                await self._redis.aclose()

    def _keys(self, session_id: str) -> Call:
        """Of one session both are on the same node of a cluster: what is in braces says which."""
        key = f"{self._prefix}:{{{session_id}}}"
        return 2, key, f"{key}:events"

    def _save_call(self, change: Change) -> Call:
        record = change.record
        return (
            *self._keys(record.session_id),
            record.epoch,
            change.first,
            record.last_event,
            self._writer,
            next(self._serials),
            round(change.resume_seconds * 1000),
            round(change.keep_seconds * 1000),
            msgspec.json.encode(record).decode(),
            *change.events,
        )

    async def _ask_in_turn(self, script: Script, call: Call) -> list[str] | None:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError as error:
            raise StoreAwayError(f"Redis was not asked: {AT_A_TIME} others wait for its answers") from error
        try:
            [answer] = await self._ask(script, [call])
        finally:
            self._turns.release()
        return None if answer is None else msgspec.json.decode(answer, type=list[str])

    async def _ask(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """What the script answers to each call. Raises StoreAwayError, after all of them were made."""
        try:
            async with asyncio.timeout(self._answer_seconds):
                answers = await self._round_trip(script, calls)
        except (RedisError, OSError) as error:
            reason = str(error) or f"not within {self._answer_seconds} s"
            raise StoreAwayError(f"Redis does not answer: {reason}") from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise StoreAwayError(f"Redis refuses: {answer}") from answer
        return answers

    async def _round_trip(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Two of them where Redis has yet to learn the script, or has forgotten it."""
        answers = await self._execute(("EVALSHA", script.sha, *call) for call in calls)
        missed = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missed:
            again = (("EVALSHA", script.sha, *calls[number]) for number in missed)
            _, *late = await self._execute([("SCRIPT LOAD", script.text), *again])
            for number, answer in zip(missed, late, strict=True):
                answers[number] = answer
        return answers

    async def _execute(self, commands: Iterable[tuple[str | int, ...]]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)


def _batches(calls: Iterable[Call]) -> Iterator[list[Call]]:
    batch: list[Call] = []
    size = 0
    for call in calls:
        weight = sum(len(part) for part in call if isinstance(part, str))
        if batch and size + weight > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(call)
        size += weight
    if batch:
        yield batch


def _stored(record: str, epoch: str, events: Iterable[str]) -> Stored:
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
