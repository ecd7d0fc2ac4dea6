"""How a gateway ends: its sessions go elsewhere, or have their last words; then each is told."""

import asyncio
from collections.abc import Iterable

from app.core.errors import going_down
from app.live import Live
from app.registry import Registry

LOOK_SECONDS = 0.5
FLUSH_SECONDS = 5.0
"""Of a drain, for the last words of the sessions that stay."""
CLOSE_SECONDS = 4.0
"""For the clients to hear why their connection ends."""
GROUP, GROUP_SECONDS = 50, 0.1
"""So many clients at a time are told to go."""


async def close(registry: Registry) -> None:
    """Tells every session `restarting`; returns when the last one has ended."""
    registry.closing = True
    for live in list(registry.lives.values()):
        _let_go(registry, live)
    await registry.until_empty(CLOSE_SECONDS)
    for relay in list(registry.relays.values()):
        relay.drop()
    await registry.until_empty()


async def drain(registry: Registry, seconds: float) -> None:
    """As `close`, but in peace: whoever can goes to another gateway, what the others have said becomes final. Not of
    clients that are not there, where another gateway can go on with their sessions: it would be cut within a word.
    Returns within `seconds`, of which the last `CLOSE_SECONDS` are for clients that do not answer."""
    registry.closing = True
    left = max(0.0, seconds - CLOSE_SECONDS)
    flush = min(FLUSH_SECONDS, left / 2)
    shared = registry.journal.store.shared
    if shared and not registry.journal.away:
        await _send_away(registry, left - flush)
    stay = [live for id_, live in registry.lives.items() if not shared or id_ in registry.relays]
    await _flush(stay, flush)
    await close(registry)


async def _send_away(registry: Registry, seconds: float) -> None:
    """Clients are told in groups, so that they do not come back all at once."""
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    for number, live in enumerate(list(registry.lives.values())):
        if live.session.id not in registry.relays:
            _let_go(registry, live)  # its client finds another gateway when it comes back
            continue
        live.session.go_away(max(0, round(1000 * (until - clock()))), "drain")
        live.changed()
        if number % GROUP == GROUP - 1:
            await asyncio.sleep(min(GROUP_SECONDS, until - clock()))
    while registry.lives and clock() < until:
        for live in registry.lives.values():
            registry.journal.mark(live)  # has another gateway taken it over?
        await registry.until_empty(min(LOOK_SECONDS, until - clock()))


async def _flush(lives: Iterable[Live], seconds: float) -> None:
    """What was said so far becomes final."""
    flushed = [asyncio.create_task(live.flush()) for live in lives]
    if flushed:
        await asyncio.wait(flushed, timeout=seconds)
    for task in flushed:
        task.cancel()
    await asyncio.gather(*flushed, return_exceptions=True)


def _let_go(registry: Registry, live: Live) -> None:
    """The session ends here. Another gateway can go on with it, where they share a store."""
    live.fail(going_down())
    if live.session.id not in registry.relays:
        registry.end_soon(live)
