"""The client library moves to another connection without a pause: the old one is used until the new one is there."""

import asyncio
from typing import Any

import pytest

from app.client import Audio, GatewayError, Message, Reconnected, Reconnecting, SessionConfig, Transcriber
from app.client.attempt import spread
from app.core.protocol import Final, GoAway, Stopped
from tests.scripted import Peer, Script, in_turn, scripted

CONFIG = SessionConfig(audio=Audio(encoding="LINEAR16", sample_rate_hertz=16_000), language_codes=["en-US"])
TENTH = 3200


async def everything(transcriber: Transcriber) -> list[Message]:
    return [message async for message in transcriber.messages()]


def texts(messages: list[Message]) -> list[str]:
    return [message.text for message in messages if isinstance(message, Final)]


def told_lost(messages: list[Message]) -> bool:
    return any(isinstance(message, Reconnecting | Reconnected) for message in messages)


class Move:
    """What the two sides of a move wait for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        """The new connection has said `resume`."""
        self.old_is_done = asyncio.Event()
        self.moved = asyncio.Event()


async def goes_on(peer: Peer, offset: int, last_event: int, size: int) -> None:
    """After `resume`: hears the audio from `offset` to `size`, and ends the session."""
    await peer.resumed(offset)
    await peer.hear_until("stop")
    assert len(peer.audio) == size - offset
    await peer.final(last_event + 1, "last")
    await peer.stopped(last_event + 2, resumes=1)


async def test_the_old_connection_is_used_until_the_new_one_is_there() -> None:
    """In both directions; what both tell is told once."""
    move = Move()
    audio = bytes(range(250)) * 64

    async def old(peer: Peer) -> None:
        await peer.accept()
        await peer.hear_audio(TENTH)
        await peer.say("go_away", time_left_ms=0, reason="drain")
        await move.asked.wait()
        await peer.final(1, "first")
        await peer.hear_audio(2 * TENTH)
        await peer.final(2, "second")
        await peer.ack(final=TENTH)
        move.old_is_done.set()
        await peer.socket.wait_closed()
        assert peer.socket.close_code == 4000, "1000 would end the session"
        move.moved.set()

    async def new(peer: Peer) -> None:
        resume = await peer.resume()
        assert resume == {"type": "resume", "session_id": "s1", "resume_token": "r1", "last_event": 0}
        move.asked.set()
        await move.old_is_done.wait()
        await peer.resumed(2 * TENTH, replayed=2)
        await peer.final(1, "first")
        await peer.final(2, "second")
        await peer.hear_until("stop")
        assert bytes(peer.audio) == audio[2 * TENTH :]
        await peer.stopped(3, resumes=1)

    async with scripted(in_turn(old, new)) as url, Transcriber(url, CONFIG) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        await transcriber.send(audio[:TENTH])
        await move.asked.wait()
        assert transcriber.connected
        await transcriber.send(audio[TENTH : 2 * TENTH])
        await move.moved.wait()
        assert transcriber.received == 2 * TENTH
        await transcriber.send(audio[2 * TENTH :])
        await transcriber.stop()
        messages = await hearing
    assert texts(messages) == ["first", "second"]
    assert [type(message) for message in messages] == [GoAway, Final, Final, Stopped]
    assert transcriber.resumes == 1


@pytest.mark.parametrize(
    ("close_code", "code"), [(4409, "superseded"), (1012, "restarting"), (4409, None), (1012, None)]
)
async def test_that_the_old_connection_ends_during_a_move_is_expected(close_code: int, code: str | None) -> None:
    ended = asyncio.Event()
    move = Move()

    async def old(peer: Peer) -> None:
        await peer.accept()
        await peer.hear_audio(TENTH)
        await peer.say("go_away", time_left_ms=0, reason="drain")
        await move.asked.wait()
        if code:
            await peer.fail(close_code, code, retryable=code == "restarting")
        else:
            await peer.socket.close(close_code)
        ended.set()

    async def new(peer: Peer) -> None:
        await peer.resume()
        move.asked.set()
        await ended.wait()
        await goes_on(peer, TENTH, 0, 2 * TENTH)

    async with scripted(in_turn(old, new)) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.send(bytes(TENTH))
        await ended.wait()
        await transcriber.send(bytes(TENTH))
        await transcriber.stop()
        messages = await everything(transcriber)
    assert texts(messages) == ["last"]
    assert not told_lost(messages)


async def test_a_move_that_fails_is_tried_again_while_the_old_connection_goes_on() -> None:
    move = Move()

    async def old(peer: Peer) -> None:
        await peer.accept()
        await peer.say("go_away", time_left_ms=0, reason="drain")
        await move.asked.wait()
        await peer.final(1, "still here")
        await peer.hear_audio(TENTH)
        move.old_is_done.set()
        await peer.socket.wait_closed()

    async def breaks(peer: Peer) -> None:
        await peer.resume()
        await peer.cut()

    async def refuses(peer: Peer) -> None:
        await peer.resume()
        await peer.fail(4404, "session_unknown")

    async def new(peer: Peer) -> None:
        assert (await peer.resume())["resume_token"] == "r1"
        move.asked.set()
        await move.old_is_done.wait()
        await goes_on(peer, TENTH, 1, 2 * TENTH)

    async with scripted(in_turn(old, breaks, refuses, breaks, new)) as url, Transcriber(url, CONFIG) as transcriber:
        hearing = asyncio.create_task(everything(transcriber))
        await move.asked.wait()
        await transcriber.send(bytes(2 * TENTH))
        await transcriber.stop()
        messages = await hearing
    assert texts(messages) == ["still here", "last"]
    assert not told_lost(messages)
    assert transcriber.sessions == 1


async def test_a_move_that_is_refused_for_good_leaves_the_old_connection_alone() -> None:
    refused = asyncio.Event()

    async def old(peer: Peer) -> None:
        await peer.accept()
        await peer.say("go_away", time_left_ms=0, reason="drain")
        await refused.wait()
        await peer.hear_until("stop")
        await peer.final(1, "here")
        await peer.stopped(2)

    async def new(peer: Peer) -> None:
        await peer.resume()
        await peer.fail(4401, "token_expired")
        refused.set()

    async with scripted(in_turn(old, new)) as url, Transcriber(url, CONFIG) as transcriber:
        await refused.wait()
        await transcriber.stop()
        assert texts(await everything(transcriber)) == ["here"]


async def test_a_network_that_changes_again_is_followed_at_once() -> None:
    """An attempt over the network before may be dead."""
    asked = [asyncio.Event(), asyncio.Event()]

    async def old(peer: Peer) -> None:
        await peer.accept()
        await peer.socket.wait_closed()

    async def never_answers(peer: Peer) -> None:
        await peer.resume()
        asked[0].set()
        await peer.socket.wait_closed()
        assert peer.socket.close_code == 4000

    async def new(peer: Peer) -> None:
        await peer.resume()
        asked[1].set()
        await goes_on(peer, 0, 0, 0)

    async with scripted(in_turn(old, never_answers, new)) as url, Transcriber(url, CONFIG) as transcriber:
        for event in asked:
            transcriber.network_changed()
            await event.wait()
        await transcriber.stop()
        assert texts(await everything(transcriber)) == ["last"]


async def test_an_attempt_of_ours_that_was_given_up_may_win() -> None:
    """Its `resume` comes after the one that followed it: that is closed 4409, and its token is dead. The one before is
    good."""
    asked = asyncio.Event()

    async def old(peer: Peer) -> None:
        await peer.accept()
        await peer.socket.wait_closed()

    async def never_answers(peer: Peer) -> None:
        await peer.resume()
        asked.set()
        await peer.socket.wait_closed()

    async def loses(peer: Peer) -> None:
        await peer.resume()
        await peer.resumed(0)
        await peer.fail(4409, "superseded")

    async def knows_another(peer: Peer) -> None:
        assert (await peer.resume())["resume_token"] == "r2"
        await peer.fail(4404, "session_unknown")

    async def new(peer: Peer) -> None:
        assert (await peer.resume())["resume_token"] == "r1"
        await goes_on(peer, 0, 0, 0)

    async with (
        scripted(in_turn(old, never_answers, loses, knows_another, new)) as url,
        Transcriber(url, CONFIG) as transcriber,
    ):
        transcriber.network_changed()
        await asked.wait()
        transcriber.network_changed()
        await transcriber.stop()
        assert texts(await everything(transcriber)) == ["last"]
    assert transcriber.sessions == 1


async def test_who_is_superseded_by_somebody_else_is_over() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.fail(4409, "superseded")

    async with scripted(in_turn(script)) as url, Transcriber(url, CONFIG) as transcriber:
        with pytest.raises(GatewayError, match="superseded"):
            await everything(transcriber)


async def test_a_session_that_cannot_be_resumed_does_not_move() -> None:
    """Its gateway says so: `resume_window_ms` is 0."""

    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.say("go_away", time_left_ms=0, reason="drain")
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(in_turn(script)) as url, Transcriber(url, CONFIG) as transcriber:
        assert isinstance(await anext(transcriber.messages()), GoAway)
        transcriber.network_changed()
        await transcriber.stop()
        await everything(transcriber)


async def test_leaving_during_a_move_leaves_no_task() -> None:
    asked = asyncio.Event()

    async def old(peer: Peer) -> None:
        await peer.accept()
        await peer.socket.wait_closed()
        assert peer.socket.close_code == 1000

    async def new(peer: Peer) -> None:
        await peer.resume()
        asked.set()
        await peer.socket.wait_closed()

    before = asyncio.all_tasks()
    async with scripted(in_turn(old, new)) as url:
        async with Transcriber(url, CONFIG) as transcriber:
            transcriber.network_changed()
            await asked.wait()
    assert asyncio.all_tasks() == before


def test_a_fleet_that_is_told_to_go_is_spread() -> None:
    """Over a part of the time that is left, and over 2 s at most."""
    assert spread(20_000, lambda: 1.0) == 2.0
    assert spread(20_000, lambda: 0.25) == 0.5
    assert spread(2_000, lambda: 1.0) == 0.5
    assert spread(0, lambda: 1.0) == 0.0


# Numbered events --------------------------------------------------------------------------------


def with_a_hole(asked: list[dict[str, Any]]) -> Script:
    """Event 2 does not come; what was asked for on coming back is noted."""

    async def script(peer: Peer) -> None:
        if not asked:
            asked.append(await peer.accept())
            await peer.final(1, "one")
        else:
            asked.append(await peer.resume())
            await peer.resumed(0)
        await peer.final(3, "three")
        await peer.socket.wait_closed()

    return script


async def test_an_event_number_that_skips_one_is_a_failure_of_the_gateway() -> None:
    """It is told, and the session is resumed from the last good event."""
    asked: list[dict[str, Any]] = []

    async def whole(peer: Peer) -> None:
        asked.append(await peer.resume())
        await peer.resumed(0)
        for event, text in enumerate(("one", "two", "three"), 1):
            await peer.final(event, text)  # more than was asked for does no harm
        await peer.hear_until("stop")
        await peer.stopped(4)

    async with scripted(in_turn(with_a_hole(asked), whole)) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.stop()
        messages = await everything(transcriber)
    assert texts(messages) == ["one", "two", "three"]
    assert [message.event for message in messages if isinstance(message, Final)] == [1, 2, 3]
    assert asked[1]["last_event"] == 1
    assert Reconnecting("the gateway failed: after event 1 it has said event 3") in messages
    assert Reconnected(resumed=True) in messages


async def test_a_session_whose_history_has_a_hole_is_followed_by_a_new_one() -> None:
    """Its audio is still here: nothing is lost."""
    asked: list[dict[str, Any]] = []

    async def anew(peer: Peer) -> None:
        await peer.accept("s2")
        await peer.hear_until("stop")
        assert len(peer.audio) == TENTH
        await peer.final(1, "all the rest", 0, 100)
        await peer.stopped(2)

    hole = with_a_hole(asked)
    async with scripted(in_turn(hole, hole, anew)) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.send(bytes(32_000 + TENTH))
        await transcriber.stop()
        messages = await everything(transcriber)
    assert texts(messages) == ["one", "all the rest"]
    assert [message.event for message in messages if isinstance(message, Final | Stopped)] == [1, 2, 3]
    assert transcriber.sessions == 2


async def test_an_attempt_that_was_refused_may_have_won_all_the_same() -> None:
    """The other gateway's store answered too late: it has the session, and says that it cannot go on with it now."""
    refused = asyncio.Event()

    async def old(peer: Peer) -> None:
        await peer.accept()
        await peer.say("go_away", time_left_ms=0, reason="drain")
        await refused.wait()
        await peer.fail(4409, "superseded")

    async def busy(peer: Peer) -> None:
        await peer.resume()
        await peer.fail(1013, "overloaded", retryable=True, retry_after_ms=200)
        refused.set()

    async def new(peer: Peer) -> None:
        await peer.resume()
        await goes_on(peer, 0, 0, 0)

    async with scripted(in_turn(old, busy, new)) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.stop()
        assert isinstance((await everything(transcriber))[-1], Stopped)
        assert transcriber.sessions == 1
