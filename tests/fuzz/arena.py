"""One gateway over a scripted upstream, on sockets; a bystander who speaks all the while; visitors who may do anything.

What must hold is asserted for each visit, and at the end: every byte of the bystander's was heard once, and no session,
task, call or object of a visitor's is left.
"""

import asyncio
import gc
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from itertools import pairwise
from typing import Any

import uvloop
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.core.errors import CODES
from app.core.protocol import parse_server
from tests.fuzz.doors import NO_DOOR, Door
from tests.fuzz.frames import Link, wire
from tests.gateway import START, Client, Gateway, run_gateway
from tests.test_bad_input import Raw, Stage, count_tasks
from tests.upstream import ScriptedUpstream, hears_bytes

SETTINGS: dict[str, Any] = {
    "resume_window_seconds": 1,
    "retention_seconds": 0,
    "max_sessions": 2000,
    "leg_idle_seconds": 600,
    "leg_soft_limit_seconds": 600,
    "leg_hard_limit_seconds": 600,
    "auth_failures_per_minute": 1000,
    "principal_sessions": 2000,
    "principal_starts_per_minute": 100_000,
    "upstream_streams": 900,
    "upstream_starts_per_minute": 100_000,
}
"""What a visitor leaves is forgotten soon; the bystander has one upstream stream; how many come is of no interest."""
VISIT_SECONDS = 20.0
"""Far more than it takes: a gateway that neither answers nor closes is a finding."""
FRAME = b"\1\2" * 160
EVERY = 3200
"""Bytes of a bystander's final."""
FLUSH = bytes(140_000)
"""Whatever frame a visitor has begun ends within it, and what follows is none."""
OURS = ("app.", "uvicorn.", "websockets.", "starlette.", "fastapi.", "grpc.")
SLACK = 30
"""Objects of one type that may be more at the end, of thousands of visits."""
KNOWN_LINES = ("Invalid HTTP request received.", "Unsupported upgrade request.")


class Arena:
    """A context manager; `run` and what it runs share one loop, which turns within `run` alone."""

    def __init__(self, door: Door = NO_DOOR, **settings: Any) -> None:
        """`door`: by which the bystander comes in."""
        self._door = door
        self._settings = SETTINGS | settings
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._stack = AsyncExitStack()
        self.ends: Counter[str] = Counter()
        """How connections ended: the code of the error, of the close, or a status."""

    def __enter__(self) -> "Arena":
        self.lines = self._stack.enter_context(lines_of_the_log())
        self._runner.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self._runner.run(work)

    async def _open(self) -> None:
        upstream = await self._stack.enter_async_context(ScriptedUpstream(hears_bytes(EVERY)))
        address = f"grpc://{upstream.address}"
        self.gateway = await self._stack.enter_async_context(run_gateway(upstream=address, **self._settings))
        async with bystander(self.gateway, self._door):
            pass  # whatever is made once, is made
        self._stage = Stage(self.gateway, upstream, Counter())
        await self.gateway.until_no_session()
        self._stage.tasks = count_tasks()

    async def visit(self, links: tuple[Link, ...], door: Door = NO_DOOR) -> None:
        """One client's connections, one after the other."""
        told: dict[str, Any] = {}
        for index, link in enumerate(links):
            async with asyncio.timeout(VISIT_SECONDS):
                await self._connect(link, door, told, waits=index < len(links) - 1)
        self._check_log()

    async def knock(self, head: bytes) -> None:
        """An upgrade by hand: it is answered, and not with a failure of ours."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        try:
            writer.write(head)
            async with asyncio.timeout(VISIT_SECONDS):
                status = (await reader.readline()).split(b" ")
        except ConnectionError:
            return  # more was said than was read
        finally:
            writer.transport.abort()
        assert status == [b""] or 100 <= int(status[1]) < 500, status
        self.ends[b" ".join(status[1:2]).decode() or "closed"] += 1
        self._check_log()

    def _check_log(self) -> None:
        lines, self.lines[:] = list(self.lines), []
        assert not lines, lines

    @contextmanager
    def beside_a_bystander(self) -> Iterator[Client]:
        """Afterwards nothing is left."""
        watched = AsyncExitStack()
        client = self._runner.run(_enter(watched, bystander(self.gateway, self._door)))
        try:
            yield client
        finally:
            self.run(watched.aclose())
        self.run(self._stage.is_left_clean())
        self._stage.upstream.calls.clear()

    async def _connect(self, link: Link, door: Door, told: dict[str, Any], *, waits: bool) -> None:
        url = self.gateway.url + (f"?token={door.token}" if door.token is not None else "")
        try:
            async with connect(url, compression=None, max_queue=None, **door.arguments()) as socket:
                client = Client(socket)
                await self._speak(client, link, told, waits=waits)
        except InvalidStatus as refused:
            self.ends[check_refusal(refused)] += 1
        else:
            self.ends[check(client, link)] += 1

    async def _speak(self, client: Client, link: Link, told: dict[str, Any], *, waits: bool) -> None:
        transport = client.socket.transport
        with suppress(ConnectionClosed):
            for says in link.says:
                if isinstance(says, Raw):
                    transport.write(says)
                else:
                    await client.say(fill(says, told) if isinstance(says, str) else says)
            if waits:
                await client.hear("started" if "session_id" not in told else "resumed")
        remember(client, told)
        if link.leaves == "vanishes":
            await client.drop()
            return
        last = wire(0x88, b"\x03\xe8") if link.leaves == "closes" else wire(0x81, b'{"type": "stop"}')
        if not transport.is_closing():
            transport.write(last + (FLUSH if link.is_raw else b""))
        await client.hear_all()


def fill(text: str, told: dict[str, Any]) -> str:
    for name in ("session_id", "resume_token", "last_event"):
        text = text.replace(f"${name}", str(told.get(name, 0)))
    return text


def remember(client: Client, told: dict[str, Any]) -> None:
    for message in client.messages:
        told |= {name: message[name] for name in ("session_id", "resume_token") if name in message}
        told["last_event"] = message.get("event", told.get("last_event", 0))


def check(client: Client, link: Link) -> str:
    """What is said is the protocol's, an error is its last word and has the close code of the table."""
    messages, close = client.messages, client.close_code
    for message in messages:
        parse_server(json.dumps(message))
    errors = client.heard("error")
    assert not errors or (len(errors) == 1 and messages[-1] is errors[0]), messages
    if link.leaves == "vanishes":
        return "dropped by the client"
    assert close not in (None, 1006, 1011), (close, messages)
    if errors:
        assert errors[0]["code"] != "internal", errors
        assert close == CODES[errors[0]["code"]].close_code, (close, errors)
    elif link.leaves == "listens" and not link.is_raw:
        assert close == 1000 and messages[-1]["type"] == "stopped", (close, messages)
    return str(errors[0]["code"] if errors else close)


def check_refusal(refused: InvalidStatus) -> str:
    body = refused.response.body
    assert body is not None, refused
    error = json.loads(body)["error"]
    assert refused.response.status_code == CODES[error["code"]].http_status < 500, error
    return f"{refused.response.status_code} {error['code']}"


@asynccontextmanager
async def bystander(gateway: Gateway, door: Door) -> AsyncIterator[Client]:
    """Somebody who speaks all the while; at the end every byte of it was heard once, in order."""
    async with Client.connect(gateway, **door.arguments()) as client:
        await client.say(START | {"interim_results": False})
        hearing = asyncio.create_task(client.hear_all())
        speaking = asyncio.create_task(_speak_on(client))
        yield client
        speaking.cancel()
        with suppress(asyncio.CancelledError):
            await speaking
        await client.say({"type": "stop"})
        messages = await hearing
    assert messages[-1]["type"] == "stopped", messages[-1]
    sent = messages[-1]["audio_ms"] * 32
    cuts = [*range(0, sent, EVERY), sent]
    assert [m["text"] for m in messages if m["type"] == "final"] == [f"{a}-{b}" for a, b in pairwise(cuts)]


async def _enter(stack: AsyncExitStack, context: AbstractAsyncContextManager[Client]) -> Client:
    """As a coroutine, which a Runner wants."""
    return await stack.enter_async_context(context)


async def _speak_on(client: Client) -> None:
    while True:
        await client.say(FRAME)
        await asyncio.sleep(0.01)


def census() -> Counter[str]:
    """The gateway's objects, and those of what it stands on, by type."""
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds if str(kind.__module__).startswith(OURS))


@contextmanager
def lines_of_the_log() -> Iterator[list[str]]:
    """Warnings and errors that a gateway has no reason for."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = record.getMessage()
            if record.exc_info or line not in KNOWN_LINES:
                lines.append(f"{line} {self.format(record)}")

    listener = Listener(logging.WARNING)
    logging.getLogger().addHandler(listener)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(listener)
