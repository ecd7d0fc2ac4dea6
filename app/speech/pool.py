"""Channels to Google: at most so many legs each, since past 100 streams a connection makes the next one wait silently.

Every channel has a connection of its own (`grpc.use_local_subchannel_pool`; channels with equal arguments would share
one). A channel is opened when the others are full.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from app.speech.dialect import Client

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


@dataclass(slots=True)
class _Member:
    channel: grpc.aio.Channel
    client: Client
    legs: int = 0


class Lease:
    """The right to one leg on one channel; `release` gives it back, once."""

    def __init__(self, member: _Member) -> None:
        self.client = member.client
        self._member: _Member | None = member
        member.legs += 1

    def release(self) -> None:
        if self._member is not None:
            self._member.legs -= 1
            self._member = None


class Pool:
    """`connect` opens a channel, `client` puts the generated client over it. Needs a running event loop."""

    def __init__(
        self,
        connect: Callable[[], grpc.aio.Channel],
        client: Callable[[grpc.aio.Channel], Client],
        *,
        streams_per_channel: int,
    ) -> None:
        self._connect = connect
        self._client = client
        self._streams_per_channel = streams_per_channel
        self._members: list[_Member] = []

    def acquire(self) -> Lease:
        """A slot on the fullest channel that has room, so that the others can run empty."""
        free = [member for member in self._members if member.legs < self._streams_per_channel]
        return Lease(max(free, key=lambda member: member.legs) if free else self._grow())

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

    async def close(self) -> None:
        for member in self._members:
            await member.channel.close()
        self._members.clear()

    def _grow(self) -> _Member:
        channel = self._connect()
        self._members.append(_Member(channel, self._client(channel)))
        return self._members[-1]
