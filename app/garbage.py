"""When to look for what refers to itself and is otherwise forgotten. Python's own full collections come when much is
new, so just when many clients come back at once, and each stops the event loop for 0.2 ms for every session there is.

Young garbage is collected as ever. What sessions and connections leave (about 20 kB each) waits until nobody is there,
or until it has become much.
"""

import asyncio
import ctypes
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from app.hub import Hub

LOOK_SECONDS = 10.0
LINKS = 2_000
"""So many are over: then it is much."""
SECONDS = 600.0
"""After so long it is, too: streams to the upstream and the like leave something as well."""
NEVER = 1_000_000_000


def collect_seldom() -> None:
    """In this process no full collection comes by itself any more; what is there already is never looked at again."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)


def give_back() -> None:
    """To the system, what is free: glibc itself keeps all that lies below anything that is still in use, as hundreds of
    megabytes do after large messages. Elsewhere than on glibc nothing happens."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@asynccontextmanager
async def sweeping(hub: Hub) -> AsyncIterator[None]:
    """Inside, what `collect_seldom` has left is collected."""
    task = asyncio.create_task(_sweep(hub))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _sweep(hub: Hub) -> None:
    clock = asyncio.get_running_loop().time
    links, since = hub.links_over, clock()
    while gc.get_threshold()[2] == NEVER:
        await asyncio.sleep(LOOK_SECONDS)
        left = hub.links_over - links
        if (left and not hub.sessions) or left >= LINKS or clock() - since >= SECONDS:
            gc.collect()
            if not hub.sessions:
                give_back()  # a quarter of a second, where there is much
            links, since = hub.links_over, clock()
