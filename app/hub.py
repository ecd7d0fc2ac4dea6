"""All sessions of this process: admit, open, tick, end."""

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Self

from app.core.errors import SessionError
from app.core.protocol import Resume, SessionConfig, Start, error_message, parse, serialize
from app.core.session import Session, Timers
from app.relay import Disconnected, Meter, Recognize, Relay, Socket, clip

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
RETRY_AFTER_MS = 5_000


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


class Hub:
    """An async context manager: inside it sessions are served, at its end every one of them is closed 1012."""

    def __init__(self, recognize: Recognize, limits: HubLimits, meter: Meter) -> None:
        self._recognize = recognize
        self._meter = meter
        self._limits = limits
        self._relays: dict[str, Relay] = {}
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
        for relay in self._relays.values():
            relay.fail(SessionError("restarting", "the gateway is shutting down"))
        while self._relays:
            self._empty.clear()
            await self._empty.wait()

    @property
    def sessions(self) -> int:
        return len(self._relays)

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
            await self._open_and_run(socket)
        except Disconnected:
            pass
        finally:
            self._sockets -= 1

    async def _open_and_run(self, socket: Socket) -> None:
        try:
            relay = self._open(await self._first_message(socket), socket)
        except SessionError as error:
            await refuse(socket, error)
            return
        session = relay.session
        self._relays[session.id] = relay
        self._meter.opened()
        log.info("session %s opened: %s", session.id, _describe(session.config))
        try:
            await relay.run()
        finally:
            del self._relays[session.id]
            if not self._relays:
                self._empty.set()
            self._meter.closed(session)
            log.info(
                "session %s closed: %s, %.1f s, %d bytes, %d finals, %d legs, replayed %.1f s, billed %.1f s",
                session.id,
                session.how_it_ended,
                session.format.ms(session.received) / 1000,
                session.received,
                session.finals,
                session.legs,
                session.replayed_ms / 1000,
                session.billed_ms / 1000,
            )

    async def _first_message(self, socket: Socket) -> Start:
        try:
            async with asyncio.timeout(self._limits.start):
                frame = await socket.receive()
        except TimeoutError:
            raise SessionError("start_timeout", f"no `start` within {self._limits.start:g} s") from None
        if isinstance(frame, bytes):
            raise SessionError("bad_order", "the first message must be `start`, not audio")
        match parse(frame):
            case Start() as start:
                return start
            case Resume(session_id=session_id):
                raise SessionError("session_unknown", f"session {session_id[:64]!r} is not known here")
            case other:
                kind = type(other).__struct_config__.tag
                raise SessionError("bad_order", f"the first message must be `start`, not `{kind}`")

    def _open(self, start: Start, socket: Socket) -> Relay:
        config = SessionConfig(**{name: getattr(start, name) for name in SessionConfig.__struct_fields__})
        limits = self._limits
        session = Session(
            secrets.token_urlsafe(12),
            config,
            timers=Timers(idle=limits.idle, max_session=limits.max_session),
            window_seconds=limits.window,
            now=asyncio.get_running_loop().time(),
        )
        relay = Relay(session, socket, self._recognize, meter=self._meter, send_seconds=limits.send)
        session.started(resume_token=secrets.token_urlsafe(32), resume_window_ms=0)
        return relay

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for relay in list(self._relays.values()):
                relay.tick(clock())


async def refuse(socket: Socket, error: SessionError) -> None:
    """Tells and closes a socket that has no session."""
    await socket.send(serialize(error_message(error)))
    await socket.close(error.refusal.close_code, clip(error.message))


def _describe(config: SessionConfig) -> str:
    audio = config.audio
    return f"{audio.encoding} {audio.sample_rate_hertz} Hz, {','.join(config.language_codes)}"
