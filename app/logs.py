"""The log: two lines for each session, and what went wrong. No word that was said, no audio, no token.

What an unforeseen exception says may quote any of them, so of exceptions the log has the kind and the place, not the
words.
"""

import asyncio
import logging
import sys
import traceback
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
TALKATIVE = ("uvicorn", "uvicorn.error", "websockets", "httpx", "httpcore", "google", "grpc", "h2", "hpack")
"""Below WARNING they log query strings, addresses, and, at DEBUG, messages and requests."""

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class WordlessFormatter(logging.Formatter):
    """Where an exception came from, and its causes; of each only the kind."""

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - logging's own name
        return "" if ei[1] is None else "\n".join(_told(ei[1]))


def set_up_log(level: str) -> None:
    """For the process: everything goes to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WordlessFormatter(FORMAT))
    logging.basicConfig(level=level, handlers=[handler])
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def on_loop_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For an event loop: its own handler shows the exception's words as part of a task."""
    error = context.get("exception")
    log.error("%s", context.get("message", "an unhandled exception"), exc_info=error)


def _told(error: BaseException) -> list[str]:
    """The first cause first, as Python itself tells it."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    stack = "".join(traceback.format_tb(error.__traceback__)).splitlines()
    told = ["Traceback (most recent call last):", *stack, type(error).__qualname__]
    if isinstance(error, BaseExceptionGroup):
        told += [f"  | {line}" for one in error.exceptions for line in _told(one)]
    return [*_told(before), "which led to:", *told] if before else told
