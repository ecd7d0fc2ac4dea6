"""Where captions go: a file or a pipe (finals only), or a terminal (interims that turn into finals in place).

rich is told when to draw: left alone, it would draw from a thread of its own.
"""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from app.captions import Captions, Format
from app.client import Message, Reconnected, Reconnecting
from app.core.protocol import Durable, Final, GapEvent, Interim, Throttle

if TYPE_CHECKING:
    from rich.console import Group

DRAW_SECONDS = 0.1
"""Between two drawings of the progress alone; a message is drawn at once."""


class Screen(Protocol):
    """Enter it once the gateway has accepted the session: nothing is opened or overwritten before."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, message: Message) -> None: ...

    def progress(self, sent_ms: int, *, room: bool) -> None:
        """`room`: more audio is taken, or kept."""


class Plain:
    """Finals as one of the caption formats, to a path or to standard output."""

    def __init__(self, form: Format, path: Path | None = None) -> None:
        self._captions = Captions(form)
        self._path = path
        self._file: TextIO = sys.stdout

    def __enter__(self) -> Self:
        if self._path:
            self._file = self._path.open("w", encoding="utf-8")
        self._write(self._captions.head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path:
            self._file.close()

    def show(self, message: Message) -> None:
        if isinstance(message, Durable):
            self._write(self._captions.add(message))

    def progress(self, sent_ms: int, *, room: bool) -> None:
        """A file is no place for it."""

    def _write(self, text: str) -> None:
        if text:
            self._file.write(text)
            self._file.flush()


class Terminal:
    """Finals scroll by; below them the interim of the moment and a bar: how far the audio is.

    With `fast`, audio is far ahead of its text at once, so the bar shows how far the text is.
    """

    def __init__(self, form: Format, total_ms: int | None, *, fast: bool = False) -> None:
        from rich.console import Console  # noqa: PLC0415 - half of the start-up time, and a pipe does not need it
        from rich.live import Live  # noqa: PLC0415

        self._captions = Captions(form)
        self._wrap = form == "txt"
        self._total_ms = total_ms
        self._fast = fast
        self._done_ms = 0
        self._interim = ""
        self._queued_ms = 0
        self._lost = False
        self._room = True
        self._drawn = 0.0
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self._render)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        self._print(self._captions.head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, message: Message) -> None:
        match message:
            case Interim():
                self._interim = message.text
            case Final() | GapEvent():
                self._interim = ""
            case Throttle() if not self._fast:
                self._queued_ms = message.queued_ms if message.state == "on" else 0
            case Reconnecting() | Reconnected():
                self._lost = isinstance(message, Reconnecting)
                self._queued_ms = 0
        if self._fast and isinstance(message, Interim | Final | GapEvent):
            self._done_ms = message.end_ms
        if isinstance(message, Durable):
            self._print(self._captions.add(message), style="yellow" if isinstance(message, GapEvent) else None)
        self._live.refresh()

    def progress(self, sent_ms: int, *, room: bool) -> None:
        if not self._fast:
            self._done_ms = sent_ms
        self._room = room
        if time.monotonic() - self._drawn >= DRAW_SECONDS:
            self._drawn = time.monotonic()
            self._live.refresh()

    def _print(self, text: str, style: str | None = None) -> None:
        if text:
            self._console.print(text, end="", style=style, markup=False, emoji=False, soft_wrap=not self._wrap)

    def _render(self) -> "Group":
        from rich.console import Group  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        line = Table.grid(padding=(0, 1))
        clock = Text(_clock(self._done_ms), style="cyan")
        if self._total_ms:
            clock.append(f" / {_clock(self._total_ms)}", style="dim")
            line.add_row(ProgressBar(self._total_ms, self._done_ms, width=30), clock, self._state())
        else:
            line.add_row(Text("●", style="red"), clock, Text("Ctrl-C stops", style="dim"), self._state())
        interim = [Text(self._interim, style="italic dim")] if self._interim else []
        return Group(*interim, line)

    def _state(self) -> str:
        """Of the connection, and of the audio meanwhile: a file waits, a microphone does not."""
        if self._lost and self._room:
            return "reconnecting: audio is kept"
        if self._lost:
            return "reconnecting: the rest waits" if self._total_ms else "reconnecting: no room, audio is lost"
        return f"the gateway is {self._queued_ms / 1000:.1f} s behind" if self._queued_ms else ""


def _clock(ms: int) -> str:
    minutes, seconds = divmod(ms // 1000, 60)
    return f"{minutes}:{seconds:02}"
