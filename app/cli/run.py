"""One session from the command line: audio from a source, captions to screens, Ctrl-C for an early but orderly end."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from typing import Literal

from app.cli.screen import Screen
from app.client import Reconnected, Reconnecting, SessionConfig, Transcriber
from app.core.audio import AudioFormat
from app.core.protocol import Gap, GoAway, WarningMessage

LAST_FINALS_SECONDS = 10.0
"""After Ctrl-C, for the gateway to finish what it has heard."""


@dataclass(frozen=True)
class Session:
    """How to reach the gateway, and what to ask of it."""

    url: str
    config: SessionConfig
    token: str | None = None
    framing: Literal["binary", "base64"] = "binary"
    frame_ms: int = 100
    overflow: Literal["wait", "gap"] = "wait"
    give_up_seconds: float | None = None


async def in_real_time(chunks: Iterator[bytes], bytes_per_second: int) -> AsyncGenerator[bytes, None]:
    """Every chunk when a microphone would have it: once its last sample has been spoken."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for chunk in chunks:
        due += len(chunk) / bytes_per_second
        await asyncio.sleep(due - loop.time())
        yield chunk


async def at_once(chunks: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """As fast as the gateway gives credit."""
    for chunk in chunks:
        yield chunk


async def run(session: Session, source: AsyncGenerator[bytes | Gap, None], screens: Sequence[Screen]) -> bool:
    """Until the source has ended and the last caption is shown; False if the user broke off.

    Raises TranscriberError; TimeoutError if the last captions do not come after a Ctrl-C; OSError from a screen.
    """
    transcriber = Transcriber(
        session.url,
        session.config,
        token=session.token,
        framing=session.framing,
        frame_ms=session.frame_ms,
        overflow=session.overflow,
        give_up_seconds=session.give_up_seconds,
    )
    async with transcriber:
        with ExitStack() as stack:
            for screen in screens:
                stack.enter_context(screen)
            feeder = asyncio.create_task(_feed(transcriber, source, screens), name="feeder")
            try:
                async with asyncio.timeout(None) as patience:
                    with _interrupts(feeder, patience):
                        await _show(transcriber, screens)
            finally:
                feeder.cancel()
                (failure,) = await asyncio.gather(feeder, return_exceptions=True)
            if isinstance(failure, Exception):
                raise failure
            return failure is None


async def _feed(transcriber: Transcriber, source: AsyncGenerator[bytes | Gap, None], screens: Sequence[Screen]) -> None:
    """Whatever ends the source, the gateway is told."""
    form = AudioFormat.of(transcriber.started.config.audio)
    try:
        async with aclosing(source) as pieces:
            async for piece in pieces:
                if isinstance(piece, Gap):
                    await transcriber.gap(piece.bytes, piece.reason)
                else:
                    await transcriber.send(piece)
                for screen in screens:
                    screen.progress(form.ms(transcriber.sent), room=transcriber.room > 0)
    finally:
        await transcriber.stop()


async def _show(transcriber: Transcriber, screens: Sequence[Screen]) -> None:
    lost = False
    async for message in transcriber.messages():
        match message:
            case WarningMessage():
                note(f"the gateway warns: {message.code}: {message.message}")
            case GoAway():
                note(f"the gateway goes away in {message.time_left_ms / 1000:.0f} s ({message.reason}): moving on")
            case Reconnecting() if not lost:  # that it does not work yet is no news
                lost = True
                note(f"reconnecting, audio is kept: {message.reason}")
            case Reconnected():
                lost = False
                note("connected again" if message.resumed else "connected again: a new session goes on")
        for screen in screens:
            screen.show(message)


@contextmanager
def _interrupts(feeder: asyncio.Task[None], patience: asyncio.Timeout) -> Iterator[None]:
    """The first Ctrl-C ends the audio and bounds the waiting for its captions, the second ends the waiting."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        again = patience.when() is not None
        patience.reschedule(loop.time() + (0 if again else LAST_FINALS_SECONDS))
        if not again:
            note("stopping: waiting for the last captions (Ctrl-C again quits)")
            feeder.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, interrupted)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)


def note(text: str) -> None:
    """One line beside the captions."""
    sys.stderr.write(text + "\n")
