"""What a session costs in memory: one that is idle, one whose client is away, and one that has said a minute of which
nothing is final yet, beside its audio.

A gateway of its own for each; resident memory of its process with so many sessions and with twice as many, divided:
what is needed once, and what opening them has taken for a moment, is there before. Exits 1 where one takes more than it
may.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import ClientConnection, connect

from app.api.server import raise_file_limit
from bench.gateways import GatewayProcess, gateways, roomy
from bench.helpers import helper
from tests.gateway import START
from tests.upstream import BYTES_PER_SECOND

AT_A_TIME = 20
SPOKEN_SECONDS = 60
FRAME_BYTES = 3200
PATIENT = {
    "GATEWAY_UPSTREAM_SPEED": "20",
    "GATEWAY_RESUME_WINDOW_SECONDS": "600",
    "GATEWAY_MAX_UTTERANCE_SECONDS": f"{SPOKEN_SECONDS}.2",
    "GATEWAY_REPLAY_SECONDS": f"{SPOKEN_SECONDS}.4",  # where no more can be kept a stream goes on without more
    "GATEWAY_ANSWER_SECONDS": "600",  # nor because it says nothing
}
NEVER = 1_000_000_000
"""A final for so many bytes."""
SETTLE_SECONDS = 15.0
"""Until what opening has taken is given back, and the upstream has heard all that was said."""

Kind = Callable[[ClientConnection], Awaitable[bool]]
"""What becomes of a session that has started; whether its connection is kept."""


async def idle(_: ClientConnection) -> bool:
    return True


async def away(socket: ClientConnection) -> bool:
    socket.transport.abort()
    await socket.wait_closed()
    return False


async def speaks(socket: ClientConnection) -> bool:
    for _ in range(SPOKEN_SECONDS * BYTES_PER_SECOND // FRAME_BYTES):
        await socket.send(bytes(FRAME_BYTES))
    while json.loads(await socket.recv()).get("received") != SPOKEN_SECONDS * BYTES_PER_SECOND:
        pass
    return True


KINDS: dict[str, tuple[Kind, int, int, float]] = {
    "idle": (idle, 500, 0, 40),
    "its client is away": (away, 500, 0, 10),
    "has said a minute": (speaks, 40, SPOKEN_SECONDS * BYTES_PER_SECOND, 60),
}
"""How many there are, the bytes of audio of each, and the kB that it may have beside them."""


async def measure(kind: Kind, count: int, audio: int) -> float:
    """kB of a session, without its audio."""
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory()))
        upstream = await stack.enter_async_context(helper("bench.upstream", str(NEVER)))
        settings = roomy(upstream) | PATIENT
        (gateway,) = (await stack.enter_async_context(gateways("A", settings, logs))).values()
        turn = asyncio.Semaphore(AT_A_TIME)

        async def one() -> ClientConnection | None:
            async with turn:
                return await _open(gateway, kind)

        async def with_more() -> int:
            kept.extend(await asyncio.gather(*[one() for _ in range(count)]))
            await asyncio.sleep(SETTLE_SECONDS)
            return gateway.memory

        kept: list[ClientConnection | None] = []
        taken = -await with_more() + await with_more()
        for socket in kept:
            if socket is not None:
                socket.transport.abort()
    return (taken / count - audio) / 1000


async def _open(gateway: GatewayProcess, kind: Kind) -> ClientConnection | None:
    socket = await connect(gateway.url.replace("http", "ws") + "/ws/transcribe", compression=None)
    await socket.send(json.dumps(START))
    await socket.recv()
    return socket if await kind(socket) else None


def main() -> int:
    argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__).parse_args()
    raise_file_limit()  # child processes inherit it
    table = Table(title="memory of a session beside its audio, in kB", title_justify="left")
    for column in ("session", "kB", "at most"):
        table.add_column(column, justify="left" if column == "session" else "right")
    good = True
    for name, (kind, count, audio, limit) in KINDS.items():
        kilobytes = asyncio.run(measure(kind, count, audio))
        good = good and kilobytes <= limit
        table.add_row(name, f"{kilobytes:.1f}", f"{limit:g}")
    Console(width=110).print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
