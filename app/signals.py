"""SIGTERM and Ctrl-C end the sessions in peace first; then they go to whom they were for: uvicorn, which closes every
WebSocket at once, without a word. A second signal ends the peace.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO_SECONDS = 2.0
"""A worker gets a signal to the whole group (Ctrl-C, systemd) twice: its supervisor passes it on."""
Handler = Callable[[int, FrameType | None], object]


@contextmanager
def before_the_end(drain: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Inside it the first signal starts `drain`, which is cancelled by the second one. For the main thread."""
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    draining: list[asyncio.Task[None]] = []
    deaf_until = float("-inf")

    async def run(number: int) -> None:
        try:
            await drain()
        finally:
            hand_on(number)

    def hand_on(number: int) -> None:
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, None)

    def on_signal(number: int) -> None:
        nonlocal deaf_until
        if not draining:
            draining.append(loop.create_task(run(number)))
            if multiprocessing.parent_process() is not None:
                deaf_until = loop.time() + ECHO_SECONDS
        elif loop.time() >= deaf_until and not draining[0].cancel():
            hand_on(number)

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        with _as_if_told_when_the_parent_ends():
            yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


@contextmanager
def _as_if_told_when_the_parent_ends() -> Iterator[None]:
    """A worker whose supervisor was killed would serve for ever, on a socket that the next gateway wants."""
    parent = multiprocessing.parent_process()
    if parent is None:
        yield
        return
    loop, sentinel = asyncio.get_running_loop(), parent.sentinel

    def on_end() -> None:
        loop.remove_reader(sentinel)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(sentinel, on_end)
    try:
        yield
    finally:
        loop.remove_reader(sentinel)
