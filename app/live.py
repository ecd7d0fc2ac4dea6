"""A session with its recognizer: it outlives its links. Whoever changes it says so (`changed`): what is durable is
written, and its link sends (`news`).

A step is one call of the recognizer. Steps come one after the other, and one that has begun goes to its end, whatever
becomes of the link that asked for it: what the session has counted as received is in it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from app.core.errors import SessionError
from app.core.recognition import Event, LegEnded
from app.core.session import Phase, Session


class Recognizer(Protocol):
    """Hears one session. It tells what it heard through the callback that it was made with."""

    chunk_bytes: int
    """It takes audio best in pieces of this size."""

    async def send(self, audio: bytes) -> None:
        """Waits while the upstream is behind."""

    async def skip(self, count: int) -> None:
        """The next audio is `count` bytes later."""

    async def finalize(self) -> None:
        """Everything sent so far becomes final now."""

    async def finish(self) -> None:
        """No more audio will come."""

    def tick(self, now: float) -> None:
        """Called at least every second."""

    async def close(self) -> None:
        """Ends at once and releases everything."""


class Account(Protocol):
    """What of one session's audio is paid for."""

    @property
    def is_limited(self) -> bool:
        """Anything of it: else all is allowed."""

    async def allow(self, size: int) -> int:
        """How many of the next bytes may be heard; they count as heard. Waits where it is not known."""

    def bill(self, billed_ms: int) -> None:
        """What the upstream has billed for the session, in all."""

    @property
    def warning(self) -> str | None:
        """What the client should know, in words."""

    def exhausted(self) -> SessionError:
        """Why no more is heard."""

    async def close(self, *, over: bool) -> None:
        """What was reserved and not spent is free again; the session's place, too, where it is over."""


class Meter(Protocol):
    """Counts what all sessions do."""

    def opened(self) -> None: ...

    def hear(self, event: Event) -> None:
        """A recognizer says so."""

    def closed(self, session: Session) -> None: ...


Recognize = Callable[[Session, Callable[[Event], None]], Recognizer]


class Live:
    def __init__(
        self,
        session: Session,
        recognize: Recognize,
        account: Account,
        meter: Meter,
        mark: Callable[["Live"], None],
    ) -> None:
        """`mark`: has what changed written."""
        self.session = session
        self._account = account
        self.written_at = float("-inf")
        """When the store had it last."""
        self._mark = mark
        self._told: asyncio.Event | None = None
        """The recognizer has said something."""
        self.news = asyncio.Event()
        """Something may be due to the client."""
        self._meter = meter
        self._recognizer = recognize(session, self._hear)
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        """What must come to its end though no link waits for it."""
        self._finishing = False

    @property
    def chunk_bytes(self) -> int:
        """Audio is taken best in pieces of this size."""
        return self._recognizer.chunk_bytes

    @property
    def is_busy(self) -> bool:
        """A step is under way, or waits."""
        return self._turn.locked()

    @asynccontextmanager
    async def step(self) -> AsyncIterator[Recognizer]:
        """The recognizer, for one call. Not to be cancelled within: see `adopt`."""
        async with self._turn:
            yield self._recognizer

    async def send(self, audio: bytes) -> None:
        """A step: what is paid for is heard. Where that is not all of it, the session ends after it."""
        async with self._turn:  # as `step`, without its cost for each chunk
            if self._account.is_limited:
                audio = await self._afford(audio)
            await self._recognizer.send(audio)
            self._finish_if_closing()

    async def _afford(self, audio: bytes) -> bytes:
        allowed = await self._account.allow(len(audio))
        if allowed < len(audio):
            self.session.exhaust(self._account.exhausted(), len(audio) - allowed)
        self._warn()
        return audio[:allowed]

    def adopt(self, task: asyncio.Task[None]) -> None:
        """A task that is within a step: it goes on, and ends with the session at the latest."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def changed(self) -> None:
        """Something may be due to the client, or to the store."""
        if not self.session.is_written:
            self._mark(self)
        self.news.set()

    def fail(self, error: SessionError) -> None:
        """The session ends: the client is told."""
        self.session.fail(error)
        self.changed()

    def fence(self) -> None:
        """Another gateway goes on with the session: here it ends."""
        self.session.fence()
        self.news.set()

    async def go_on_from(self, offset: int) -> None:
        """The session was elsewhere: its audio comes from this byte on."""
        if offset:
            async with self.step() as recognizer:
                await recognizer.skip(offset)

    def tick(self, now: float) -> None:
        """At least every second. Raises SessionError when the link's client was silent for too long."""
        if self.session.is_too_old(now):
            self.session.close()
        self._recognizer.tick(now)
        self._warn()
        self._finish_if_closing()
        self.changed()
        if self.is_busy:
            self.session.waits(now)
        else:
            self.session.tick(now)

    async def flush(self) -> None:
        """What was said so far becomes final: waits for that."""
        async with self.step() as recognizer:
            await recognizer.finalize()
        self._told = told = self._told or asyncio.Event()
        while not (self.session.is_settled or self.session.ended):
            await told.wait()
            told.clear()

    async def close(self) -> None:
        """Leaves no task and no upstream call behind."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._recognizer.close()
        self._meter.closed(self.session)
        await self._account.close(over=bool(self.session.over) and not self.session.is_fenced)

    def _hear(self, event: Event) -> None:
        self._meter.hear(event)
        self.session.receive(event)
        if isinstance(event, LegEnded):
            self._account.bill(self.session.transcript.billed_ms)
        if self._told is not None:
            self._told.set()
        self._finish_if_closing()
        self.changed()

    def _warn(self) -> None:
        if warning := self._account.warning:
            self.session.warn_of_budget(warning)

    def _finish_if_closing(self) -> None:
        if self.session.phase is Phase.CLOSING and not self._finishing:
            self._finishing = True
            self.adopt(asyncio.create_task(self._finish()))

    async def _finish(self) -> None:
        async with self.step() as recognizer:
            await recognizer.finish()
