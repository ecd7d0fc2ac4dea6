"""One attempt to open the next connection: it waits for its time, then dials."""

import asyncio
from collections.abc import Awaitable, Callable

from app.client.connect import REPLACED, Socket, hang_up
from app.core.protocol import Resume, Resumed, Start, Started

GO_AWAY_PART, GO_AWAY_SECONDS = 0.25, 2.0
"""Of `time_left_ms`, and at most: over so long the clients of a gateway that goes away are spread."""

Hello = Start | Resume
Answered = tuple[Socket, Started | Resumed]
Open = Callable[[Hello], Awaitable[Answered]]
"""A socket, and the answer to its first message. Raises TranscriberError."""


class Attempt:
    def __init__(self, open_socket: Open, hello: Callable[[], Hello], delay: float, ended: Callable[[], None]) -> None:
        """`hello` is asked for when its time has come; `ended` is called at the end."""
        self.dialling = False
        """It has begun: it does not wait any more."""
        self._open = open_socket
        self._hello = hello
        self._task = asyncio.create_task(self._run(delay))
        self._task.add_done_callback(lambda _: ended())

    @property
    def done(self) -> bool:
        return self._task.done()

    def result(self) -> Answered:
        """Once it is done. Raises TranscriberError."""
        return self._task.result()

    async def drop(self) -> None:
        """What comes of it is not wanted any more."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled() and self._task.exception() is None:  # it was too late for that
            await hang_up(self._task.result()[0], REPLACED)

    async def _run(self, delay: float) -> Answered:
        await asyncio.sleep(delay)
        self.dialling = True
        return await self._open(self._hello())


def spread(left_ms: int, dice: Callable[[], float]) -> float:
    """Seconds from `go_away` to the attempt to move; `dice` gives 0 to 1."""
    return dice() * min(GO_AWAY_SECONDS, GO_AWAY_PART * left_ms / 1000)
