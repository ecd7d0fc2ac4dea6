"""All sessions of this process: admit, open, resume, take over, tick, expire, end."""

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Self

from app.core.errors import SessionError
from app.core.protocol import Resume, SessionConfig, Start, parse
from app.core.session import Session, Timers, unknown
from app.live import Live, Meter, Recognize
from app.relay import Disconnected, Relay, Socket, refuse

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
RETRY_AFTER_MS = 5_000
REMEMBERED = 10_000
"""Sessions that have ended and are known to have: their clients hear that instead of `session_unknown`."""


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


class Hub:
    """An async context manager: inside it sessions are served, at its end every one of them is closed 1012."""

    def __init__(self, recognize: Recognize, limits: HubLimits, meter: Meter) -> None:
        self._recognize = recognize
        self._meter = meter
        self._limits = limits
        self._lives: dict[str, Live] = {}
        self._relays: dict[str, Relay] = {}
        """The link of each session that has one."""
        self._past: dict[str, SessionError] = {}
        """What a resume of an ended session is told, oldest first."""
        self._ending: set[asyncio.Task[None]] = set()
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
        for session_id, live in list(self._lives.items()):
            live.fail(SessionError("restarting", "the gateway is shutting down"))
            if session_id not in self._relays:
                await self._end(live)
        while self._lives:
            self._empty.clear()
            await self._empty.wait()
        await asyncio.gather(*self._ending)

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
            raise SessionError("restarting", "the gateway is shutting down", retry_after_ms=RETRY_AFTER_MS)
        if self.full:
            raise SessionError("overloaded", self.places, retry_after_ms=RETRY_AFTER_MS)

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

    async def _link(self, socket: Socket) -> Relay | None:
        """The socket's place in a session, new or not; none where it was refused."""
        try:
            match await self._first_message(socket):
                case Start() as start:
                    return self._open(start, socket)
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
        over = relay.left or session.delivered or session.error is not None
        if self._limits.resume and not self._closing and not over:
            session.detach(asyncio.get_running_loop().time())
            return
        if relay.refusal is not None:
            session.fail(relay.refusal)
        await self._end(relay.live)

    async def _end(self, live: Live, why: SessionError | None = None) -> None:
        session = live.session
        if self._lives.pop(session.id, None) is None:
            return  # it has ended already
        self._remember(session.id, why or SessionError("session_ended", f"session {session.id} has ended"))
        try:
            await live.close()
        finally:
            if not self._lives:
                self._empty.set()
            log.info(
                "session %s closed: %s, %.1f s, %d bytes, %d finals, %d legs, replayed %.1f s, billed %.1f s, "
                "%d resumes",
                session.id,
                session.how_it_ended,
                session.format.ms(session.received) / 1000,
                session.received,
                session.finals,
                session.legs,
                session.replayed_ms / 1000,
                session.billed_ms / 1000,
                session.resumes,
            )

    def _remember(self, session_id: str, error: SessionError) -> None:
        if self._limits.resume:
            self._past[session_id] = error
            if len(self._past) > REMEMBERED:
                del self._past[next(iter(self._past))]

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

    def _open(self, start: Start, socket: Socket) -> Relay:
        config = SessionConfig(**{name: getattr(start, name) for name in SessionConfig.__struct_fields__})
        limits = self._limits
        if len(self._lives) >= limits.max_sessions:  # of which some have no socket
            taken = f"{len(self._lives)} of {limits.max_sessions} sessions are there, some of them without a client"
            raise SessionError("overloaded", taken, retry_after_ms=RETRY_AFTER_MS)
        session = Session(
            secrets.token_urlsafe(12),
            config,
            timers=Timers(idle=limits.idle, max_session=limits.max_session),
            window_seconds=limits.window,
            keeps_history=limits.resume > 0,
            now=asyncio.get_running_loop().time(),
        )
        live = Live(session, self._recognize, self._meter)
        session.started(secrets.token_urlsafe(32), round(limits.resume * 1000))
        self._lives[session.id] = live
        self._meter.opened()
        log.info("session %s opened: %s", session.id, _describe(session.config))
        return self._attach(live, socket)

    async def _resume(self, message: Resume, socket: Socket) -> Relay:
        """The newest connection wins: the older one of the same session ends first."""
        live = self._live(message)
        live.session.check_resume(message)
        while relay := self._relays.get(message.session_id):
            relay.refuse(SessionError("superseded", "another connection has resumed this session"))
            await relay.ended()
            if self._relays.get(message.session_id) is relay:
                del self._relays[message.session_id]
        live = self._live(message)  # it may have ended, or been resumed by another one, meanwhile
        live.session.check_resume(message)
        live.session.resume(message, secrets.token_urlsafe(32), asyncio.get_running_loop().time())
        log.info("session %s resumed: %d", live.session.id, live.session.resumes)
        return self._attach(live, socket)

    def _live(self, message: Resume) -> Live:
        live = self._lives.get(message.session_id)
        if live is None:
            raise self._past.get(message.session_id) or unknown(message.session_id)
        return live

    def _attach(self, live: Live, socket: Socket) -> Relay:
        relay = Relay(live, socket, send_seconds=self._limits.send)
        self._relays[live.session.id] = relay
        return relay

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for session_id, live in list(self._lives.items()):
                if relay := self._relays.get(session_id):
                    relay.tick(clock())
                else:
                    self._tick_detached(live, clock())

    def _tick_detached(self, live: Live, now: float) -> None:
        live.tick(now)
        since = live.session.detached_at
        if since is not None and now - since >= self._limits.resume:
            expired = f"session {live.session.id} waited {self._limits.resume:g} s for its client, the limit"
            task = asyncio.create_task(self._end(live, SessionError("resume_window_expired", expired)))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


def _describe(config: SessionConfig) -> str:
    audio = config.audio
    return f"{audio.encoding} {audio.sample_rate_hertz} Hz, {','.join(config.language_codes)}"
