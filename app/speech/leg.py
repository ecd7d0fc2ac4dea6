"""One leg: asyncio.Queue -> async generator -> SpeechAsyncClient.streaming_recognize.

The rules that its shape follows were all found by experiment: one queue per leg, never shared (an ended call's
generator is still parked on it and eats the next chunk); `retry=None` always (v1's default retry hangs for ever); the
generator never raises; ending is a sentinel in the queue, so that gRPC half-closes and Google flushes its last final.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from app.core.audio import Pace
from app.core.protocol import SessionConfig
from app.speech.dialect import Dialect
from app.speech.pool import Lease
from app.speech.responses import ResponseReader

HOLD_SECONDS = 0.2
"""A leg with a config that Google has not taken before holds its audio for so long: a refusal that meets a write on its
way comes out of grpc.aio as INTERNAL "Internal error from Core", whatever Google said."""
CALL_TIMEOUT_SECONDS = 330.0
"""Longer than Google lets any stream live (305 s on v1, 300 s on v2)."""


class Leg:
    """`start` is the session's byte offset at which the leg began, `end` how far audio was put into it."""

    def __init__(
        self,
        *,
        start: int,
        now: float,
        config: SessionConfig,
        dialect: Dialect,
        reader: ResponseReader,
        pace: Pace,
        queue_chunks: int,
        hold: bool,
    ) -> None:
        self.start = self.end = start
        self.opened_at = now
        self.reader = reader
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(queue_chunks)
        self.half_closed = False
        self.backlog: list[Any] = []
        """Responses that wait until the leg before has said its last word."""
        self.ended = False
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self._config = config
        self._dialect = dialect
        self._pace = pace
        self._hold = hold

    async def half_close(self) -> None:
        """No more audio: Google flushes what it has and ends the call."""
        if not self.half_closed:
            self.half_closed = True
            await self.queue.put(None)

    def half_close_nowait(self) -> None:
        """As `half_close`, for a queue that is known to have room."""
        self.half_closed = True
        self.queue.put_nowait(None)

    def open(self, lease: Lease, heard: Callable[["Leg", Any], None], ended: Callable[["Leg"], None]) -> None:
        """Starts the call in a task that `close` awaits; `heard` and `ended` are called from it."""
        self.task = asyncio.create_task(self._run(lease, heard, ended))

    async def close(self) -> None:
        """Ends the call whatever its state, and releases its generator."""
        self._drain()
        self.queue.put_nowait(None)  # a call that is still queued for a slot opens later: it finds its end at once
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self, lease: Lease, heard: Callable[["Leg", Any], None], ended: Callable[["Leg"], None]) -> None:
        opening = asyncio.ensure_future(
            lease.client.streaming_recognize(
                self._requests(), retry=None, timeout=CALL_TIMEOUT_SECONDS, metadata=self._dialect.metadata
            )
        )
        try:
            async for response in await asyncio.shield(opening):  # cancelled, it would open all the same, unseen
                heard(self, response)
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            self.error = ConnectionError(f"the call was cancelled by gRPC: {error}")
        except Exception as error:
            self.error = error
        finally:
            opening.add_done_callback(_cancel_call)
            lease.release()
        self.ended = True
        self._drain()  # whoever waits to put more is let go
        ended(self)

    def _drain(self) -> None:
        while not self.queue.empty():
            self.queue.get_nowait()

    async def _requests(self) -> AsyncIterator[Any]:
        """Config first, then audio at a bounded pace. Never raises: a raise here would hang the call."""
        yield self._dialect.config_request(self._config)
        if self._hold:
            await asyncio.sleep(HOLD_SECONDS)
        request = self._dialect.audio_request(self._config)
        clock = asyncio.get_running_loop().time
        while (chunk := await self.queue.get()) is not None:
            if (delay := self._pace.delay(clock(), len(chunk))) > 0:
                await asyncio.sleep(delay)
            yield request(chunk)


def _cancel_call(opened: asyncio.Future[Any]) -> None:
    """An abandoned call leaks about 43 kB and three tasks."""
    if not opened.cancelled() and opened.exception() is None:
        opened.result().cancel()
