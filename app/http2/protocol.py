"""What HTTP/2's bytes mean: the library h2, but for what it does not do as it should. It is pinned for that."""

from typing import Any

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event
from hyperframe.frame import DataFrame, WindowUpdateFrame

_DATA = b"\0\0"
"""The type of a DATA frame, and no flags (RFC 9113, 4.1 and 6.1)."""


class Http2(H2Connection):
    """To h2 a GOAWAY is the end of everything, where a server means that it takes no new streams and the others go on
    to their end. And what comes and goes all the time costs a fraction here of what it costs there."""

    def room(self, stream_id: int) -> int:
        """Bytes that may be sent at once, on a stream that is open."""
        of_stream = self.streams[stream_id].outbound_flow_control_window
        return min(of_stream, self.outbound_flow_control_window, self.max_outbound_frame_size)

    def send_at_once(self, stream_id: int, data: bytes) -> None:
        """For a stream that is open and has `room` for it."""
        count = len(data)
        self.streams[stream_id].outbound_flow_control_window -= count
        self.outbound_flow_control_window -= count
        self._data_to_send += count.to_bytes(3) + _DATA + stream_id.to_bytes(4) + data

    def _receive_frame(self, frame: Any) -> list[Event]:
        """As h2's for these two, but without a trace of each, which is made even where nobody wants it."""
        kind = frame.__class__
        if kind is DataFrame:
            frames, events = self._receive_data_frame(frame)
        elif kind is WindowUpdateFrame:
            frames, events = self._receive_window_update_frame(frame)
        else:
            return super()._receive_frame(frame)
        self._prepare_for_sending(frames)
        return events

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[Event]]:
        event = ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]
