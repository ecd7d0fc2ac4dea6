"""The sessions of this process and the link of each: tick, wait for a client, expire, end."""

import asyncio
import logging
from contextlib import suppress
from typing import Self

from app.core.errors import SessionError, going_down, own_fault
from app.core.session import Session
from app.journal import RENEW_SECONDS, Journal
from app.live import Live
from app.relay import Relay

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""From a session's tick to its next."""
GROUP = 5
"""Sessions that are ticked at a time, spread over that: each has something to send after it, and others wait."""


class Registry:
    """An async context manager: inside it sessions are ticked."""

    def __init__(self, journal: Journal, resume_seconds: float) -> None:
        """`resume_seconds`: how long a session waits for its client; 0: it ends with its link."""
        self.journal = journal
        self.closing = False
        """No session is taken any more, and none waits for its client."""
        self.lives: dict[str, Live] = {}
        self.relays: dict[str, Relay] = {}
        """The link of each session that has one."""
        self._resume_seconds = resume_seconds
        self._ending: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None
        self._clock = asyncio.get_running_loop().time

    async def __aenter__(self) -> Self:
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)

    async def run(self, relay: Relay) -> None:
        """The link of its session, until it is over."""
        session_id = relay.live.session.id
        self.relays[session_id] = relay
        try:
            await relay.run()
        finally:
            if self.relays.get(session_id) is relay:
                del self.relays[session_id]
                await self._after(relay)

    async def unlink(self, session_id: str, why: SessionError) -> None:
        """Ends the session's link, and waits for it."""
        while relay := self.relays.get(session_id):
            relay.refuse(why)
            await relay.ended()
            if self.relays.get(session_id) is relay:
                del self.relays[session_id]

    async def end(self, live: Live) -> None:
        """The session ends here; where it is not over, it can be taken over from the store."""
        session = live.session
        if self.lives.get(session.id) is not live:
            return  # it has ended already
        if not self._resume_seconds:
            session.end("left")
        await self.journal.written(live)
        if self.lives.get(session.id) is not live:
            return
        del self.lives[session.id]
        try:
            await live.close()
        finally:
            if not self.lives:
                self._empty.set()
            _log_end(session)

    def end_soon(self, live: Live) -> None:
        task = asyncio.create_task(self.end(live))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def until_empty(self, seconds: float | None = None) -> None:
        """Waits for the last session to end; at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.lives:
                    self._empty.clear()
                    await self._empty.wait()
                await asyncio.gather(*self._ending)

    async def _after(self, relay: Relay) -> None:
        """The link is over: its session waits for the next one, or ends with it."""
        session = relay.live.session
        if relay.left:
            session.end("left")
        waits = not (self.closing or session.delivered or session.over or session.error)
        if self._resume_seconds and waits:
            session.detach(self._clock())
            return
        if relay.refusal is not None:
            session.fail(going_down() if self.closing else relay.refusal)
        await self.end(relay.live)

    async def _tick(self) -> None:
        while True:
            lives = list(self.lives.values())
            groups = [lives[at : at + GROUP] for at in range(0, len(lives), GROUP)] or [[]]
            for group in groups:
                await asyncio.sleep(TICK_SECONDS / len(groups))
                self._tick_group(group)

    def _tick_group(self, group: list[Live]) -> None:
        """On its own, so that no session is kept by the name of the last one."""
        for live in group:
            if self.lives.get(live.session.id) is live:
                self._tick_one(live, self._clock())

    def _tick_one(self, live: Live, now: float) -> None:
        """What goes wrong is this session's alone."""
        try:
            if relay := self.relays.get(live.session.id):
                relay.tick(now)
            else:
                self._tick_detached(live, now)
        except Exception:
            log.exception("session %s failed", live.session.id)
            live.fail(own_fault())
            if live.session.id not in self.relays:
                self.end_soon(live)
        if now - live.written_at >= RENEW_SECONDS:
            self.journal.mark(live)

    def _tick_detached(self, live: Live, now: float) -> None:
        session = live.session
        with suppress(SessionError):  # idle: its link has ended already
            live.tick(now)
        if session.detached_at is not None and now - session.detached_at >= self._resume_seconds:
            session.end("resume_window_expired")
        if session.over or session.has_failed_here:
            self.end_soon(live)


def _log_end(session: Session) -> None:
    heard = session.transcript
    log.info(
        "session %s closed: %s, %.1f s, %d bytes, %d finals, %d legs, replayed %.1f s, billed %.1f s, %d resumes",
        session.id,
        session.how_it_ended,
        session.format.ms(session.received) / 1000,
        session.received,
        heard.finals,
        heard.legs,
        heard.replayed_ms / 1000,
        heard.billed_ms / 1000,
        session.resumes,
    )
