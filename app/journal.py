"""Writes what outlives this process into the store, before the client is told: one task for all sessions.

Whoever changes a session marks it. What has come together meanwhile is one round trip, and each session's change in it
is one atomic step.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from app.core.record import Change
from app.core.session import Session
from app.live import Live
from app.store import FENCED, Store, StoreAwayError

log = logging.getLogger(__name__)

BATCH = 50
"""Sessions in one round trip: to write more at once would keep the event loop from others."""
RENEW_SECONDS = 5.0
"""What is not written for so long is written again: it shows that its gateway lives, and that no other one has it."""
TRY_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds."""

    resume: float
    """How long a session waits for its client."""
    keep: float
    """How long what was heard can be read, once nothing more comes."""


class Journal:
    """An async context manager: inside it marks are written."""

    def __init__(self, store: Store, terms: Terms) -> None:
        self.store = store
        self.away = False
        """The store did not answer when it was asked last."""
        self._terms = terms
        self._marked: dict[Live, None] = {}
        self._work = asyncio.Event()
        self._turn = asyncio.Event()
        """Set and renewed with each round trip."""
        self._writer: asyncio.Task[None] | None = None
        self._clock = asyncio.get_running_loop().time

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        self._writer.cancel()
        with suppress(asyncio.CancelledError):
            await self._writer
        await self.store.close()

    def mark(self, live: Live) -> None:
        """Its session has changed, or is to show that it lives."""
        self._marked[live] = None
        self._work.set()
        if self.away:
            live.session.goes_unwritten()

    async def written(self, live: Live) -> None:
        """Waits until the store has all of the session, or it is known that it will not: it is away, or another gateway
        has the session."""
        session = live.session
        while not (session.is_written or session.is_fenced or self.away):
            self.mark(live)
            turn = self._turn
            await turn.wait()

    async def confirm(self, live: Live) -> None:
        """Waits until it is known whether the session is still this gateway's; while the store is away it is not."""
        asked = self._clock()
        while live.written_at < asked and not (live.session.is_fenced or self.away):
            self.mark(live)
            turn = self._turn
            await turn.wait()

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            await self._save(self._take_batch())  # no name for it here: while nobody comes it would be kept
            self._turn.set()
            self._turn = asyncio.Event()
            if self.away:
                await asyncio.sleep(TRY_AGAIN_SECONDS)
                self._work.set()  # whether or not there is something to write: is it back?

    def _take_batch(self) -> list[Live]:
        batch = [live for live, _ in zip(self._marked, range(BATCH), strict=False)]
        for live in batch:
            del self._marked[live]
        if not self._marked:
            self._work.clear()
        return batch

    async def _save(self, batch: list[Live]) -> None:
        now = self._clock()
        changes = [self._change(live, now) for live in batch]
        marks = [live.session.mark() for live in batch]
        try:
            held = await self.store.save(changes)
            if not batch:
                await self.store.read("nobody", 0)
        except StoreAwayError as error:
            self._goes_away(error, batch)
            return
        except Exception as error:  # the outermost frame of the one writer: without it nobody would be told anything
            log.exception("the store could not be written")
            self._goes_away(StoreAwayError(f"the gateway failed to write: {error!r}"), batch)
            return
        self._comes_back()
        for live, change, mark, last in zip(batch, changes, marks, held, strict=True):
            live.written_at = now
            if last == FENCED:
                live.fence()
            elif last == change.record.last_event:
                live.session.wrote(mark)
                live.news.set()
            else:
                live.session.lacks_events(last)
                self.mark(live)

    def _change(self, live: Live, now: float) -> Change:
        session = live.session
        record, events = session.record()
        resume = 0.0 if session.over else self._resume_seconds(session, now)
        return Change(record=record, events=events, resume_seconds=resume, keep_seconds=resume + self._terms.keep)

    def _resume_seconds(self, session: Session, now: float) -> float:
        """Of a session that has its client, the time counts from when its gateway falls silent."""
        if session.detached_at is None:
            return self._terms.resume + RENEW_SECONDS
        return max(0.0, self._terms.resume - (now - session.detached_at))

    def _goes_away(self, error: StoreAwayError, batch: Iterable[Live]) -> None:
        if not self.away:
            log.warning("the store is away: %s", error)
        self.away = True
        for live in [*batch, *self._marked]:
            self.mark(live)
            live.news.set()

    def _comes_back(self) -> None:
        if self.away:
            log.warning("the store is back")
        self.away = False
