"""The client, its gateways and their store, and what the network and time do to them."""

from contextlib import suppress

from app.core.errors import SessionError, unknown
from app.core.protocol import Resume
from app.core.record import Record
from app.store import Stored
from tests.paper.audio import CONFIG, SESSION
from tests.paper.client import Client
from tests.paper.gateway import RESUME_SECONDS, Gateway, Wire, no_store
from tests.paper.store import PaperStore


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.store = PaperStore()
        self.client = Client(self.store)
        self.gateways: list[Gateway] = []
        """That have the session, or think so; the newest is last."""
        self.over = False
        """The client will not go on with it."""
        self.resumes: list[Resume] = []
        """All that were said."""
        self.twice: list[Resume] = []
        """Those of them that the network has brought twice."""
        self._tokens = 0
        self._away_since: float | None = None
        """The client is."""
        self._open()

    def _open(self) -> None:
        record = Record(
            session_id=SESSION,
            principal="",
            config=CONFIG,
            epoch=1,
            tokens=(),
            settled=0,
            last_event=0,
            opened_at=0.0,
        )
        gateway, wire = self._bring_to_life(Stored(record, ())), Wire()
        gateway.session.started(self._token(), round(RESUME_SECONDS * 1000))
        gateway.written()
        gateway.attach(wire)
        self.client.connect(wire)
        self.exchange()

    # The network --------------------------------------------------------------------------------

    @property
    def serving(self) -> Gateway | None:
        """The gateway that the client speaks to."""
        wire = self.client.wire
        return next((gateway for gateway in self.gateways if wire and gateway.wire is wire), None)

    def exchange(self) -> None:
        """Whatever can be said goes both ways."""
        if gateway := self.serving:
            gateway.tell()
        self.read()
        self.bury()
        self.speak()

    def read(self, messages: int | None = None) -> None:
        """The client reads so many messages, or all; `resumed` and a warning right after it are one breath."""
        while (wire := self.client.wire) and wire.unread and (messages != 0 or "not_resumable" in wire.unread[0]):
            self.client.read(wire.unread.popleft())
            messages = messages and messages - 1
            if self.client.stopped:
                self._is_delivered(wire)
        if self.client.wire is None:
            self._leave()

    def speak(self) -> None:
        """What the client has to say goes out, once it was greeted."""
        gateway = self.serving
        if gateway is None or not self.client.greeted:
            return
        self._away_since = None
        while item := self.client.outbox.next():
            gateway.take(item[1])
            self.client.spoke()

    def break_link(self, *, noticed: bool) -> None:
        """What was not read is lost."""
        gateway = self.serving
        self.client.wire = None
        self._leave()
        if gateway and noticed:
            gateway.link_is_over()
        self.bury()

    def notice(self, gateway: Gateway) -> None:
        """That its link is dead."""
        gateway.link_is_over()
        self.bury()

    def _leave(self) -> None:
        if self._away_since is None:
            self._away_since = self.now

    def _is_delivered(self, wire: Wire) -> None:
        self.over = True
        for gateway in self.gateways:
            if gateway.wire is wire:
                gateway.session.delivered = True
                gateway.link_is_over()
                could_write = not (gateway.away or gateway.session.is_fenced)
                again = Resume(SESSION, self.client.token, 0)
                assert not (could_write and self.admits(again, None)), "nobody goes on with what has ended"
        self.bury()

    # The client comes back ----------------------------------------------------------------------

    def come_back(self, to: Gateway | None, last_event: int) -> None:
        """`to`: a gateway that has the session, or none of them."""
        wire = Wire()
        message = self.client.resume(wire, last_event)
        self.resumes.append(message)
        try:
            self._admit(message, to, wire)
        except SessionError as error:
            self.client.wire = None
            self._leave()
            self._is_refused(error.code)

    def repeat(self, message: Resume, to: Gateway | None) -> None:
        """The network brings it twice: nobody reads the link that it gets."""
        self.twice.append(message)
        with suppress(SessionError):
            self._admit(message, to, Wire())

    def admits(self, message: Resume, to: Gateway | None) -> bool:
        """Whether somebody is let in who says so."""
        try:
            if to is None:
                self._claim(message, cut_off=False)
            else:
                to.session.check_resume(message, "")
        except SessionError:
            return False
        return True

    def _admit(self, message: Resume, to: Gateway | None, wire: Wire) -> None:
        """As the hub does. Raises SessionError."""
        gateway = to
        if gateway is None or not self._is_here(message, gateway):
            gateway = self._claim(message, cut_off=bool(to and to.cut_off))
        gateway.resume(message, self._token(), wire)

    def _is_here(self, message: Resume, gateway: Gateway) -> bool:
        """Ends the link that it has."""
        gateway.save()
        if not gateway.session.is_fenced:
            gateway.check_resume(message)
        gateway.unlink()
        if gateway.session.has_failed_here:
            gateway.end()
            self.bury()
        return not gateway.gone

    def _claim(self, message: Resume, *, cut_off: bool) -> Gateway:
        if cut_off:
            raise no_store()
        stored = self.store.claim(message.resume_token)
        if message.last_event > stored.record.last_event:
            raise unknown(SESSION)
        return self._bring_to_life(stored)

    def _bring_to_life(self, stored: Stored) -> Gateway:
        gateway = Gateway(stored, self.store, lambda: self.now)
        self.gateways.append(gateway)
        return gateway

    def _token(self) -> str:
        self._tokens += 1
        return f"token {self._tokens}"

    def _is_refused(self, code: str) -> None:
        if code == "overloaded":
            return
        assert self.is_late or self.client.is_warned, f"the client is let in again: {code}"
        self.over = True

    def is_owner(self, gateway: Gateway) -> bool:
        """As the store knows it."""
        held = self.store.held
        return held is not None and held.record.epoch == gateway.session.epoch

    @property
    def is_late(self) -> bool:
        """The client was away for longer than a session waits."""
        return self._away_since is not None and self.now - self._away_since >= RESUME_SECONDS

    # Gateways and time --------------------------------------------------------------------------

    def crash(self, gateway: Gateway) -> None:
        """What it was about to write may still arrive."""
        if gateway.write and not gateway.write.arrived:
            self.store.late.append(gateway.write)
        gateway.gone = True
        if self.serving is gateway:
            self.client.wire = None
            self._leave()
        self.bury()

    def pass_time(self, seconds: float) -> None:
        """Gateways renew what they have written, and nothing waits on a wire."""
        for gateway in list(self.gateways):
            gateway.tick()
        self.exchange()
        self.now += seconds
        self.store.model.now = self.now
        for gateway in list(self.gateways):
            gateway.tick()
        self.exchange()
        self.bury()

    def bury(self) -> None:
        """Gateways that have the session no more; a link to one ends when all was read."""
        self.gateways = [gateway for gateway in self.gateways if not gateway.gone]
        if self.client.wire and self.serving is None and not self.client.wire.unread:
            self.client.wire = None
            self._leave()

    # The end ------------------------------------------------------------------------------------

    def bring_to_an_end(self) -> None:
        """Nothing breaks any more, and the client stops."""
        for gateway in self.gateways:
            gateway.cut_off = False
        if not (self.over or self.client.stopping):
            self.client.stop()
        for _ in range(10):
            if self.over:
                return
            self._go_on()
        raise AssertionError("the session can be brought to a good end")

    def _go_on(self) -> None:
        if self.client.wire is None:
            self.come_back(self.gateways[-1] if self.gateways else None, len(self.client.events))
        self.exchange()
        if gateway := self.serving:
            gateway.upstream.hear_all()
            gateway.save()
            gateway.written()
        self.exchange()
