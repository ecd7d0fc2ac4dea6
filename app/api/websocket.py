"""One WebSocket connection: uvicorn's protocol class, extended where experiments showed it wanting; uvicorn is pinned
for that. A client that pushes a file through TCP's back-pressure is alive although its pongs are stuck behind the
audio; a socket that cannot be closed is aborted; a frame that the parser refuses is answered with our `error` before
the close; what a peer can make it hold is bounded; audio in small frames is gathered before anybody is woken for it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN

from app.api.audio_frames import AudioFrames
from app.api.door import ABORT_SECONDS, half_close
from app.api.limits import ConnectionLimits
from app.api.pace import Pace
from app.api.refusals import MAX_PIECES, parser_errors, rejection
from app.core.protocol import error_message, max_text_bytes, serialize

LOOK_AGAIN_SECONDS = 0.05
"""After a stall of ours a timer comes before what the peer said in time: it is read within this."""
MAX_UNREAD_BYTES = 1024 * 1024
"""Pongs do not wait for a peer that never reads."""
FRAMES_A_TURN = 32
"""Of what came at once so many are taken in one turn of the loop, a slice more at most: 64 kB may hold 10,000."""
SLICE_BYTES, THIN_SLICE_BYTES = 2048, 128
"""The thin ones once a slice had more frames than a turn has."""
REST_SECONDS = 0.15
"""Where no chunk came together for so long, what was gathered goes on without more."""


class GatewayWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    heard_at = 0.0
    looked_again = False
    """For the pong of this ping."""
    failed = False
    """The peer broke the WebSocket protocol: what still comes is read and dropped."""
    _rest = b""
    """What has come and is not taken: it waits for the next turn, for the client's pace, and for the application."""
    _turn: asyncio.Handle | None = None
    """When more is taken."""
    _now = 0.0
    """When this turn began."""
    _slice = SLICE_BYTES
    _audio: AudioFrames | None = None
    """Once the application wants it gathered."""
    _between = False
    """The library has seen nothing since it was between frames."""
    _rest_due: asyncio.TimerHandle | None = None
    _flows = False
    """A chunk came together since that timer was set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gone: asyncio.Future[None] = self.loop.create_future()
        self._limits: ConnectionLimits = self.app_state["limits"]
        self._pace = Pace(self._limits.messages_per_second, self.loop.time())
        conn: Any = self.conn
        conn.max_message_size = max_text_bytes(self._limits.frame_bytes)
        conn.reject = rejection

    def connection_lost(self, exc: Exception | None) -> None:
        self.read_paused = True  # there is nothing to pause any more
        self._pass_on_rest()
        if self._rest_due is not None:
            self._rest_due.cancel()
        super().connection_lost(exc)
        self._drop_rest()
        self.gone.set_result(None)

    # What comes in ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._now = self.loop.time()
        if self.failed:
            return
        if self._is_held:  # uvicorn lets it come, to hear the end
            self._rest += data
            self.transport.pause_reading()
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        """As uvicorn's `data_received`, slice by slice, till it is enough for this turn."""
        if self._audio is not None and not self.close_sent and (self._between or self._is_between_frames()):
            data = self._take_audio(self._audio, data)
            self._between = not data
            if not data:
                return
        conn, taken, size = self.conn, 0, self._slice
        for at in range(0, len(data), size):
            conn.receive_data(data[at : at + size])
            if conn.parser_exc is not None:
                self.handle_parser_exception()
                return
            if not conn.events:
                continue
            taken += (count := len(conn.events))
            self.handle_events()
            if count > FRAMES_A_TURN:
                self._slice = THIN_SLICE_BYTES
            if self._pace.spend(count, self._now) > 0 or taken > FRAMES_A_TURN:
                self._hold(data[at + size :])
                return
        if not self.handshake_initiated and conn.handshake_exc is not None:
            self._fail()

    def _is_between_frames(self) -> bool:
        """The library has begun no frame and no message of several: it waits for either, or for the end."""
        step: Any = self.conn.parser
        while step.gi_yieldfrom is not None:
            step = step.gi_yieldfrom
        return step.__name__ == "at_eof" and self.conn.current_size is None and self.conn.state is OPEN

    def _take_audio(self, audio: AudioFrames, data: bytes) -> bytes:
        """What it begins with that is plain audio. Returns the rest."""
        rest, count = audio.read(data, FRAMES_A_TURN)
        self._pass_on_full(audio)
        if self._pace.spend(count, self._now) > 0 or count == FRAMES_A_TURN:
            self._hold(rest)
            return b""
        return rest

    def _pass_on(self, audio: bytes) -> None:
        """As uvicorn does, but one piece may wait before reading is paused: as a rule its reader comes at once."""
        self.queue.put_nowait({"type": "websocket.receive", "bytes": audio})
        if not self.read_paused and self.queue.qsize() > 1:
            self.read_paused = True
            self.transport.pause_reading()

    def _pass_on_full(self, audio: AudioFrames) -> None:
        while piece := audio.full():
            self._flows = True
            self._pass_on(piece)
        if self._rest_due is None and not audio.is_empty:
            self._flows = False
            self._rest_due = self.loop.call_later(REST_SECONDS, self._look_at_rest)

    def _look_at_rest(self) -> None:
        self._rest_due = None
        if not self._flows:
            self._pass_on_rest()
        elif self._audio is not None:
            self._pass_on_full(self._audio)

    def _pass_on_rest(self) -> None:
        if self._audio is not None and (rest := self._audio.rest()):
            self._pass_on(rest)

    def send_receive_event_to_app(self) -> None:
        """Audio that was gathered comes before all that came after it."""
        if self._audio is not None and not self.close_sent:
            audio = b"".join(self.frames)
            if self.curr_msg_data_type == "bytes" and len(audio) <= self._limits.frame_bytes:
                self._audio.add(audio)
                self._pass_on_full(self._audio)
                return
            kind, self.frames = self.curr_msg_data_type, []
            self._pass_on_rest()
            self.curr_msg_data_type, self.frames = kind, [audio]
        super().send_receive_event_to_app()

    @property
    def _is_held(self) -> bool:
        return self._turn is not None or bool(self._rest)

    def _hold(self, rest: bytes) -> None:
        if not (self.failed or self.transport.is_closing()):
            self._rest = rest
            self.transport.pause_reading()
            self._take_later()

    def _take_later(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
        wait = self._pace.wait(self.loop.time())
        if wait > 0 and self.close_sent:
            self._fail()  # a flood goes on after our close: whatever stands in it is not waited for
            return
        self._turn = self.loop.call_later(wait, self._go_on) if wait > 0 else self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turn = None
        if self.read_paused:
            return  # `receive` says when
        self._now = self.loop.time()
        rest, self._rest = self._rest, b""
        self._take(rest)
        if not (self._is_held or self.read_paused or self.failed or self.transport.is_closing()):
            self.transport.resume_reading()

    def _drop_rest(self) -> None:
        self._rest = b""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if not self._is_held:
                self.transport.resume_reading()
            elif self._turn is None:
                self._take_later()
        return message

    def gather(self, count: int) -> None:
        """From now on audio comes so many bytes at a time, as long as nothing else comes between."""
        self._audio = AudioFrames(count, self._limits.frame_bytes)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: Any = self.scope["extensions"]
            extensions |= {
                "gateway.abort": self.transport.abort,
                "gateway.receive": self.receive,
                "gateway.send": self.send_texts,
                "gateway.gather": self.gather,
                "gateway.let_send": self.writable.set,  # however much waits for the peer
                "gateway.gone": self.gone,
                "gateway.client_code": lambda: self.conn.close_rcvd and self.conn.close_rcvd.code,
            }

    def handle_close(self, event: Frame) -> None:
        self._pass_on_rest()
        super().handle_close(event)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < MAX_PIECES:
            super().handle_cont(event)
        elif not self.failed:
            self.conn.fail(1009, f"more than {MAX_PIECES} pieces")
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    def send_keepalive_ping(self) -> None:
        self.looked_again = False
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        if self.heard_at > self.ping_sent_at or self.read_paused or self._is_held:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        if not self.looked_again:
            self.looked_again = True
            self.pong_timer = self.loop.call_later(LOOK_AGAIN_SECONDS, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1011, "reason": "keepalive ping timeout"})
        self._abort_later()

    def handle_parser_exception(self) -> None:
        close = self.conn.close_sent
        if close is not None and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
            if error := parser_errors(self._limits.frame_bytes).get(close.code):
                told = Frame(Opcode.TEXT, serialize(error_message(error)).encode())
                self.transport.write(told.serialize(mask=False))
        self._fail()

    async def send_texts(self, texts: Sequence[str]) -> None:
        """In one write. Waits while the peer does not read. Raises OSError where it is gone, or the end was said."""
        await self.writable.wait()
        if self.disconnected or self.close_sent:
            raise ClientDisconnected
        try:
            for text in texts:
                self.conn.send_text(text.encode())
        except InvalidState as error:  # the peer has said the end
            raise ClientDisconnected from error
        self.transport.write(b"".join(self.conn.data_to_send()))

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            no_more: Any = None
            self.request.headers.clear()  # 3 kB, which the library's parser keeps as long as the connection lasts
            self.request = self.response = no_more
        elif message["type"] == "websocket.close":
            self._abort_later()
            # Its answer stands behind what the client has said: once more a burst is taken at once.
            self._pace = Pace(self._limits.messages_per_second, self.loop.time())
            if self._is_held:
                self._take_later()
        elif message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # else uvicorn logs a refusal as an error of the application

    def _fail(self) -> None:
        """Half-closes and goes on reading: to close while bytes still come is a reset, and nobody reads why."""
        self.failed = self.close_sent = True
        last_words = b"".join(self.conn.data_to_send())
        if not (last_words or self.handshake_initiated):
            last_words = rejection(400, "this is no WebSocket handshake").serialize()
        self.transport.write(last_words)
        self.read_paused = False
        self._drop_rest()
        if not self.transport.is_closing():
            self.transport.resume_reading()
        half_close(self.transport)
        self._abort_later()

    def _abort_later(self) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(ABORT_SECONDS, self.transport.abort)
