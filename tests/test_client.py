"""The client library against a scripted gateway: what it says, how far it runs ahead, and how it fails."""

import asyncio
import json
from base64 import b64decode
from typing import Any

import pytest

from app.client import (
    Audio,
    ConnectionLostError,
    GatewayError,
    Message,
    SessionConfig,
    Transcriber,
    TranscriberError,
    UnreachableError,
    link,
)
from app.core.protocol import Final, Gap, GapEvent, Interim, Stopped
from tests.scripted import Peer, refusing, scripted

CONFIG = SessionConfig(audio=Audio(encoding="LINEAR16", sample_rate_hertz=16_000), language_codes=["en-US"])


async def heard(transcriber: Transcriber) -> list[Message]:
    return [message async for message in transcriber.messages()]


async def one_final(peer: Peer) -> None:
    await peer.begin()
    await peer.hear_until("stop")
    await peer.final(1, "hello")
    await peer.stopped(2)


# A session that goes well -----------------------------------------------------------------------


async def test_a_session_says_start_sends_audio_and_ends_with_stopped() -> None:
    """The journey of the module's docstring."""
    starts = []
    audio = bytes(range(256)) * 40

    async def script(peer: Peer) -> None:
        starts.append(await peer.begin())
        await peer.hear_until("stop")
        assert bytes(peer.audio) == audio
        await peer.final(1, "hello")
        await peer.stopped(2)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        assert transcriber.started.session_id == "s1"
        assert transcriber.started.config == CONFIG
        await transcriber.send(audio)
        await transcriber.stop()
        final, stopped = await heard(transcriber)

    assert isinstance(final, Final)
    assert final.text == "hello"
    assert isinstance(stopped, Stopped)
    assert starts[0]["audio"] == {"encoding": "LINEAR16", "sample_rate_hertz": 16_000, "audio_channel_count": 1}


async def test_the_token_and_the_subprotocol_go_with_the_upgrade() -> None:
    async def script(peer: Peer) -> None:
        request = peer.socket.request
        assert request is not None
        assert request.headers["Authorization"] == "Bearer secret"
        assert peer.socket.subprotocol == "stt.v1"
        await one_final(peer)

    async with scripted(script) as url, Transcriber(url, CONFIG, token="secret") as transcriber:
        await transcriber.stop()
        await heard(transcriber)


@pytest.mark.parametrize(
    ("frame_ms", "frames"),
    [(100, [3200, 3200, 600]), (20, [640] * 10 + [600]), (1, [32] * 218 + [24]), (1000, [7000])],
)
async def test_audio_goes_out_in_frames_of_the_asked_length(frame_ms: int, frames: list[int]) -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.hear_until("stop")
        assert peer.frames == frames
        await peer.stopped(1)

    async with scripted(script) as url, Transcriber(url, CONFIG, frame_ms=frame_ms) as transcriber:
        await transcriber.send(bytes(7000))
        await transcriber.stop()
        await heard(transcriber)


async def test_no_frame_is_longer_than_the_gateway_takes() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin(max_frame=1000)
        await peer.hear_until("stop")
        assert peer.frames == [1000, 1000, 500]
        await peer.stopped(1)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.send(bytes(2500))
        await transcriber.stop()
        await heard(transcriber)


async def test_base64_framing_says_where_each_piece_belongs() -> None:
    """Also after a gap: the cursor counts what was skipped."""
    said: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        await peer.begin()
        while (frame := await peer.hear()) != {"type": "stop"}:
            assert isinstance(frame, dict)
            said.append(frame)
        await peer.stopped(1)

    async with scripted(script) as url, Transcriber(url, CONFIG, framing="base64") as transcriber:
        await transcriber.send(b"a" * 3000 + b"b" * 1000)
        await transcriber.gap(500, "muted")
        await transcriber.send(b"c" * 10)
        assert transcriber.sent == 4510
        await transcriber.stop()
        await heard(transcriber)

    assert [frame.get("offset") for frame in said] == [0, 3200, None, 4500]
    assert said[2] == {"type": "gap", "bytes": 500, "reason": "muted"}
    assert b64decode(said[1]["content"]) == b"b" * 800


async def test_finalize_and_keepalive_say_what_they_are_called() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        assert await peer.hear() == {"type": "finalize", "id": "a"}
        assert await peer.hear() == {"type": "keepalive"}
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.finalize("a")
        await transcriber.keepalive()
        await transcriber.stop()
        await heard(transcriber)


async def test_the_session_is_kept_while_the_app_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "KEEPALIVE_SECONDS", 0.05)
    kept = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.begin()
        for _ in range(3):
            assert await peer.hear() == {"type": "keepalive"}
        kept.set()
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        await kept.wait()
        await transcriber.stop()
        await heard(transcriber)


async def test_stop_is_said_once_and_no_audio_follows_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        assert await peer.hear() == {"type": "stop"}
        assert await peer.hear() == {"type": "keepalive"}
        await peer.stopped(1)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.stop()
        await transcriber.stop()
        with pytest.raises(RuntimeError, match="after stop"):
            await transcriber.send(b"x")
        await transcriber.keepalive()
        await heard(transcriber)


# Credit -----------------------------------------------------------------------------------------


async def test_a_client_is_never_more_than_the_window_ahead_of_what_is_final() -> None:
    """The keepalive shows that the client holds audio back: it would stand before it in the socket."""
    full = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.begin(window=1000)
        await peer.hear_audio(1000)
        full.set()
        assert await peer.hear() == {"type": "keepalive"}
        await peer.ack(final=600, window=1000)
        await peer.hear_audio(1600)
        assert len(peer.audio) == 1600
        await peer.ack(final=1600, window=10_000)
        await peer.hear_until("stop")
        assert len(peer.audio) == 5000
        await peer.stopped(1)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        sending = asyncio.create_task(transcriber.send(bytes(5000)))
        await full.wait()
        await transcriber.keepalive()
        await sending
        await transcriber.stop()
        await heard(transcriber)


async def test_a_microphone_does_not_wait_for_a_socket_that_is_stuck() -> None:
    """What it says meanwhile is kept, up to the window; only after that it is skipped."""

    async def script(peer: Peer) -> None:
        transport: Any = peer.socket.transport
        await peer.begin(window=20_000_000)
        transport.pause_reading()
        await said.wait()
        transport.resume_reading()
        await peer.hear_until("stop")
        assert len(peer.audio) == 16_000_000
        await peer.stopped(1)

    said = asyncio.Event()
    async with scripted(script) as url, Transcriber(url, CONFIG, overflow="gap") as transcriber:
        for _ in range(16):
            await transcriber.send(bytes(1_000_000))
        assert transcriber.room == 4_000_000
        said.set()
        await transcriber.stop()
        await heard(transcriber)


async def test_what_is_not_final_is_kept_and_nothing_else() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.hear_audio(7000)
        await peer.ack(final=4000)
        await peer.hear_until("stop")
        await peer.stopped(1)

    audio = bytes(range(250)) * 28
    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.send(audio)
        await transcriber._until(lambda: transcriber.settled == 4000)
        assert transcriber.received == 7000
        transcriber._outbox.rewind(0)
        kept = list(iter(transcriber._outbox.next, None))
        assert kept[0] == (0, Gap(4000, "interrupted")), "never a silent hole, whatever the gateway wants"
        assert kept[1][0] == 4000
        assert b"".join(chunk for _, chunk in kept if isinstance(chunk, bytes)) == audio[4000:]
        await transcriber.stop()
        await heard(transcriber)


async def test_acknowledgements_never_go_back() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.hear_audio(2000)
        await peer.ack(final=2000)
        await peer.ack(final=1000)
        await peer.final(1, "hello")
        await peer.hear_until("stop")
        await peer.stopped(2)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.send(bytes(2000))
        await anext(transcriber.messages())
        assert transcriber.settled == 2000
        await transcriber.stop()
        await heard(transcriber)


async def test_everything_may_be_sent_before_anything_is_read() -> None:
    """The socket is read in between: neither side ever waits for the other."""
    frames = 500

    async def script(peer: Peer) -> None:
        await peer.begin(window=6400)
        for number in range(1, frames + 1):
            await peer.hear_audio(number * 3200)
            await peer.final(number, "word " * 200)
            await peer.ack(final=number * 3200, window=6400)
        await peer.hear_until("stop")
        await peer.stopped(frames + 1)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.send(bytes(frames * 3200))
        await transcriber.stop()
        assert len(await heard(transcriber)) == frames + 1


async def test_a_newer_interim_replaces_the_unread_one_of_its_channel() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.interim("one")
        await peer.interim("one two")
        await peer.interim("other", channel=1)
        await peer.interim("one two three")
        await peer.hear_until("stop")
        await peer.stopped(1)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.stop()
        await transcriber._until(lambda: transcriber._keeper.over, fail=False)
        texts = [message.text for message in await heard(transcriber) if isinstance(message, Interim)]
    assert texts == ["one two", "other", "one two three"]


async def test_a_gap_is_heard_in_its_place() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.final(1, "before")
        await peer.say("gap", event=2, start_ms=1000, end_ms=2000, reason="upstream")
        await peer.hear_until("stop")
        await peer.stopped(3)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        await transcriber.stop()
        assert [type(message) for message in await heard(transcriber)] == [Final, GapEvent, Stopped]


async def test_leaving_early_closes_the_socket_and_leaves_no_task() -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.socket.wait_closed()
        gone.set()

    async with scripted(script) as url:
        before = asyncio.all_tasks()
        async with Transcriber(url, CONFIG) as transcriber:
            await transcriber.send(bytes(100))
        await gone.wait()
        assert transcriber._keeper._task.done()
        assert not {task for task in asyncio.all_tasks() - before if task.get_name() == "transcriber"}


# Refusals and losses ----------------------------------------------------------------------------

ERROR = {"type": "error", "code": "invalid_config", "message": "rate: 1", "retryable": False, "param": "audio.rate"}


async def test_an_error_in_answer_to_start_is_raised_on_entering() -> None:
    async def script(peer: Peer) -> None:
        await peer.hear()
        await peer.socket.send(json.dumps(ERROR))
        await peer.socket.close(4400)

    async with scripted(script) as url:
        with pytest.raises(GatewayError) as caught:
            await Transcriber(url, CONFIG).__aenter__()
    error = caught.value
    assert (error.code, error.message, error.param, error.retryable, error.retry_after_ms, error.status) == (
        "invalid_config",
        "rate: 1",
        "audio.rate",
        False,
        None,
        None,
    )


async def test_an_error_comes_after_what_was_said_before_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.final(1, "before")
        await peer.say("error", code="upstream_unavailable", message="m", retryable=True, retry_after_ms=1500)
        await peer.socket.close(1013)

    async with scripted(script) as url, Transcriber(url, CONFIG, give_up_seconds=0) as transcriber:
        messages = transcriber.messages()
        first = await anext(messages)
        assert isinstance(first, Final)
        with pytest.raises(GatewayError) as caught:
            await anext(messages)
    assert caught.value.retryable
    assert caught.value.retry_after_ms == 1500


async def test_who_waits_for_credit_hears_the_error_too() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin(window=1000)
        await peer.hear_audio(1000)
        await peer.socket.send(json.dumps(ERROR))
        await peer.socket.close(4400)

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        with pytest.raises(GatewayError, match="invalid_config"):
            await transcriber.send(bytes(5000))
        with pytest.raises(GatewayError, match="invalid_config"):
            await transcriber.stop()


@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_a_refused_upgrade_carries_the_gateways_own_error(status: int) -> None:
    body = json.dumps({"error": {"code": "c", "message": "m", "retryable": True, "retry_after_ms": 7}})
    async with refusing(status, body) as url:
        with pytest.raises(GatewayError) as caught:
            await Transcriber(url, CONFIG).__aenter__()
    error = caught.value
    assert (error.code, error.message, error.retryable, error.retry_after_ms, error.status) == (
        "c",
        "m",
        True,
        7,
        status,
    )


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (429, True), (502, True)])
async def test_a_refusal_by_something_in_front_of_the_gateway_is_named_by_its_status(
    status: int, retryable: bool
) -> None:
    async with refusing(status, "<html>nginx</html>", Retry_After="3") as url:
        with pytest.raises(GatewayError) as caught:
            await Transcriber(url, CONFIG).__aenter__()
    assert caught.value.code == f"http_{status}"
    assert caught.value.retryable is retryable
    assert caught.value.retry_after_ms == 3000


async def test_nobody_listening_is_unreachable_and_no_token_is_repeated() -> None:
    async with scripted(one_final) as url:
        pass
    with pytest.raises(UnreachableError, match="connection refused") as caught:
        await Transcriber(f"{url}?token=secret", CONFIG).__aenter__()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "nonsense", "ws://"])
async def test_what_is_no_websocket_address_is_unreachable(url: str) -> None:
    with pytest.raises(UnreachableError, match="no address"):
        await Transcriber(url, CONFIG).__aenter__()


async def test_a_server_that_speaks_something_else_is_unreachable() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnreachableError, match="speaks no WebSocket"):
            await Transcriber(f"ws://127.0.0.1:{port}/", CONFIG).__aenter__()


async def test_a_connection_that_breaks_is_lost() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.cut()

    async with scripted(script) as url, Transcriber(url, CONFIG, give_up_seconds=0) as transcriber:
        with pytest.raises(ConnectionLostError, match="without a closing frame"):
            await heard(transcriber)


async def test_a_close_without_a_word_is_lost_and_names_its_code() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.socket.close(1012, "restart")

    async with scripted(script) as url, Transcriber(url, CONFIG, give_up_seconds=0) as transcriber:
        with pytest.raises(ConnectionLostError, match="1012 restart"):
            await heard(transcriber)


@pytest.mark.parametrize("frame", ["not json", '{"type": "novelty"}', '{"type": "ack", "received": "many"}'])
async def test_what_the_protocol_does_not_know_ends_the_session(frame: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.socket.send(frame)
        await peer.socket.wait_closed()

    async with scripted(script) as url, Transcriber(url, CONFIG) as transcriber:
        with pytest.raises(TranscriberError, match="does not know"):
            await heard(transcriber)
