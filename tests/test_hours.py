"""A long session leaves nothing behind and keeps no more than it may: twelve minutes of it. `python -m bench.hours` has
six hours.
"""

from tests.gateway import run_gateway
from tests.hours import kept_bytes, kept_events, limits, live_long, tasks, until_nothing_is_left, upstream_of_hours
from tests.upstream import BYTES_PER_SECOND, ScriptedUpstream

SECONDS = 720
SPEED = 60
LIMITS = limits(SPEED) | {"leg_soft_limit_seconds": 30 / SPEED, "leg_hard_limit_seconds": 45 / SPEED}


async def test_a_long_session_keeps_little_and_leaves_nothing_behind(upstream: ScriptedUpstream) -> None:
    """Streams that are changed, fail and are parked all the time; every four bytes named once, in order."""
    upstream.script = upstream_of_hours(upstream, SPEED, failures=1 / 90)
    kept, events = 0, 0
    async with run_gateway(upstream=f"grpc://{upstream.address}", **LIMITS) as gateway:

        def look(_: float) -> None:
            nonlocal kept, events
            kept, events = max(kept, kept_bytes(gateway)), max(events, kept_events(gateway))

        await live_long(gateway, 1, SPEED, look)
        before = tasks()
        witness, stopped = await live_long(gateway, SECONDS, SPEED, look)
        await until_nothing_is_left(before, upstream)
    assert witness.finals >= 40, "how many there are depends on where streams are changed"
    assert stopped["upstream_streams"] > 10
    assert 0 < kept <= LIMITS["replay_seconds"] * BYTES_PER_SECOND
    assert events <= witness.events, "what was told is kept for readers, and nothing else"
