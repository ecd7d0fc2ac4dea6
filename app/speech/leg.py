"""One leg: asyncio.Queue -> async generator -> SpeechAsyncClient.streaming_recognize.

The rules that its shape follows were all found by experiment: one queue per leg, never shared (an ended call's
generator is still parked on it and eats the next chunk); `retry=None` always (v1's default retry hangs for ever); the
generator never raises; ending is a sentinel in the queue, so that gRPC half-closes and Google flushes its last final.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from app.core.audio import Pace
from app.core.handover import Stretch
from app.core.protocol import SessionConfig
from app.speech.dialect import Dialect
from app.speech.errors import OwnFault
from app.speech.pool import Lease, NoPlace
from app.speech.responses import ResponseReader

log = logging.getLogger(__name__)

HOLD_SECONDS = 0.2
"""A leg whose config Google has not taken before, or that follows a failure, holds its audio for so long: a refusal
that meets a write on its way comes out of grpc.aio as INTERNAL "Internal error from Core", whatever Google said."""
STEADY_SECONDS = 1.0
"""An upstream that is down does not take audio for so long."""
CALL_TIMEOUT_SECONDS = 330.0
"""Longer than Google lets any stream live (305 s on v1, 300 s on v2)."""


class Leg:
    """Hears one stretch, from `start` on: first what is kept of it, then, once `live`, what comes through the queue."""

    def __init__(
        self,
        stretch: Stretch,
        *,
        start: int,
        replays_until: int,
        now: float,
        config: SessionConfig,
        dialect: Dialect,
        reader: ResponseReader,
        kept: Callable[[int], bytes],
        backlog_bytes: int,
        progress: Callable[[], None],
        pace: Pace,
        queue_chunks: int,
        hold: bool,
    ) -> None:
        """`replays_until`: the byte up to which an earlier leg was sent the audio. `kept(at)`: the chunk of the stretch
        at byte `at`, or nothing where no more has come. `backlog_bytes`: how much is kept already. `progress` is called
        after every chunk that was sent."""
        self.stretch = stretch
        self.start = start
        self.replays_until = replays_until
        self.sent = start
        """How far audio was handed to gRPC, as a byte of the session."""
        self.reader = reader
        self.has_place = False
        """Else it waits in line for one (speech/pool.py)."""
        self.opened_at = now
        """When it got its place; till then, since when it waits."""
        self.heard_at = now
        """When it last said anything."""
        self.sent_at = now
        self.loud = 0
        """Bytes that came for it and were as loud as speech, before it said anything."""
        self.half_closed_at: float | None = None
        self.live = False
        self.backlog: list[Any] = []
        """Responses that wait until the stretch before is complete."""
        self.ended = False
        self.error: Exception | None = None
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(queue_chunks)
        self._config = config
        self._dialect = dialect
        self._kept = kept
        self.backlog_bytes = backlog_bytes
        self._progress = progress
        self._pace = pace
        self._hold = hold
        self._asked = False
        """gRPC was told that no more audio comes."""
        self._begun = False
        self._over = False
        self._given_up: Exception | None = None
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_complete(self) -> bool:
        """It was fed all that it had to hear, and ended well when it was asked to. One that ends unasked in the same
        moment says nothing of what it has heard last."""
        end = self.stretch.end
        return self.ended and self.error is None and self._asked and end is not None and self.sent >= end

    def behind(self, taken: int) -> int:
        """Bytes of the stretch that have come and were not sent."""
        return (taken if self.stretch.end is None else self.stretch.end) - self.sent

    @property
    def said_anything(self) -> bool:
        return self.heard_at > self.opened_at

    @property
    def took_audio(self) -> bool:
        """For so long that it seems well, though it may have had nothing to say."""
        return self.connected and self.sent_at - self.opened_at >= STEADY_SECONDS

    @property
    def connected(self) -> bool:
        return self._call is not None

    def open(
        self,
        acquire: Callable[[], Awaitable[Lease]],
        heard: Callable[["Leg", Any], None],
        ended: Callable[["Leg"], None],
    ) -> None:
        """Starts a task, which `close` awaits: a place, then the call. `heard` and `ended` are called from it."""
        self._task = asyncio.create_task(self._run(acquire, heard, ended))

    async def put(self, chunk: bytes) -> None:
        """Waits while the queue is full. What comes before the leg is live it finds in what is kept."""
        if self.live and not self.ended:
            if self._queue.full():
                await self._queue.put(chunk)
            else:
                self._queue.put_nowait(chunk)

    def put_nowait(self, chunk: bytes) -> None:
        """As `put`, for a queue that is known to be empty."""
        if self.live and not self.ended:
            self._queue.put_nowait(chunk)

    def half_close(self, now: float) -> None:
        """No more audio after what was put: Google flushes what it has and ends the call."""
        if self.half_closed_at is None:
            self.half_closed_at = now
            if self._queue.full():
                self.live = False  # the rest, which is kept too, is read from there
                self._drain()
            self._queue.put_nowait(None)

    def give_up(self, error: Exception) -> None:
        """The call is not worth waiting for, or its place: it ends with `error`."""
        self._given_up = error
        if self._call is not None:
            self._call.cancel()
        elif self._task is not None and self._begun:
            self._task.cancel()

    async def close(self) -> None:
        """Ends the call whatever its state, and releases its generator."""
        self._release_generator()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(
        self,
        acquire: Callable[[], Awaitable[Lease]],
        heard: Callable[["Leg", Any], None],
        ended: Callable[["Leg"], None],
    ) -> None:
        self._begun = True  # a task that is cancelled before its first step says nothing of its end
        try:
            if self._given_up is not None:
                raise self._given_up
            lease = await acquire()
        except NoPlace as error:
            self.error = error
        except asyncio.CancelledError:
            if self._given_up is None:
                raise
            self.error = self._given_up
        else:
            self.has_place = True
            self.opened_at = self.heard_at = asyncio.get_running_loop().time()
            await self._converse(lease, heard)
        self.ended = True
        ended(self)

    async def _converse(self, lease: Lease, heard: Callable[["Leg", Any], None]) -> None:
        """The call, to its end: `error` says how it was."""
        clock = asyncio.get_running_loop().time
        opening = asyncio.ensure_future(
            lease.client.streaming_recognize(
                self._requests(), retry=None, timeout=CALL_TIMEOUT_SECONDS, metadata=self._dialect.metadata
            )
        )
        try:
            self._call = await asyncio.shield(opening)  # cancelled, it would open all the same, unseen
            async for response in self._call:
                self.heard_at = clock()
                lease.answers()
                _tell(heard, self, response)
                if error := self.reader.failure(response):
                    raise error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._given_up is None and task is not None and task.cancelling():
                raise
            self.error = self._given_up or ConnectionError(f"the call was cancelled by gRPC: {error}")
        except Exception as error:  # the outermost frame of this task: explained in speech/errors.py
            self.error = error
        finally:
            opening.add_done_callback(_cancel_call)
            if isinstance(self.error, TimeoutError):
                lease.suspect()
            lease.release()
            self._release_generator()

    def _release_generator(self) -> None:
        """It may be parked on the queue, or not have begun: it finds its end. Whoever waits in `put` goes on."""
        self._over = True
        self._drain()
        self._queue.put_nowait(None)

    def _drain(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()

    async def _requests(self) -> AsyncIterator[Any]:
        """Config first, then audio at a bounded pace. Never raises: a raise here would hang the call."""
        yield self._dialect.config_request(self._config)
        if self._hold:
            await asyncio.sleep(HOLD_SECONDS)
        request = self._dialect.audio_request(self._config)
        async for chunk in self._chunks():
            yield request(chunk)
            del chunk  # here, and wherever audio passes: kept while the next one is awaited, it costs each session 3 kB

    async def _chunks(self) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        while not self._over:
            live = self.live
            chunk = await self._queue.get() if live else self._kept(self.sent)
            if chunk:
                if (delay := self._pace.delay(clock(), len(chunk))) > 0:
                    await asyncio.sleep(delay)
                self.sent += len(chunk)
                self.sent_at = clock()
                self._progress()
                yield chunk
                del chunk
            elif live and not self.live:
                continue  # `half_close` emptied the queue: the rest is read from what is kept
            elif live or self.half_closed_at is not None:
                self._asked = not self._over
                return
            else:
                self.live = True  # nothing is kept that was not sent, and nothing can come in between


def _tell(heard: Callable[[Leg, Any], None], leg: Leg, response: Any) -> None:
    """Raises OwnFault: what goes wrong there is not Google's failure."""
    try:
        heard(leg, response)
    except Exception as error:
        log.exception("what a stream said could not be taken")
        raise OwnFault from error


def _cancel_call(opened: asyncio.Future[Any]) -> None:
    """An abandoned call leaks about 43 kB and three tasks."""
    if not opened.cancelled() and opened.exception() is None:
        opened.result().cancel()
