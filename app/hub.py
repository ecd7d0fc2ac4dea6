"""All sessions of this process: admit, open, resume, take over, tick, expire, end."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from weakref import WeakValueDictionary

from app.core.errors import SessionError, unknown
from app.core.protocol import Resume, SessionConfig, Start, parse
from app.core.record import Record, fingerprint
from app.core.session import Session, Timers
from app.journal import RENEW_SECONDS, Journal
from app.live import Live, Meter, Recognize
from app.relay import Disconnected, Relay, Socket, refuse
from app.store import StoreAwayError, Stored

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
RETRY_AFTER_MS = 5_000
FLUSH_SECONDS = 5.0
"""Of a drain, for the last words of the sessions that stay."""
CLOSE_SECONDS = 4.0
"""For the clients to hear why their connection ends."""
GROUP, GROUP_SECONDS = 50, 0.1
"""So many clients at a time are told to go."""
AWAY_RETRY_MS = 1_000
"""For who asks while the store is away, or the gateway is about to be."""


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Seconds, where nothing else is said."""

    max_sessions: int
    start: float
    idle: float
    max_session: float
    send: float
    window: float
    """Audio that a client may be ahead of `ack.final`."""
    resume: float
    """How long a session waits for its client; 0: it ends with its socket."""
    needs_store: bool
    """While the store is away no new session is opened."""


class Hub:
    """An async context manager: inside it sessions are served, at its end every one of them is closed 1012."""

    def __init__(
        self, recognize: Recognize, limits: HubLimits, meter: Meter, journal: Journal, wall_clock: Callable[[], float]
    ) -> None:
        """`wall_clock`: seconds since 1970."""
        self._recognize = recognize
        self._meter = meter
        self._limits = limits
        self._journal = journal
        self._wall_clock = wall_clock
        self._lives: dict[str, Live] = {}
        self._relays: dict[str, Relay] = {}
        """The link of each session that has one."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One resume of a session at a time."""
        self._ending: set[asyncio.Task[None]] = set()
        self.links_over = 0
        """So many there were."""
        self._sockets = 0
        self._closing = False
        self._ticker: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)

    async def close(self) -> None:
        """Opens nothing any more and tells every session `restarting`; returns when the last one has ended."""
        self._closing = True
        for live in list(self._lives.values()):
            self._let_go(live)
        await self._until_empty(CLOSE_SECONDS)
        for relay in list(self._relays.values()):
            relay.drop()
        await self._until_empty(None)
        await asyncio.gather(*self._ending)

    async def drain(self, seconds: float) -> None:
        """As `close`, but in peace: whoever can goes to another gateway, what the others have said becomes final.
        Returns within `seconds`, of which the last `CLOSE_SECONDS` are for clients that do not answer."""
        self._closing = True
        left = max(0.0, seconds - CLOSE_SECONDS)
        flush = min(FLUSH_SECONDS, left / 2)
        if self._journal.store.shared and not self._journal.away:
            await self._send_away(left - flush)
        await self._flush(flush)
        await self.close()

    async def _send_away(self, seconds: float) -> None:
        """Clients are told in groups, so that they do not come back all at once."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        for number, live in enumerate(list(self._lives.values())):
            if live.session.id not in self._relays:
                self._let_go(live)  # its client finds another gateway when it comes back
                continue
            live.session.go_away(max(0, round(1000 * (until - clock()))), "drain")
            live.changed()
            if number % GROUP == GROUP - 1:
                await asyncio.sleep(min(GROUP_SECONDS, until - clock()))
        while self._lives and clock() < until:
            for live in self._lives.values():
                self._journal.mark(live)  # has another gateway taken it over?
            await self._until_empty(min(TICK_SECONDS, until - clock()))

    async def _flush(self, seconds: float) -> None:
        """What was said so far becomes final."""
        flushed = [asyncio.create_task(live.flush()) for live in self._lives.values()]
        if flushed:
            await asyncio.wait(flushed, timeout=seconds)
        for task in flushed:
            task.cancel()
        await asyncio.gather(*flushed, return_exceptions=True)

    def _let_go(self, live: Live) -> None:
        """The session ends here. Another gateway can go on with it, where they share a store."""
        live.fail(SessionError("restarting", "the gateway is shutting down"))
        if live.session.id not in self._relays:
            self._end_soon(live)

    def _end_soon(self, live: Live) -> None:
        task = asyncio.create_task(self._end(live))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _until_empty(self, seconds: float | None) -> None:
        """Waits for the last session to end; at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._lives:
                    self._empty.clear()
                    await self._empty.wait()

    @property
    def sessions(self) -> int:
        return len(self._lives)

    @property
    def closing(self) -> bool:
        return self._closing

    @property
    def full(self) -> bool:
        return self._sockets >= self._limits.max_sessions

    @property
    def places(self) -> str:
        """In words; a socket takes a place before it says `start`."""
        return f"{self._sockets} of {self._limits.max_sessions} places are taken"

    def admit(self) -> None:
        """Before the upgrade. Raises SessionError when no session may be opened now."""
        if self._closing:
            raise SessionError("restarting", "the gateway is shutting down", retry_after_ms=AWAY_RETRY_MS)
        if self.full:
            raise SessionError("overloaded", self.places, retry_after_ms=RETRY_AFTER_MS)

    def store_trouble(self) -> str | None:
        """Why no new session is opened now."""
        if self._limits.needs_store and self._journal.away:
            return "the store is away, without which no session is to be opened"
        return None

    async def serve(self, socket: Socket) -> None:
        """One accepted socket, until it is closed."""
        self._sockets += 1
        try:
            relay = await self._link(socket)
            if relay is not None:
                await self._run(relay)
        except Disconnected:
            pass
        finally:
            self._sockets -= 1
            self.links_over += 1

    async def _link(self, socket: Socket) -> Relay | None:
        """The socket's place in a session, new or not; none where it was refused."""
        try:
            match await self._first_message(socket):
                case Start() as start:
                    return await self._open(start, socket)
                case Resume() as message:
                    return await self._resume(message, socket)
        except SessionError as error:
            await refuse(socket, error)
        return None

    async def _run(self, relay: Relay) -> None:
        session = relay.live.session
        try:
            await relay.run()
        finally:
            if self._relays.get(session.id) is relay:
                del self._relays[session.id]
                await self._after(relay)

    async def _after(self, relay: Relay) -> None:
        """The link is over: its session waits for the next one, or ends with it."""
        session = relay.live.session
        if relay.left:
            session.end("left")
        waits = not (self._closing or session.delivered or session.over or session.error)
        if self._limits.resume and waits:
            session.detach(asyncio.get_running_loop().time())
            return
        if relay.refusal is not None:
            session.fail(relay.refusal)
        await self._end(relay.live)

    async def _end(self, live: Live) -> None:
        """The session ends here; where it is not over, it can be taken over from the store."""
        session = live.session
        if self._lives.get(session.id) is not live:
            return  # it has ended already
        if not self._limits.resume:
            session.end("left")
        await self._journal.written(live)
        if self._lives.get(session.id) is not live:
            return
        del self._lives[session.id]
        try:
            await live.close()
        finally:
            if not self._lives:
                self._empty.set()
            _log_end(session)

    async def _first_message(self, socket: Socket) -> Start | Resume:
        try:
            async with asyncio.timeout(self._limits.start):
                frame = await socket.receive()
        except TimeoutError:
            raise SessionError("start_timeout", f"no `start` within {self._limits.start:g} s") from None
        if isinstance(frame, bytes):
            raise SessionError("bad_order", "the first message must be `start` or `resume`, not audio")
        match parse(frame):
            case Start() | Resume() as message:
                return message
            case other:
                kind = type(other).__struct_config__.tag
                raise SessionError("bad_order", f"the first message must be `start` or `resume`, not `{kind}`")

    async def _open(self, start: Start, socket: Socket) -> Relay:
        if trouble := self.store_trouble():
            raise SessionError("overloaded", trouble, retry_after_ms=AWAY_RETRY_MS)
        self._check_room()
        record = Record(
            session_id=secrets.token_urlsafe(12),
            principal="",
            config=SessionConfig(**{name: getattr(start, name) for name in SessionConfig.__struct_fields__}),
            epoch=1,
            tokens=(),
            settled=0,
            last_event=0,
            opened_at=self._wall_clock(),
        )
        live = self._bring_to_life(Stored(record, ()))
        live.session.started(secrets.token_urlsafe(32), round(self._limits.resume * 1000))
        log.info("session %s opened: %s", live.session.id, _describe(record.config))
        await self._journal.written(live)
        if trouble := self.store_trouble():
            await self._end(live)
            raise SessionError("overloaded", trouble, retry_after_ms=AWAY_RETRY_MS)
        return self._attach(live, socket)

    def _check_room(self) -> None:
        if len(self._lives) >= self._limits.max_sessions:  # of which some have no socket
            taken = (
                f"{len(self._lives)} of {self._limits.max_sessions} sessions are there, some of them without a client"
            )
            raise SessionError("overloaded", taken, retry_after_ms=RETRY_AFTER_MS)

    def _bring_to_life(self, stored: Stored) -> Live:
        """A session that is not here yet. Raises SessionError where nobody can hear it."""
        limits, record = self._limits, stored.record
        session = Session(
            record,
            stored.events,
            timers=Timers(idle=limits.idle, max_session=limits.max_session),
            window_seconds=limits.window,
            now=asyncio.get_running_loop().time(),
            age=max(0.0, self._wall_clock() - record.opened_at),
        )
        live = Live(session, self._recognize, self._meter, self._journal.mark)
        self._lives[session.id] = live
        self._meter.opened()
        return live

    async def _resume(self, message: Resume, socket: Socket) -> Relay:
        """The newest connection wins: the older one of the same session ends first."""
        turn = self._turns.setdefault(message.session_id, asyncio.Lock())
        async with turn:
            live = await self._here(message) or await self._claim(message)
            session = live.session
            session.resume(message, secrets.token_urlsafe(32), asyncio.get_running_loop().time())
            log.info("session %s resumed: %d", session.id, session.resumes)
            await self._journal.written(live)
            return self._attach(live, socket)

    async def _here(self, message: Resume) -> Live | None:
        """The session, where this gateway has it and no other one. Ends its link."""
        live = self._lives.get(message.session_id)
        if live is None:
            return None
        session = live.session
        await self._journal.confirm(live)
        if not session.is_fenced:
            self._check_resume(session, message)
        await self._unlink(session.id)
        if session.has_failed_here:
            await self._end(live)
        return self._lives.get(session.id)

    def _check_resume(self, session: Session, message: Resume) -> None:
        """Raises SessionError. While the store is away another gateway may have the session, and know the client."""
        try:
            session.check_resume(message)
        except SessionError as error:
            if self._journal.away:
                raise _no_store() from error
            raise

    async def _unlink(self, session_id: str) -> None:
        """Ends the session's link, and waits for it."""
        while relay := self._relays.get(session_id):
            relay.refuse(SessionError("superseded", "another connection has resumed this session"))
            await relay.ended()
            if self._relays.get(session_id) is relay:
                del self._relays[session_id]

    async def _claim(self, message: Resume) -> Live:
        """The session, from the store: another gateway had it, or this one did and had to let it go."""
        if self._closing:
            raise SessionError("restarting", "the gateway is shutting down", retry_after_ms=AWAY_RETRY_MS)
        self._check_room()
        try:
            stored = await self._journal.store.claim(message.session_id, fingerprint(message.resume_token))
        except StoreAwayError as error:
            raise _no_store() from error
        if message.last_event > stored.record.last_event:  # it was told while the store was away
            raise unknown(message.session_id)
        live = self._bring_to_life(stored)
        await live.go_on_from(live.session.received)
        return live

    def _attach(self, live: Live, socket: Socket) -> Relay:
        relay = Relay(live, socket, send_seconds=self._limits.send)
        self._relays[live.session.id] = relay
        return relay

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for number, live in enumerate(list(self._lives.values())):
                if number % GROUP == GROUP - 1:
                    await asyncio.sleep(0)  # in turns: each has something to send after it
                if self._lives.get(live.session.id) is live:
                    self._tick_one(live, clock())

    def _tick_one(self, live: Live, now: float) -> None:
        if relay := self._relays.get(live.session.id):
            relay.tick(now)
        else:
            self._tick_detached(live, now)
        if now - live.written_at >= RENEW_SECONDS:
            self._journal.mark(live)

    def _tick_detached(self, live: Live, now: float) -> None:
        live.tick(now)
        session = live.session
        if session.detached_at is not None and now - session.detached_at >= self._limits.resume:
            session.end("resume_window_expired")
        if session.over or session.has_failed_here:
            self._end_soon(live)


def _no_store() -> SessionError:
    text = "the store is away: sessions that are not here cannot be gone on with"
    return SessionError("overloaded", text, retry_after_ms=AWAY_RETRY_MS)


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


def _describe(config: SessionConfig) -> str:
    audio = config.audio
    return f"{audio.encoding} {audio.sample_rate_hertz} Hz, {','.join(config.language_codes)}"
