"""Channels to Google: at most so many legs each, since past 100 streams a connection makes the next one wait silently.

Every channel has a connection of its own (`grpc.use_local_subchannel_pool`; channels with equal arguments would share
one). The next one is opened before the others are full, so that it is connected when it is needed; one that stays empty
is closed. When every channel is full, legs wait in line: those of sessions that run already come first.

The upstream's own quota is kept too: so many streams at a time, so many starts a minute. A part of both is kept for
sessions that run already, whose next leg cannot wait: a new session can, in sight.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from app.speech.dialect import Client
from app.speech.starts import LOOK_AGAIN_SECONDS, Starts, for_new_sessions

CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    # A dead upstream is never noticed without these; more often than every 30 s servers may take for abuse.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it a peer whose TCP still answers is given 60 s
    # gRPC's own wait before it connects again would grow to 120 s.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
SPARE = 0.1
"""Part of a channel's places: with fewer free in all, the next channel is opened."""
EMPTY_SECONDS = 60.0
"""So long a channel without legs is kept."""


class NoPlace(Exception):
    """Every stream that may be open is open, and none ended in time; or too many were opened just now."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    streams_per_channel: int = 90
    max_channels: int = 10
    wait: float = 10.0
    """Seconds that a leg waits for a place."""
    streams: int | None = None
    """The upstream's own bound on legs; none where it has none."""
    starts_per_minute: int | None = None
    """The upstream's own, too."""


@dataclass(slots=True, eq=False)
class _Member:
    channel: grpc.aio.Channel
    client: Client
    legs: int = 0
    closing: asyncio.TimerHandle | None = None
    suspect: bool = False
    """A leg was given up on it, and nobody has heard anything through it since: its connection may be dead."""

    @property
    def connected(self) -> bool:
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY


class Lease:
    """The right to one leg on one channel; `release` gives it back, once."""

    def __init__(self, member: _Member, released: Callable[[_Member], None]) -> None:
        self.client = member.client
        self._member: _Member | None = member
        self._released = released
        member.legs += 1

    def answers(self) -> None:
        """Something was heard through its channel."""
        if self._member is not None:
            self._member.suspect = False

    def suspect(self) -> None:
        """The leg was given up: whoever comes next gets another channel, until somebody hears something through this
        one. gRPC's own keepalive takes up to 40 s to notice that a connection is dead."""
        if self._member is not None:
            self._member.suspect = True

    def release(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            member.legs -= 1
            self._released(member)


@dataclass(slots=True)
class _Line:
    """Who waits: legs of sessions that run already before first legs, each in the order in which they came."""

    running: deque[asyncio.Future[None]] = field(default_factory=deque)
    first: deque[asyncio.Future[None]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.running) + len(self.first)

    def call_next(self, *, first: bool) -> bool:
        """Whether there was anybody to call; `first`: first legs too."""
        for line in (self.running, self.first) if first else (self.running,):
            while line:
                turn = line.popleft()
                if not turn.cancelled():  # else who waited is leaving, and has not run yet to say so
                    turn.set_result(None)
                    return True
        return False


class Pool:
    """`connect` opens a channel, `client` puts the generated client over it. Needs a running event loop."""

    def __init__(
        self,
        connect: Callable[[], grpc.aio.Channel],
        client: Callable[[grpc.aio.Channel], Client],
        limits: PoolLimits,
    ) -> None:
        self._connect = connect
        self._client = client
        self._limits = limits
        self._members: list[_Member] = []
        self._line = _Line()
        self._starts = Starts(limits.starts_per_minute)
        self._called = 0
        """Places that are kept for those who were called and have not come yet."""
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def channels(self) -> int:
        return len(self._members)

    @property
    def places(self) -> int:
        """Legs that there may be."""
        channels = self._limits.streams_per_channel * self._limits.max_channels
        return channels if self._limits.streams is None else min(channels, self._limits.streams)

    @property
    def places_for_first(self) -> int:
        """Of those, for sessions that had none before."""
        streams = self._limits.streams
        return self.places if streams is None else min(self.places, for_new_sessions(streams))

    @property
    def wait_seconds(self) -> float:
        """How long a leg waits for its place at most."""
        return self._limits.wait

    @property
    def legs(self) -> int:
        return sum(member.legs for member in self._members)

    @property
    def full(self) -> bool:
        """A new session would have to wait."""
        return self.legs >= self.places_for_first or self._starts.exhausted is not None

    @property
    def why_full(self) -> str:
        """In words, which name the limit."""
        starts = self._starts.exhausted
        if starts is not None and self.legs < self.places_for_first:
            return f"{starts} streams to the upstream were opened within a minute"
        taken = self.places if self.legs >= self.places else self.places_for_first
        kept = "" if taken == self.places else f" of {self.places} (the rest is for sessions that run)"
        return f"all {taken}{kept} streams to the upstream are taken"

    async def acquire(self, *, running: bool) -> Lease:
        """A place, on the fullest channel that has one, so that the others can run empty. `running`: for a session that
        had a leg before. Raises NoPlace. Cancelling is safe."""
        until = asyncio.get_running_loop().time() + self._limits.wait
        if not self._has_place(running=running):
            await self._wait(self._line.running if running else self._line.first)
        lease = self._lease()
        try:
            await self._begin(until, running=running)
        except BaseException:
            lease.release()
            raise
        return lease

    def _has_place(self, *, running: bool) -> bool:
        """And nobody is in line before it."""
        if running:
            return not self._line.running and self.legs + self._called < self.places
        return not self._line and self.legs + self._called < self.places_for_first

    async def _begin(self, until: float, *, running: bool) -> None:
        """Waits until one more may be opened. Who waits has its place already: none is free then but for those who do
        not wait here."""
        clock = asyncio.get_running_loop().time
        while not await self._starts.may_begin(running=running):
            if clock() >= until:
                raise NoPlace(f"{self.why_full}, and no other may be in {self._limits.wait:g} s")
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _wait(self, line: deque[asyncio.Future[None]]) -> None:
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            async with asyncio.timeout(self._limits.wait):
                await turn
        except TimeoutError:
            if turn.cancelled():
                _leave(line, turn)
                raise NoPlace(f"{self.why_full}, and none ended in {self._limits.wait:g} s") from None
        except asyncio.CancelledError:
            if turn.cancelled():
                _leave(line, turn)
            else:  # called in the same moment: the next one's turn
                self._called -= 1
                self._call_next()
            raise
        self._called -= 1

    def _lease(self) -> Lease:
        member = self._roomiest()
        if member.closing is not None:
            member.closing.cancel()
            member.closing = None
        lease = Lease(member, self._released)
        spare = self.channels * self._limits.streams_per_channel - self.legs
        if spare < self._limits.streams_per_channel * SPARE and self.channels < self._limits.max_channels:
            self._grow()
        return lease

    def _roomiest(self) -> _Member:
        free = [member for member in self._members if member.legs < self._limits.streams_per_channel]
        best = max(free, key=lambda member: (not member.suspect, member.connected, member.legs), default=None)
        if best is None or (best.suspect and self.channels < self._limits.max_channels):
            return self._grow()
        return best

    def _released(self, member: _Member) -> None:
        self._call_next()
        if member.legs == 0 and self._members:
            self._close_later(member)

    def _close_later(self, member: _Member) -> None:
        member.closing = asyncio.get_running_loop().call_later(EMPTY_SECONDS, self._shrink, member)

    def _call_next(self) -> None:
        taken = self.legs + self._called
        if taken < self.places:
            self._called += self._line.call_next(first=taken < self.places_for_first)

    def _shrink(self, member: _Member) -> None:
        """The last channel stays."""
        member.closing = None
        if member.legs == 0 and len(self._members) > 1:
            self._members.remove(member)
            task = asyncio.ensure_future(member.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _grow(self) -> _Member:
        """Connects at once."""
        channel = self._connect()
        channel.get_state(try_to_connect=True)
        member = _Member(channel, self._client(channel))
        self._members.append(member)
        self._close_later(member)
        return member

    async def answers(self, seconds: float) -> bool:
        """Whether the first channel is connected, or gets connected in time. Opens it where there is none."""
        member = self._members[0] if self._members else self._grow()
        try:
            async with asyncio.timeout(seconds):
                while (state := member.channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    await member.channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        return True

    async def why(self, seconds: float) -> str:
        """Why the first channel does not get connected, as far as gRPC tells: only a call is told."""
        check: Any = self._members[0].channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            await check(b"", timeout=seconds)
        except grpc.aio.AioRpcError as error:
            return error.details() or error.code().name
        return "it answers now"

    async def close(self) -> None:
        for member in self._members:
            if member.closing is not None:
                member.closing.cancel()
            await member.channel.close()
        self._members.clear()
        await asyncio.gather(*self._closing)
        await self._starts.close()


def _leave(line: deque[asyncio.Future[None]], turn: asyncio.Future[None]) -> None:
    """Passed over by a call in the same moment, it is in line no more."""
    if turn in line:
        line.remove(turn)
