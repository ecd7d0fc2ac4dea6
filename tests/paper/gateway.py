"""One gateway, as far as its one session is concerned: what hub, live, relay and journal do with it, step by step."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from app.core.errors import SessionError
from app.core.protocol import (
    Ack,
    Durable,
    Finalize,
    Gap,
    Resume,
    Stop,
    WarningMessage,
    error_message,
    parse_server,
    serialize,
)
from app.core.recognition import Event
from app.core.record import Change
from app.core.session import Phase, Session
from app.core.timers import Timers
from app.store import FENCED, Stored
from tests.paper.audio import UNIT
from tests.paper.store import PaperStore, Write
from tests.paper.upstream import Upstream

RESUME_SECONDS, RENEW_SECONDS, KEEP_SECONDS = 100.0, 5.0, 1e9
FOR_EVER = 1e9


@dataclass(eq=False)
class Wire:
    """A socket between the client and a gateway."""

    unread: deque[str] = field(default_factory=deque)
    """Sent to the client, which has not read it yet."""
    warned: bool = False
    """The gateway has said that what it tells may not be in the store."""
    is_last: bool = False
    """Nothing comes after what is unread."""


class Gateway:
    def __init__(self, stored: Stored, store: PaperStore, clock: Callable[[], float]) -> None:
        self.session = Session(
            stored.record,
            stored.events,
            timers=Timers(idle=FOR_EVER, max_session=FOR_EVER),
            window_seconds=10,
            now=clock(),
        )
        self.upstream = Upstream(self.session.received // UNIT, self._hear)
        self.wire: Wire | None = None
        self.cut_off = False
        """From the store."""
        self.gone = False
        """It has the session no more."""
        self.write: Write | None = None
        """On its way."""
        self.away = False
        """As far as it knows, the store is."""
        self._store = store
        self._clock = clock
        self._finishing = False

    def __repr__(self) -> str:
        return f"<gateway of epoch {self.session.epoch}>"

    # The client's side --------------------------------------------------------------------------

    def attach(self, wire: Wire) -> None:
        self.wire = wire

    def take(self, said: bytes | Gap | Finalize | Stop) -> None:
        """Raises SessionError."""
        session = self.session
        session.heard_from_client(self._clock())
        match said:
            case bytes():
                self.upstream.send(session.receive_audio(said))
            case Gap() if session.receive_gap(said):
                self.upstream.skip(said.bytes)
            case Finalize():
                session.finalize(said)
            case Stop() if session.stop():
                self.upstream.finish()
        self._changed()

    def tell(self) -> None:
        """What is due goes out. After the last of it the link is over."""
        wire, session = self.wire, self.session
        if wire is None or wire.is_last:
            return
        wire.is_last = session.all_is_due
        messages = session.due()
        if session.is_fenced:
            said = [msgspec.json.decode(text).get("code") for text in messages]
            assert said == ["superseded"], "who is fenced says nothing but that"
        for text in messages:
            self._check_promise(wire, text)
            wire.unread.append(text)
        if session.error and wire.is_last:
            self.link_is_over()

    def _check_promise(self, wire: Wire, text: str) -> None:
        match parse_server(text):
            case WarningMessage(code) if code in {"resumable", "not_resumable"}:
                wire.warned = code == "not_resumable"
            case Ack(final=final):
                assert wire.warned or final <= self._store.had_settled, "the store has what the client may forget"
            case message if isinstance(message, Durable):
                assert wire.warned or text in self._store.had, "what is durable is told when the store has it"

    def link_is_over(self) -> None:
        """As the hub does after a link."""
        self.wire = None
        session = self.session
        if session.delivered or session.over or session.error:
            self.end()
        else:
            session.detach(self._clock())

    def unlink(self) -> None:
        """For a newer link."""
        if self.wire is not None:
            superseded = SessionError("superseded", "another connection has resumed this session")
            self.wire.unread.append(serialize(error_message(superseded)))
            self.wire.is_last = True
            self.wire = None

    def check_resume(self, message: Resume) -> None:
        """Raises SessionError. Without the store it does not say that it knows better."""
        try:
            self.session.check_resume(message, "")
        except SessionError:
            if self.away:
                raise no_store() from None
            raise

    def resume(self, message: Resume, token: str, wire: Wire) -> None:
        self.session.resume(message, token, self._clock())
        self.written()
        self.attach(wire)

    def end(self) -> None:
        self.written()
        self.gone = True

    def tick(self) -> None:
        """Of the hub, with what it has renewed of the record."""
        session, now = self.session, self._clock()
        self.save()
        session.tick(now)
        self._changed()
        if self.wire is None:
            if session.detached_at is not None and now - session.detached_at >= RESUME_SECONDS:
                session.end("resume_window_expired")
            if session.over or session.has_failed_here:
                self.end()

    def close(self) -> None:
        """Its longest time is over."""
        self.session.close()
        self._finish_if_closing()
        self._changed()

    # The upstream's side ------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        self.session.receive(event)
        self._finish_if_closing()
        self._changed()

    def _finish_if_closing(self) -> None:
        if self.session.phase is Phase.CLOSING and not self._finishing:
            self._finishing = True
            self.upstream.finish()

    # The store's side ---------------------------------------------------------------------------

    def _changed(self) -> None:
        if self.away and not self.session.is_written:
            self.session.goes_unwritten()

    def begin_write(self) -> None:
        """One at a time."""
        if self.write is not None:
            return
        session = self.session
        record, events = session.record()
        resume = 0.0 if session.over else self._resume_seconds()
        change = Change(record=record, events=events, resume_seconds=resume, keep_seconds=resume + KEEP_SECONDS)
        self.write = Write(change, session.mark(), self._store.next_number())

    def write_arrives(self) -> None:
        assert self.write is not None
        if not self.cut_off and not self.write.arrived:
            self.write.arrived = True
            self.write.answer = self._store.save(self.write)

    def write_is_answered(self) -> None:
        """Or it is given up: where it had not arrived it may still do so."""
        write, self.write = self.write, None
        assert write is not None
        if self.cut_off or write.answer is None:
            if not write.arrived:
                self._store.late.append(write)
            self.away = True
            self.session.goes_unwritten()
            return
        self.away = False
        if write.answer == FENCED:
            self.session.fence()
        elif write.answer == write.change.record.last_event:
            self.session.wrote(write.mark)
        else:
            self.session.lacks_events(write.answer)

    def save(self) -> None:
        """All of it as it is now, after what was on its way."""
        if self.write is not None:
            self._end_write()
        self.begin_write()
        self._end_write()

    def _end_write(self) -> None:
        self.write_arrives()
        self.write_is_answered()

    def written(self) -> None:
        for _ in range(4):
            if self.session.is_written or self.session.is_fenced or self.away:
                return
            self.save()
        raise AssertionError("the store has all of it in the end, or another gateway has the session")

    def _resume_seconds(self) -> float:
        detached_at = self.session.detached_at
        if detached_at is None:
            return RESUME_SECONDS + RENEW_SECONDS
        return max(0.0, RESUME_SECONDS - (self._clock() - detached_at))


def no_store() -> SessionError:
    return SessionError("overloaded", "the store is away")
