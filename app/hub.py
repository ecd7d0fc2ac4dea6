"""A socket comes: admit, open a session, resume one, take one over from another gateway."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from app.core.errors import SessionError, going_down, unknown
from app.core.grant import Grant, check_unused
from app.core.protocol import Resume, SessionConfig, Start, parse
from app.core.record import Record, fingerprint
from app.core.session import Session
from app.core.timers import Timers
from app.live import Live, Meter, Recognize
from app.quota.account import Account
from app.quota.quota import Quota
from app.registry import Registry
from app.relay import Disconnected, Relay, Socket, refuse
from app.store import StoreAwayError, StoreBehindError, Stored

log = logging.getLogger(__name__)

RETRY_AFTER_MS = 5_000
AWAY_RETRY_MS = 1_000
"""For who asks while the store is away, or the gateway is about to be."""
RESERVE = 10
"""A place over the limit for each so many, and at least one, for who resumes a session that is here: its old connection
may be dead without anybody having noticed."""
SILENT_SECONDS = 1.0
"""Where every place is taken, who has said nothing for so long makes room: clients speak as soon as they are in."""
BEHIND_SECONDS = 2.0
"""A store that is back has by then what was told while it was away."""


Redeem = Callable[[Grant, str], Awaitable[None]]
"""A one-time token belongs to the session with this id. Raises SessionError where it belongs to another one."""


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Seconds, where nothing else is said."""

    max_sessions: int
    start: float
    idle: float
    silent: float
    max_session: float
    send: float
    window: float
    """Audio that a client may be ahead of `ack.final`."""
    resume: float
    """How long a session waits for its client; 0: it ends with its socket."""
    frame_bytes: int
    """Largest audio frame."""
    controls_per_second: float
    """Messages other than audio, of one client."""
    needs_store: bool
    """While the store is away no new session is opened."""


class _MadeRoomError(SessionError):
    """Every place was taken, and this connection had said nothing for the longest time."""

    def __init__(self) -> None:
        text = "every place is taken, and this connection has said nothing for the longest time"
        super().__init__("overloaded", text, retry_after_ms=RETRY_AFTER_MS)


class Hub:
    def __init__(
        self,
        recognize: Recognize,
        limits: HubLimits,
        meter: Meter,
        registry: Registry,
        *,
        redeem: Redeem,
        quota: Quota,
        wall_clock: Callable[[], float],
    ) -> None:
        """`wall_clock`: seconds since 1970."""
        self.registry = registry
        self._recognize = recognize
        self._meter = meter
        self._limits = limits
        self._quota = quota
        self._journal = registry.journal
        self._redeem = redeem
        self._wall_clock = wall_clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One resume of a session at a time."""
        self.links_over = 0
        """So many there were."""
        self._sockets = 0
        self._silent: dict[asyncio.Timeout, float] = {}
        """Of those that have said nothing yet: what ends the wait for it, and since when. The longest comes first."""
        self._outgoing = 0
        """Sockets that had to make room, and are being told."""
        self._coming = 0
        """Sessions that are, from other gateways, or where it is not known yet whether they may."""

    @property
    def sessions(self) -> int:
        return len(self.registry.lives)

    @property
    def closing(self) -> bool:
        return self.registry.closing

    @property
    def full(self) -> bool:
        return self._taken >= self._limits.max_sessions

    @property
    def places(self) -> str:
        """In words; a socket takes a place before it says `start`, and a session keeps it while its client is away."""
        limit = self._limits.max_sessions
        return f"{min(self._taken, limit)} of {limit} places are taken"

    @property
    def _taken(self) -> int:
        return max(self._sockets - self._outgoing, self.sessions)

    def admit(self) -> None:
        """Before the upgrade. Raises SessionError when no session may be opened now, nor gone on with."""
        if self.registry.closing:
            raise going_down(AWAY_RETRY_MS)
        limit = self._limits.max_sessions
        inside = self._sockets - self._outgoing
        if inside >= limit + max(1, limit // RESERVE) and not self._make_room():
            raise SessionError("overloaded", self.places, retry_after_ms=RETRY_AFTER_MS)

    def _make_room(self) -> bool:
        """Who has been silent for the longest time goes, if that is long enough."""
        now = asyncio.get_running_loop().time()
        longest = next(iter(self._silent), None)
        if longest is None or now - self._silent[longest] < SILENT_SECONDS:
            return False
        del self._silent[longest]
        self._outgoing += 1
        longest.reschedule(now)
        return True

    @contextmanager
    def link(self, grant: Grant) -> Iterator[None]:
        """One connection of who has this grant, from before the upgrade to its end."""
        with self._quota.link(grant):
            yield

    async def knock(self, grant: Grant) -> None:
        """After `admit`. Raises SessionError where nothing that this credential may say now would be obeyed."""
        await self._quota.knock(grant)

    def store_trouble(self) -> str | None:
        """Why no new session is opened now."""
        if self._limits.needs_store and (self._journal.away or self._quota.away):
            return "the store is away, without which no session is to be opened"
        return None

    async def serve(self, socket: Socket, grant: Grant) -> None:
        """One accepted socket of who has this grant, until it is closed."""
        self._sockets += 1
        try:
            relay = await self._link(socket, grant)
            if relay is not None:
                await self.registry.run(relay)
        except Disconnected:
            pass
        finally:
            self._sockets -= 1
            self.links_over += 1

    async def _link(self, socket: Socket, grant: Grant) -> Relay | None:
        """The socket's place in a session, new or not; none where it was refused."""
        try:
            match await self._first_message(socket):
                case Start() as start:
                    return await self._open(start, socket, grant)
                case Resume() as message:
                    return await self._resume(message, socket, grant)
        except _MadeRoomError as error:
            try:
                await refuse(socket, error)
            finally:
                self._outgoing -= 1
        except SessionError as error:
            await refuse(socket, error)
        return None

    async def _first_message(self, socket: Socket) -> Start | Resume:
        frame = await self._first_frame(socket)
        if isinstance(frame, bytes):
            raise SessionError("bad_order", "the first message must be `start` or `resume`, not audio")
        match parse(frame, self._limits.frame_bytes):
            case Start() | Resume() as message:
                return message
            case other:
                kind = type(other).__struct_config__.tag
                raise SessionError("bad_order", f"the first message must be `start` or `resume`, not `{kind}`")

    async def _first_frame(self, socket: Socket) -> str | bytes:
        patience = asyncio.timeout(self._limits.start)
        try:
            async with patience:
                self._silent[patience] = asyncio.get_running_loop().time()
                return await socket.receive()
        except TimeoutError:
            if patience not in self._silent:
                raise _MadeRoomError from None
            raise SessionError("start_timeout", f"no `start` within {self._limits.start:g} s") from None
        finally:
            if self._silent.pop(patience, None) is None and not patience.expired():
                self._outgoing -= 1  # it spoke, or went, in the very moment

    async def _open(self, start: Start, socket: Socket, grant: Grant) -> Relay:
        if self.registry.closing:
            raise going_down(AWAY_RETRY_MS)
        if trouble := self.store_trouble():
            raise SessionError("overloaded", trouble, retry_after_ms=AWAY_RETRY_MS)
        self._check_room()
        check_unused(grant)
        _check_languages(start, grant)
        record = Record(
            session_id=secrets.token_urlsafe(12),
            principal=grant.principal,
            config=SessionConfig(**{name: getattr(start, name) for name in SessionConfig.__struct_fields__}),
            epoch=1,
            tokens=(),
            settled=0,
            last_event=0,
            opened_at=self._wall_clock(),
            bounds=grant.bounds,
        )
        self._coming += 1
        try:
            account = await self._quota.open(record, grant)
        finally:
            self._coming -= 1
        live = await self._bring_to_life(Stored(record, ()), account)
        live.session.started(secrets.token_urlsafe(32), round(self._limits.resume * 1000))
        log.info("session %s opened: %s", live.session.id, _describe(record.config))
        try:
            await self._redeem(grant, live.session.id)
            await self._journal.written(live)
            if trouble := self.store_trouble():
                raise SessionError("overloaded", trouble, retry_after_ms=AWAY_RETRY_MS)
        except SessionError:
            live.session.end("refused")
            await self.registry.end(live)
            raise
        return self._relay(live, socket)

    def _relay(self, live: Live, socket: Socket) -> Relay:
        limits = self._limits
        return Relay(live, socket, send_seconds=limits.send, controls_per_second=limits.controls_per_second)

    def _check_room(self) -> None:
        if self.sessions + self._coming >= self._limits.max_sessions:
            raise SessionError("overloaded", self.places, retry_after_ms=RETRY_AFTER_MS)

    async def _bring_to_life(self, stored: Stored, account: Account) -> Live:
        """A session that is not here yet. Raises SessionError where nobody can hear it."""
        try:
            if self.registry.closing:
                raise going_down(AWAY_RETRY_MS)
            live = self._live(stored, account)
        except BaseException:
            await account.close(over=stored.record.epoch == 1)  # else it was heard elsewhere
            raise
        self.registry.lives[live.session.id] = live
        self._meter.opened()
        return live

    def _live(self, stored: Stored, account: Account) -> Live:
        limits, record = self._limits, stored.record
        longest = record.bounds.max_session_seconds
        session = Session(
            record,
            stored.events,
            timers=Timers(
                idle=limits.idle,
                max_session=limits.max_session if longest is None else min(longest, limits.max_session),
                silent=limits.silent,
            ),
            window_seconds=limits.window,
            max_frame_bytes=limits.frame_bytes,
            now=asyncio.get_running_loop().time(),
            age=max(0.0, self._wall_clock() - record.opened_at),
        )
        return Live(session, self._recognize, account, self._meter, self._journal.mark)

    async def _resume(self, message: Resume, socket: Socket, grant: Grant) -> Relay:
        """The newest connection wins: the older one of the same session ends first."""
        if not grant.may_resume(message.session_id):
            raise unknown(message.session_id)
        turn = self._turns.setdefault(message.session_id, asyncio.Lock())
        async with turn:
            live = await self._here(message, grant) or await self._claim(message, grant)
            session = live.session
            try:
                await self._redeem(grant, session.id)
            except SessionError:
                session.detach(asyncio.get_running_loop().time())  # it waits for who has a better one
                raise
            session.resume(message, secrets.token_urlsafe(32), asyncio.get_running_loop().time())
            log.info("session %s resumed: %d", session.id, session.resumes)
            await self._journal.written(live)
            return self._relay(live, socket)

    async def _here(self, message: Resume, grant: Grant) -> Live | None:
        """The session, where this gateway has it and no other one. Ends its link."""
        live = self.registry.lives.get(message.session_id)
        if live is None:
            return None
        session = live.session
        await self._journal.confirm(live)
        if not session.is_fenced:
            self._check_resume(session, message, grant)
        why = SessionError("superseded", "another connection has resumed this session")
        await self.registry.unlink(session.id, why)
        if session.over or session.has_failed_here:  # it may have waited too long by now
            await self.registry.end(live)
        return self.registry.lives.get(session.id)

    def _check_resume(self, session: Session, message: Resume, grant: Grant) -> None:
        """Raises SessionError. While the store is away another gateway may have the session, and know the client."""
        try:
            session.check_resume(message, grant.principal)
        except SessionError as error:
            if self._journal.away:
                raise _no_store() from error
            raise

    async def _claim(self, message: Resume, grant: Grant) -> Live:
        """The session, from the store: another gateway had it, or this one did and had to let it go."""
        if self.registry.closing:
            raise going_down(AWAY_RETRY_MS)
        self._check_room()
        self._coming += 1
        try:
            stored = await self._from_store(message, grant)
            account = await self._quota.go_on(stored.record, grant)
        finally:
            self._coming -= 1
        live = await self._bring_to_life(stored, account)
        await live.go_on_from(live.session.received)
        return live

    async def _from_store(self, message: Resume, grant: Grant) -> Stored:
        """Where the store is behind, the gateway that has the session is given time to write what it has told."""
        clock = asyncio.get_running_loop().time
        until = clock() + BEHIND_SECONDS
        while True:
            try:
                return await self._journal.store.claim(
                    message.session_id, fingerprint(message.resume_token, grant.principal), message.last_event
                )
            except StoreAwayError as error:
                raise _no_store() from error
            except StoreBehindError:
                if clock() >= until:
                    raise unknown(message.session_id) from None
                await asyncio.sleep(BEHIND_SECONDS / 10)


def _check_languages(start: Start, grant: Grant) -> None:
    allowed = grant.bounds.language_codes
    for index, code in enumerate(start.language_codes):
        if allowed is not None and code not in allowed:
            name = f"language_codes[{index}]"
            text = f"{name}: {code!r} is not among those that this credential allows: {', '.join(allowed)}"
            raise SessionError("forbidden", text, param=name)


def _no_store() -> SessionError:
    text = "the store is away: sessions that are not here cannot be gone on with"
    return SessionError("overloaded", text, retry_after_ms=AWAY_RETRY_MS)


def _describe(config: SessionConfig) -> str:
    audio = config.audio
    return f"{audio.encoding} {audio.sample_rate_hertz} Hz, {','.join(config.language_codes)}"
