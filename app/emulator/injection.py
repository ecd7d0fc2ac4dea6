"""Who gets which fault, and what it does.

Faults is what is set for the whole emulator, StreamFaults what a single call has of it. A call tells what it has come
to (`reach`); a fault that ends it is raised as Refused, every other changes what the call asks for before it reads or
says anything. Which call gets what depends on the seed, on its number, and on nothing else.
"""

import asyncio
import dataclasses
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc

from app.emulator import faults, wire
from app.emulator.calls import Dialect, Refused
from app.emulator.faults import CONNECTION_KINDS, Point, Spec
from app.emulator.forwarder import Forwarder, Link
from app.emulator.options import Options

MID_UTTERANCE = 1.0  # seconds into speech
MINUTE = 60.0


class NoForwarder(Exception):
    """A fault of connections cannot be had: nothing stands between them and the server."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(f"{spec.source!r} needs an emulator that was started with --connection-faults")


class Gate:
    """Shut for a time, or for ever (None); open it costs nothing to pass."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._timer: asyncio.TimerHandle | None = None

    def shut(self, seconds: float | None) -> None:
        """Of two times the later end holds."""
        loop = asyncio.get_running_loop()
        until = None if seconds is None else loop.time() + seconds
        if not self._open.is_set() and self._lasts_beyond(until):
            return
        self.open()
        self._open.clear()
        if until is not None:
            self._timer = loop.call_at(until, self._open.set)

    def open(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        self._open.set()

    def _lasts_beyond(self, until: float | None) -> bool:
        return self._timer is None or (until is not None and self._timer.when() > until)

    async def passed(self) -> None:
        await self._open.wait()


class Rule:
    """A spec while it is set."""

    def __init__(self, spec: Spec, place: int) -> None:
        self.spec = spec
        self.place = place
        self.left = spec.times
        self.starts: deque[float] = deque()  # within the last minute

    def use(self) -> bool:
        """Whether it may strike once more; then it has."""
        if self.left == 0:
            return False
        if self.left is not None:
            self.left -= 1
        return True

    def is_due(self, number: int, dice: random.Random) -> bool:
        """Whether the call of this number is one that it is for."""
        return number % self.spec.every_calls == 0 and dice.random() < self.spec.chance


@dataclasses.dataclass(slots=True)
class Armed:
    """What will befall a stream once it has come so far."""

    rule: Rule
    spec: Spec
    seconds: float  # of audio
    dice: random.Random


class Faults:
    """Everything that is set, and the streams that are open. Raises BadSpec, NoForwarder on what cannot be."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._rules: list[Rule] = []
        self._seed = options.seed
        self._streams = 0  # since the rules were set
        self.open: list[StreamFaults] = []
        self.injected: Counter[str] = Counter()  # by spec, since the rules were set
        self.forwarder: Forwarder | None = None
        self.wants_forwarder = options.connection_faults
        specs = [faults.parse(source) for source in options.faults]
        self.wants_forwarder |= any(map(faults.needs_forwarder, specs))
        self._replace(specs)

    def set(self, sources: Sequence[str], seed: int, asked_by: str) -> None:
        """From now on these and no others, also in streams that are open. `asked_by` is a peer, whose connection stays.

        Numbers of streams and counts start anew. What stalled goes on.
        """
        specs = [faults.parse(source) for source in sources]
        for spec in filter(faults.needs_forwarder, specs):
            if self.forwarder is None:
                raise NoForwarder(spec)
        self._seed = seed
        for stream in self.open:
            stream.disarm()
        if self.forwarder:
            self.forwarder.lift()
        self._replace(specs)
        for spec in specs:
            if spec.at is Point.NOW:
                self._strike_now(spec, asked_by)

    @property
    def state(self) -> dict[str, Any]:
        """For `show`."""
        return {
            "specs": [rule.spec.source for rule in self._rules],
            "seed": self._seed,
            "streams": self._streams,
            "open": [stream.state for stream in self.open],
            "injected": dict(self.injected),
        }

    def enter(self, dialect: Dialect, peer: str, end: Callable[[Refused], None]) -> "StreamFaults":
        """A call has come; `leave` when it is over. `end` ends it from outside."""
        self._streams += 1
        stream = StreamFaults(self, self._streams, dialect, peer, end)
        if self._rules:
            stream.arm(self._rules, self._seed, self._options)
        else:
            stream.options = self._options
        self.open.append(stream)
        return stream

    def leave(self, stream: "StreamFaults") -> None:
        stream.disarm()
        self.open.remove(stream)

    def befall(self, spec: Spec, links: Iterable[Link]) -> None:
        """What whole connections suffer."""
        for link in links:
            match spec.kind:
                case "goaway":
                    link.goaway()
                case "reset":
                    link.reset()
                case _:
                    link.blackhole(spec.lasting)

    def strike_peer(self, spec: Spec, peer: str) -> None:
        """The connection of one stream, with all of its streams."""
        assert self.forwarder
        if spec.kind == "down":
            self.forwarder.down(spec.lasting or 0.0, self.forwarder.links())
        elif link := self.forwarder.link(peer):
            self.befall(spec, [link])

    def _replace(self, specs: Sequence[Spec]) -> None:
        self._rules = [Rule(spec, place) for place, spec in enumerate(specs)]
        self._streams = 0
        self.injected.clear()

    def _strike_now(self, spec: Spec, asked_by: str) -> None:
        if spec.kind not in CONNECTION_KINDS:
            for stream in [*self.open]:
                stream.strike_now(spec)
            return
        assert self.forwarder
        self.injected[spec.source] += 1
        links = self.forwarder.links(but=asked_by)
        if spec.kind == "down":
            self.forwarder.down(spec.lasting or 0.0, links)
        else:
            self.befall(spec, links)


class StreamFaults:
    """One call's share. `reading` and `saying` are passed before the call does either."""

    options: Options  # with the limits that hold for this call

    def __init__(self, owner: Faults, number: int, dialect: Dialect, peer: str, end: Callable[[Refused], None]) -> None:
        self.number = number
        self.seconds = 0.0  # of audio, as far as it was read
        self.reading = Gate()
        self.saying = Gate()
        self.interims = 1  # how often each is said
        self._owner = owner
        self._dialect = dialect
        self._peer = peer
        self._end = end
        self._armed: list[Armed] = []
        self._quotas: list[Rule] = []
        self._speech: float | None = None  # since when somebody speaks
        self._delay = 0.0  # of finals
        self._due: deque[float] = deque()  # when each final that is recognized may be said

    @property
    def state(self) -> dict[str, Any]:
        """Streams of one connection name the same one."""
        return {"number": self.number, "seconds": round(self.seconds, 3), "connection": self._peer}

    def arm(self, rules: Sequence[Rule], seed: int, options: Options) -> None:
        self.options = options
        for rule in rules:
            dice = random.Random(f"{seed}/{self.number}/{rule.place}")  # noqa: S311 - dice, not secrets
            if rule.left == 0 or rule.spec.at is Point.NOW or not rule.is_due(self.number, dice):
                continue
            match rule.spec.kind:
                case "quota":
                    self._quotas.append(rule)
                case "limits" if rule.use():
                    self._limit(rule.spec)
                case "every-kind":
                    self._arm(rule, faults.dealt(seed, self.number), dice)
                case _:
                    self._arm(rule, rule.spec, dice)

    def disarm(self) -> None:
        """Nothing more befalls it; what stalled goes on."""
        self._armed.clear()
        self._quotas.clear()
        self._delay = 0.0
        self.interims = 1
        self.reading.open()
        self.saying.open()

    def reach(self, point: Point | None) -> None:
        """The call has come to here; None is: further. Raises Refused."""
        for armed in [*self._armed]:
            if self.seconds >= armed.seconds and self._is_at(armed.spec.at, point):
                self._armed.remove(armed)
                if armed.rule.use():
                    self._arm_again(armed)
                    self._strike(armed.spec)

    def opened(self) -> None:
        """The config is read. Raises Refused."""
        for rule in self._quotas:
            self._check_quota(rule)
        self.reach(Point.OPEN)

    def heard(self, seconds: float) -> None:
        """So much audio was read in all. Raises Refused."""
        self.seconds = seconds
        if self._armed:
            self.reach(None)

    def recognized(self, event: object) -> None:
        """The recognizer says so; the call will when it may."""
        if isinstance(event, wire.Final):
            self._due.append(asyncio.get_running_loop().time() + self._delay)

    async def hold(self, event: wire.Event) -> None:
        """Until it may be said."""
        if not isinstance(event, wire.Final):
            return
        late = self._due.popleft() - asyncio.get_running_loop().time()
        if late > 0:
            await asyncio.sleep(late)

    def said(self, event: wire.Event) -> None:
        """Raises Refused."""
        match event:
            case wire.SpeechBegan(at):
                self._speech = at / 1e9
                self.reach(None)
            case wire.SpeechEnded():
                self._speech = None
            case wire.Final():
                self.reach(Point.FINAL)

    def strike_now(self, spec: Spec) -> None:
        try:
            self._strike(spec)
        except Refused as refused:
            self._end(refused)

    def _limit(self, spec: Spec) -> None:
        self._owner.injected[spec.source] += 1
        duration = self.options.stream_limit if spec.duration is None else spec.duration
        idle = self.options.idle_limit if spec.idle is None else spec.idle
        self.options = dataclasses.replace(self.options, stream_limit=duration, idle_limit=idle)

    def _check_quota(self, rule: Rule) -> None:
        spec, now = rule.spec, asyncio.get_running_loop().time()
        while rule.starts and rule.starts[0] <= now - MINUTE:
            rule.starts.popleft()
        text = None
        if spec.streams is not None and len(self._owner.open) > spec.streams:
            text = faults.GOOGLE_TEXT[grpc.StatusCode.RESOURCE_EXHAUSTED]
        elif spec.starts is not None and len(rule.starts) >= spec.starts:
            text = faults.STARTS_TEXT
        if text and rule.use():
            self._owner.injected[spec.source] += 1
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, spec.text or text)
        rule.starts.append(now)

    def _arm(self, rule: Rule, spec: Spec, dice: random.Random) -> None:
        every = rule.spec.every_seconds
        if rule.spec.kind == "every-kind":
            every = None if spec.at is Point.OPEN else every or faults.EVERY_KIND_SECONDS
        wait = spec.after if every is None else every * dice.uniform(0.5, 1.5)
        self._armed.append(Armed(rule, spec, self.seconds + wait, dice))

    def _arm_again(self, armed: Armed) -> None:
        rule = armed.rule
        if rule.spec.kind == "every-kind":
            self._arm(rule, faults.drawn(armed.dice), armed.dice)
        elif rule.spec.every_seconds is not None:
            self._arm(rule, rule.spec, armed.dice)

    def _is_at(self, wanted: Point | None, point: Point | None) -> bool:
        match wanted:
            case None:
                return point in (None, Point.OPEN)
            case Point.SPEECH:
                return point is None and self._speech is not None and self.seconds >= self._speech + MID_UTTERANCE
            case _:
                return point is wanted

    def _strike(self, spec: Spec) -> None:
        """Raises Refused, when it ends the call."""
        self._owner.injected[spec.source] += 1
        if faults.is_last(spec):
            self._armed.clear()
        match spec.kind:
            case "duration":
                raise self._dialect.too_long(self.options.stream_limit)
            case "idle":
                raise self._dialect.idle()
            case "end":
                raise Refused(grpc.StatusCode.OK, "ended unasked")
            case "stall":
                self.reading.shut(spec.lasting)
                self.saying.shut(spec.lasting)
            case "silent":
                self.saying.shut(spec.lasting)
            case "slow":
                self._delay = spec.by
            case "duplicate":
                self.interims = 2
            case kind if kind in CONNECTION_KINDS:
                self._owner.strike_peer(spec, self._peer)
            case code:
                raise Refused(faults.CODES[code], spec.text or faults.GOOGLE_TEXT[faults.CODES[code]])
