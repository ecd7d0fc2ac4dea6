"""What befalls a session on its way: to its network, to its gateways, and to what they remember. All from a seed.

Misfortunes of the network follow each other every few seconds; those of processes come one after the other beside them.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain

from bench.gateways import GatewayProcess
from tests.flaky import Flaky
from tests.redis_server import RedisServer

NETWORK = ("reset", "close", "half-open", "black hole", "within a frame", "offline")
RESUMES = ("late resume", "old token")
KINDS = {
    "network": NETWORK,
    "resumes": RESUMES,
    "kills": ("kill",),
    "restarts": ("rolling restart",),
    "redis": ("redis away", "redis emptied"),
}
"""What may be chosen, and what is in it."""
LONGEST_SECONDS = {"offline": 10.0, "black hole": 10.0, "redis away": 5.0, "redis emptied": 5.0}
"""Of what has a length."""
CALM_SECONDS = 5.0
"""Before the store forgets everything, and after it: what a gateway could not write again, no other one can find."""


@dataclass(frozen=True, slots=True)
class Misfortune:
    at: float
    """Seconds after the first word."""
    kind: str
    lasts: float = 0.0
    """Seconds, of what has a length."""
    dice: float = 0.0
    """From 0 to 1, for what else is to be chosen."""


Lines = Sequence[Sequence[Misfortune]]
"""Side by side, each one after the other."""


def draw(seed: int, chosen: Sequence[str], seconds: float) -> Lines:
    """Those of the network, and those of the processes."""
    dice = random.Random(seed)
    kinds = list(chain.from_iterable(KINDS[name] for name in chosen))
    network = [kind for kind in kinds if kind in NETWORK + RESUMES]
    processes = [kind for kind in kinds if kind not in network]
    return [list(_draw(dice, line, seconds, pause)) for line, pause in ((network, 4), (processes, 8))]


def _draw(dice: random.Random, kinds: list[str], seconds: float, pause: float) -> Iterator[Misfortune]:
    """Dealt like cards: as many in a row as there are kinds have them all."""
    cards: list[str] = []
    at = dice.uniform(1, pause)
    while kinds and at < seconds:
        cards = cards or dice.sample(kinds, len(kinds))
        kind = cards.pop()
        lasts = dice.uniform(0.5, LONGEST_SECONDS[kind]) if kind in LONGEST_SECONDS else 0.0
        yield Misfortune(round(at, 1), kind, round(lasts, 1), dice.random())
        at += lasts + dice.uniform(pause / 4, 2 * pause)


@dataclass
class World:
    """Everything that something may befall."""

    network: Flaky
    gateways: dict[int, GatewayProcess]
    """By port."""
    redis: RedisServer
    counts: Counter[str] = field(default_factory=Counter)
    """What has befallen it, by kind."""
    notes: list[str] = field(default_factory=list)
    """The same, with its time."""
    wrong: list[str] = field(default_factory=list)
    """What should not have come of it."""
    _network: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Whoever has it does something to the network, or wants nothing to be done."""

    async def suffer(self, misfortunes: Sequence[Misfortune]) -> None:
        """One after the other, none before its time."""
        clock = asyncio.get_running_loop().time
        began = clock()
        for misfortune in misfortunes:
            await asyncio.sleep(began + misfortune.at - clock())
            async with self._network if misfortune.kind in NETWORK + RESUMES else nullcontext():
                self.counts[misfortune.kind] += 1
                note = f"{clock() - began:.1f} s: {misfortune.kind}"
                self.notes.append(note + (f" for {misfortune.lasts:g} s" if misfortune.lasts else ""))
                await self._befall(misfortune)

    async def _befall(self, misfortune: Misfortune) -> None:
        match misfortune.kind:
            case "reset":
                self.network.cut()
            case "close":
                self.network.close()
            case "half-open":
                self.network.forget_clients()
            case "within a frame":
                self.network.cut_within("up" if misfortune.dice < 0.5 else "down", 2 * misfortune.dice % 1)
            case "offline":
                await self._offline(misfortune.lasts)
            case "black hole":
                await self._black_hole(misfortune.lasts, whole=misfortune.dice < 0.5)
            case "late resume":
                self.network.holds_back = True
                self.network.cut()
            case "old token":
                await self._old_token()
            case "kill":
                await self._kill()
            case "rolling restart":
                await self._rolling_restart()
            case "redis away":
                await self._redis_away(misfortune.lasts)
            case "redis emptied":
                await self._redis_emptied(misfortune.lasts)

    async def _offline(self, seconds: float) -> None:
        self.network.refuses = True
        self.network.cut()
        await asyncio.sleep(seconds)
        self.network.refuses = False

    async def _black_hole(self, seconds: float, *, whole: bool) -> None:
        """`whole`: for new connections, too."""
        self.network.go_silent()
        self.network.dark = whole
        await asyncio.sleep(seconds)
        self.network.dark = False
        self.network.cut_silent()

    async def _old_token(self) -> None:
        """Whoever comes with a token that was replaced is refused, and nothing happens to the session."""
        resumes = [connection for connection in self.network.taken if connection.answered and connection.token]
        old = [connection for connection in resumes if connection.token != resumes[-1].token]
        if old:
            answer = await self.network.repeat(old[-1])
            self.notes[-1] += f": {answer}"
            if answer == "resumed":
                self.wrong.append("an old token was taken")

    async def _kill(self) -> None:
        """The gateway that has the session."""
        port = self.network.taken[-1].gateway
        assert port is not None
        gateway = self.gateways[port]
        await gateway.kill()
        await gateway.start()

    async def _rolling_restart(self) -> None:
        for gateway in self.gateways.values():
            await gateway.drain()
            await gateway.start()

    async def _redis_away(self, seconds: float) -> None:
        """It knows everything again when it is back."""
        self.redis.kill()
        await asyncio.sleep(seconds)
        self.redis.restart(empty=False)

    async def _redis_emptied(self, seconds: float) -> None:
        async with self._network:
            await self.network.until_it_carries()
            await asyncio.sleep(CALM_SECONDS)
            self.redis.kill()
            await asyncio.sleep(seconds)
            self.redis.restart(empty=True)
            await asyncio.sleep(CALM_SECONDS)
