"""Keeps a transcription connected: comes back when the connection breaks, moves to a new one before the old one ends,
and starts anew where the gateway has lost the session.

Two things may go on at once: a link that works, and an attempt to open the next one. Whatever happens to them wakes the
one task that decides.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

from app.client.attempt import Attempt, Open, spread
from app.client.connect import LEFT, REPLACED, Socket, hang_up
from app.client.errors import (
    EventsMissingError,
    GatewayError,
    TranscriberError,
    as_lost,
    is_for_good,
    is_gone,
    is_leaving,
    is_superseded,
    may_have_been_heard,
    retry_after,
)
from app.client.link import Link
from app.client.messages import Message, Reconnected, Reconnecting
from app.client.outbox import Outbox
from app.client.timeline import Timeline
from app.core.breaker import Backoff
from app.core.protocol import (
    Error,
    GoAway,
    Keepalive,
    Resumed,
    ServerMessage,
    Start,
    Started,
    Stopped,
    serialize,
)

RETRY_BASE, RETRY_CAP = 0.05, 5.0
"""Seconds: before the first attempt up to 0.1, then twice as much each time."""
HEALTHY_SECONDS = 10.0
"""A connection that has lived so long was a good one: the backoff starts anew."""


class Keeper:
    def __init__(
        self,
        open_socket: Open,
        start: Start,
        outbox: Outbox,
        timeline: Timeline,
        tell: Callable[[Message], None],
        *,
        base64: bool,
        give_up_seconds: float | None,
    ) -> None:
        """`tell` is told what the app is told."""
        self.news = asyncio.Event()
        """Set after every change."""
        self.over = False
        self.failure: TranscriberError | None = None
        """What has ended it, where that is not `stopped` or the caller."""
        self._open = open_socket
        self._start = start
        self._outbox = outbox
        self._timeline = timeline
        self._tell = tell
        self._base64 = base64
        self._patience = inf if give_up_seconds is None else give_up_seconds
        self._backoff = Backoff(RETRY_BASE, RETRY_CAP)
        self._wake = asyncio.Event()
        self._changed = False
        """The network is another one."""
        self._link: Link | None = None
        self._running: asyncio.Task[None]
        """The link at work."""
        self._attempt: Attempt | None = None
        self._rivals = False
        """An attempt of ours that was given up may still reach the gateway, and win."""
        self._hole: int | None = None
        """The event after which the last link missed some."""
        self._lost_at: float | None = None
        """Since when there is no connection that gets anywhere,"""
        self._settled_then = 0
        """and how far it had come."""
        self._trouble: TranscriberError
        """Why there is none."""
        self._told: str | None = None
        """What of it the app knows."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None]
        self._clock: Callable[[], float]

    @property
    def connected(self) -> bool:
        return self._link is not None

    async def open(self) -> None:
        """The first connection. Raises UnreachableError, GatewayError, ConnectionLostError."""
        self._clock = asyncio.get_running_loop().time
        await self._take_over(*await self._open(self._start))
        self._task = asyncio.create_task(self._keep(), name="transcriber")

    async def close(self) -> None:
        """The session ends, unless it has to wait for a connection."""
        self.over = True
        self._wake.set()
        await asyncio.wait([self._task])
        if self._link is not None:
            await hang_up(self._link.socket, LEFT)
        self._running.cancel()
        await asyncio.gather(self._running, *self._leaving, return_exceptions=True)

    def kick(self) -> None:
        """Something was put into the outbox."""
        if self._link is not None:
            self._link.kick.set()

    def network_changed(self) -> None:
        self._changed = True
        self._wake.set()

    async def say(self, message: Keepalive) -> None:
        """Now, or never."""
        if self._link is not None:
            await self._link.say(message)

    # The one who decides ----------------------------------------------------------------------

    async def _keep(self) -> None:
        try:
            while not self.over:
                await self._look()
                self.news.set()
                await self._wake.wait()
                self._wake.clear()
        except TranscriberError as exc:
            self.failure = exc
        finally:
            self.over = True
            self.news.set()
            self._drop_attempt()

    async def _look(self) -> None:
        """At whatever has happened. Raises TranscriberError where nothing can be done."""
        if self._attempt is not None and self._attempt.done:
            await self._answered(self._attempt)
        if self._link is not None and self._running.done():
            self._broken(self._link)
        if self._changed:
            self._changed = False
            if self._link is None or self._timeline.is_resumable:
                self._dial(0)
        if self._link is None and self._lost_at is not None and self._clock() >= self._lost_at + self._patience:
            raise as_lost(self._trouble)

    # A link -----------------------------------------------------------------------------------

    async def _take_over(self, socket: Socket, hello: Started | Resumed) -> None:
        """The new socket is used from now on, and the old one no more."""
        old, self._link = self._link, None
        if old is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._leave(old)
        match hello:
            case Started():
                self._timeline.begin(hello)
            case Resumed():
                self._timeline.go_on(hello)
        self._link = Link(
            socket,
            self._outbox,
            self._take,
            news=self.news,
            throttled=lambda: self._timeline.throttled,
            base64=self._base64,
            base=self._timeline.base,
            frame_bytes=self._timeline.started.limits.max_frame_bytes,
        )
        self._running = asyncio.create_task(self._link.run())
        self._running.add_done_callback(lambda _: self._wake.set())
        if self._told is not None:
            self._told = None
            self._tell(Reconnected(resumed=isinstance(hello, Resumed)))

    def _take(self, message: ServerMessage) -> None:
        """What the gateway says. Raises TranscriberError where that ends the link."""
        match message:
            case Started() | Resumed():
                raise TranscriberError(f"the gateway said {serialize(message)} once more")
            case Error():
                raise GatewayError(message)
            case GoAway(time_left_ms=left_ms):
                self._move_in_time(left_ms)
        told = self._timeline.take(message)
        if told is not None:
            self._tell(told)
        if isinstance(told, Stopped):
            self.over = True
            self._wake.set()

    def _move_in_time(self, left_ms: int) -> None:
        if self._link is not None and self._attempt is None and self._timeline.is_resumable:
            self._dial(spread(left_ms, random.random))

    def _broken(self, link: Link) -> None:
        """The link in use has ended by itself."""
        failure = self._running.exception()
        if not isinstance(failure, TranscriberError):
            raise failure or AssertionError("a link ends with a reason")
        self._link, self._trouble = None, failure
        self._count_patience(link)
        self._leave(link)
        self._outbox.lost()
        if self._patience <= 0 or self._is_the_end(failure):
            raise failure
        if not (self._moving and (is_superseded(failure) or is_leaving(failure))):
            self._say_lost(failure)
        if self._is_useless(failure):
            self._start_anew()
        if not self._moving:
            self._dial_later(failure)

    def _count_patience(self, link: Link) -> None:
        """From the first loss on: connections that end at once do not start it anew."""
        settled = self._timeline.settled
        if self._lost_at is None or link.age >= HEALTHY_SECONDS or settled > self._settled_then:
            self._lost_at, self._settled_then = self._clock(), settled
        if self._patience < inf:
            asyncio.get_running_loop().call_at(self._lost_at + self._patience, self._wake.set)

    def _is_the_end(self, failure: TranscriberError) -> bool:
        """Not where it was an attempt of our own that has superseded another."""
        return is_for_good(failure) and not (is_superseded(failure) and (self._moving or self._rivals))

    def _is_useless(self, failure: TranscriberError) -> bool:
        """The session cannot be resumed, or brings the same hole in its events again."""
        hole = failure.after if isinstance(failure, EventsMissingError) else None
        again = hole is not None and hole == self._hole
        self._hole = hole
        return again or is_gone(failure) or not self._timeline.is_resumable

    def _leave(self, link: Link) -> None:
        if link.age >= HEALTHY_SECONDS:
            self._backoff.reset()
        self._own(hang_up(link.socket, REPLACED))

    # An attempt -------------------------------------------------------------------------------

    @property
    def _moving(self) -> bool:
        """An attempt is under way, and does not only wait for its time."""
        return self._attempt is not None and self._attempt.dialling

    def _dial_later(self, failure: TranscriberError) -> None:
        self._dial(self._backoff.next(random.random) + retry_after(failure))

    def _dial(self, delay: float) -> None:
        """A new attempt, instead of the one under way."""
        self._drop_attempt()
        self._attempt = Attempt(self._open, lambda: self._timeline.resume() or self._start, delay, self._wake.set)

    async def _answered(self, attempt: Attempt) -> None:
        self._attempt = None
        try:
            socket, hello = attempt.result()
        except TranscriberError as exc:
            self._rivals |= may_have_been_heard(exc)
            self._refused(exc)
        else:
            await self._take_over(socket, hello)

    def _refused(self, failure: TranscriberError) -> None:
        """An attempt came to nothing. A link that is there goes on; what refuses us for good it will tell itself."""
        if self._link is not None:
            if not self._is_the_end(failure):
                self._dial_later(failure)
            return
        self._trouble = failure
        self._say_lost(failure)
        if self._is_the_end(failure):
            raise failure
        if is_gone(failure) and not (self._rivals and self._timeline.take_token_before()):
            self._start_anew()
        self._dial_later(failure)

    def _start_anew(self) -> None:
        """The next attempt starts a session."""
        self._drop_attempt()
        self._rivals = False
        if self._timeline.resume() is not None:
            self._timeline.lose()

    def _drop_attempt(self) -> None:
        if self._attempt is not None:
            self._rivals |= self._moving
            self._own(self._attempt.drop())
            self._attempt = None

    # What is said and owned -------------------------------------------------------------------

    def _say_lost(self, failure: TranscriberError) -> None:
        if self._told != str(failure):
            self._told = str(failure)
            self._tell(Reconnecting(self._told))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        """Done beside everything else, and awaited at the end."""
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
