"""gRPC in pure asyncio: the same specification for it as for grpc.aio's own channel, and then what only it must do."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from h2.events import DataReceived, RequestReceived
from h2.settings import SettingCodes

from app.http2.channel import Channel, Options
from tests.certificates import Authority
from tests.grpc_server import METHOD, Http2Peer, grpc_server, http2_server
from tests.test_back_pressure import until

Code = grpc.StatusCode
pytestmark = pytest.mark.timeout(40)
Connect = Callable[[str], Any]


def core(address: str) -> Any:
    """grpc.aio's, with connections of its own and short waits."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
    options.append(("grpc.max_receive_message_length", -1))
    return grpc.aio.insecure_channel(address, options=options)


def pure(address: str) -> Channel:
    return Channel(address, options=Options(reconnect=0.1))


@pytest.fixture(params=[core, pure], ids=["grpc.aio", "asyncio"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Makes a channel, and closes it."""
    made = []

    def connected(address: str) -> Any:
        made.append(request.param(address))
        return made[-1]

    yield connected
    for channel in made:
        await channel.close()


async def several(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


async def read_all(call: Any) -> list[bytes]:
    """Call by call: grpc.aio does not let who has begun so iterate."""
    responses = []
    while (response := await call.read()) is not grpc.aio.EOF:
        responses.append(response)
    return responses


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """How a call ends that does not end well."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(call)
    return caught.value


# As grpc.aio's -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 70_000, 3_000_000])
async def test_messages_go_both_ways_in_order_whatever_their_size(connect: Connect, size: int) -> None:
    """3 MB: no window is that wide."""
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    said = [os.urandom(size) for _ in range(3)]
    async with grpc_server(options=options) as (_, address):
        assert await read_all(connect(address).stream_stream(METHOD)(several(*said))) == said


async def test_many_small_messages_keep_their_order(connect: Connect) -> None:
    said = [b"%d" % number for number in range(2_000)]
    async with grpc_server() as (_, address):
        assert await read_all(connect(address).stream_stream(METHOD)(several(*said))) == said


async def test_calls_side_by_side_do_not_mix(connect: Connect) -> None:
    async with grpc_server() as (_, address):
        call = connect(address).stream_stream(METHOD)
        said = [[os.urandom(5_000) for _ in range(20)] for _ in range(50)]
        assert await asyncio.gather(*(read_all(call(several(*messages))) for messages in said)) == said


async def test_requests_are_written_by_hand_too(connect: Connect) -> None:
    async with grpc_server() as (_, address):
        call = connect(address).stream_stream(METHOD)()
        await call.write(b"one")
        assert await call.read() == b"one"
        await call.write(b"two")
        await call.done_writing()
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(b"three")
        assert await call.read() == b"two"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is Code.OK


async def test_responses_are_iterated_over_too(connect: Connect) -> None:
    async with grpc_server() as (_, address):
        call = connect(address).stream_stream(METHOD)(several(b"one", b"two"))
        assert [response async for response in call] == [b"one", b"two"]


async def test_what_serializers_make_goes_over_it(connect: Connect) -> None:
    async with grpc_server() as (_, address):
        call = connect(address).stream_stream(METHOD, str.encode, bytes.decode)
        requests: Any = several("é")  # type: ignore[arg-type]
        assert (await read_all(call(requests)))[0] == "é"  # type: ignore[comparison-overlap]


async def test_metadata_comes_and_goes(connect: Connect) -> None:
    seen: dict[str, Any] = {}

    async def behaviour(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        seen.update(context.invocation_metadata())
        await context.send_initial_metadata((("first", "a"), ("first-bin", b"\0\xff")))
        context.set_trailing_metadata((("last", "b"), ("last-bin", b"\xfe\0\1")))
        async for request in requests:
            yield request

    async with grpc_server(behaviour) as (_, address):
        mine = (("x-goog-request-params", "recognizer=projects/p"), ("mine-bin", b"\0\1\xfd"))
        call = connect(address).stream_stream(METHOD)(several(b"one"), metadata=mine)
        first = dict(await call.initial_metadata())
        assert await read_all(call) == [b"one"]
        last = dict(await call.trailing_metadata())
    assert seen["x-goog-request-params"] == "recognizer=projects/p"
    assert seen["mine-bin"] == b"\0\1\xfd"
    assert (first["first"], first["first-bin"]) == ("a", b"\0\xff")
    assert (last["last"], last["last-bin"]) == ("b", b"\xfe\0\1")


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
async def test_a_status_comes_with_its_text(connect: Connect, code: Code) -> None:
    async def behaviour(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:  # grpc.aio tells of a status that meets a write as INTERNAL, whatever it is
            yield b"before it"
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x03"),))
        await context.abort(code, "Größe 100 %, zu\nviel")

    async with grpc_server(behaviour) as (_, address):
        call = connect(address).stream_stream(METHOD)(several(b"one"))
        assert await call.read() == b"before it"
        error = await failure(call)
    assert (error.code(), error.details()) == (code, "Größe 100 %, zu\nviel")
    assert dict(error.trailing_metadata())["grpc-status-details-bin"] == b"\x08\x03"


async def test_a_refusal_at_once_comes_with_its_text(connect: Connect) -> None:
    """Trailers alone."""

    async def behaviour(_: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await context.abort(Code.PERMISSION_DENIED, "not you")
        yield b""

    async with grpc_server(behaviour) as (_, address):
        error = await failure(connect(address).stream_stream(METHOD)(several()))
    assert (error.code(), error.details()) == (Code.PERMISSION_DENIED, "not you")


async def test_a_method_that_is_not_there_is_named(connect: Connect) -> None:
    async with grpc_server() as (_, address):
        error = await failure(connect(address).stream_stream("/test/Other")(several(b"one")))
    assert error.code() is Code.UNIMPLEMENTED


async def test_a_deadline_ends_it_on_both_sides(connect: Connect) -> None:
    ended = asyncio.Event()

    async def behaviour(_: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        assert context.time_remaining() < 0.3
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        yield b""

    async with grpc_server(behaviour) as (_, address):
        call = connect(address).stream_stream(METHOD)(several(b"one"), timeout=0.3)
        error = await failure(call)
        await ended.wait()
    assert (error.code(), error.details()) == (Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert call.done()


async def waits(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    """Says one thing, and then nothing."""
    yield b"here"
    await asyncio.Event().wait()


async def test_a_call_that_is_cancelled_ends_on_both_sides(connect: Connect) -> None:
    cancelled = asyncio.Event()

    async def behaviour(_requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        yield b"here"
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with grpc_server(behaviour) as (_, address):
        call = connect(address).stream_stream(METHOD)(several(b"one"))
        assert await call.read() == b"here"
        reading = asyncio.ensure_future(read_all(call))
        await asyncio.sleep(0)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await cancelled.wait()
        assert call.cancelled()
        assert await call.code() is Code.CANCELLED
        assert not call.cancel(), "it is over"


async def test_a_reader_that_is_cancelled_cancels_the_call(connect: Connect) -> None:
    async with grpc_server(waits) as (_, address):
        call = connect(address).stream_stream(METHOD)(several(b"one"))
        assert await call.read() == b"here"
        reading = asyncio.ensure_future(call.read())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await call.code() is Code.CANCELLED


async def test_a_server_that_is_not_there_is_told_at_once_and_found_when_it_comes(connect: Connect) -> None:
    async with grpc_server() as (_, address):
        port = int(address.partition(":")[2])
    channel = connect(address)
    error = await failure(channel.stream_stream(METHOD)(several(b"one")))
    assert error.code() is Code.UNAVAILABLE
    assert address in (error.details() or "")
    async with grpc_server(port=port):
        await channel.channel_ready()
        assert await read_all(channel.stream_stream(METHOD)(several(b"one"))) == [b"one"]


async def test_a_server_that_leaves_lets_calls_end_and_takes_no_new_ones(connect: Connect) -> None:
    """GOAWAY."""
    async with grpc_server() as (server, address):
        port = int(address.partition(":")[2])
        channel = connect(address)
        call = channel.stream_stream(METHOD)()
        await call.write(b"before")
        assert await call.read() == b"before"
        leaving = asyncio.ensure_future(server.stop(30))
        while channel.get_state() is grpc.ChannelConnectivity.READY:
            await asyncio.sleep(0.01)
        await call.write(b"after")
        assert await call.read() == b"after"
        async with grpc_server(port=port):
            await channel.channel_ready()
            assert await read_all(channel.stream_stream(METHOD)(several(b"new"))) == [b"new"]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await leaving


async def test_a_server_that_dies_is_told(connect: Connect) -> None:
    async with grpc_server(waits) as (server, address):
        call = connect(address).stream_stream(METHOD)(several(b"one"))
        assert await call.read() == b"here"
        await server.stop(0)
        assert (await failure(call)).code() in {Code.UNAVAILABLE, Code.CANCELLED}


async def test_states_are_told(connect: Connect) -> None:
    async with grpc_server() as (_, address):
        channel = connect(address)
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        await channel.channel_ready()
        assert channel.get_state() is grpc.ChannelConnectivity.READY


async def test_more_streams_than_the_server_takes_wait(connect: Connect) -> None:
    async with grpc_server(options=(("grpc.max_concurrent_streams", 2),)) as (_, address):
        channel = connect(address)
        calls = [channel.stream_stream(METHOD)() for _ in range(2)]
        for call in calls:
            await call.write(b"one")
            await call.read()
        third = asyncio.ensure_future(read_all(channel.stream_stream(METHOD)(several(b"third"))))
        await calls[0].write(b"two")
        assert await calls[0].read() == b"two"
        assert not third.done()
        await calls[0].done_writing()
        assert await third == [b"third"]


# Only ours -----------------------------------------------------------------------------------

ANSWER = [(":status", "200"), ("content-type", "application/grpc")]


@pytest.fixture
async def channels() -> AsyncIterator[Callable[..., Channel]]:
    made: list[Channel] = []

    def connected(address: str, **more: Any) -> Channel:
        made.append(Channel(address, **more))
        return made[-1]

    yield connected
    for channel in made:
        await channel.close()


async def test_requests_that_are_not_asked_for_any_more_are_released(channels: Any) -> None:
    """grpc.aio leaves the generator parked for ever."""
    released = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            released.set()

    async def behaviour(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            return

    async with grpc_server(behaviour) as (_, address):
        assert await read_all(channels(address).stream_stream(METHOD)(requests())) == [b"one"]
        await released.wait()


async def test_requests_that_fail_end_the_call(channels: Any) -> None:
    """grpc.aio hangs, or says that it was cancelled."""

    async def requests() -> AsyncIterator[bytes]:
        yield b"one"
        raise ValueError("no more")

    async with grpc_server() as (_, address):
        error = await failure(channels(address).stream_stream(METHOD)(requests()))
    assert (error.code(), error.details()) == (Code.INTERNAL, "the requests failed: ValueError('no more')")


async def test_a_response_that_cannot_be_read_ends_the_call(channels: Any) -> None:
    async with grpc_server() as (_, address):
        call = channels(address).stream_stream(METHOD, None, int)(several(b"one"))
        assert (await failure(call)).code() is Code.INTERNAL


async def test_who_does_not_read_is_sent_no_more_than_a_window(channels: Any) -> None:
    """And holds nobody else up."""
    taken = 0
    heard: dict[int, int] = {}
    go_on = asyncio.Event()

    async def talk(peer: Http2Peer) -> None:
        async for event in peer.events():
            if isinstance(event, RequestReceived):
                peer.h2.send_headers(event.stream_id, ANSWER)
                if event.stream_id > 1:  # the other one
                    peer.h2.increment_flow_control_window(1_000_000)
                    peer.h2.increment_flow_control_window(1_000_000, 1)
            elif isinstance(event, DataReceived):
                heard[event.stream_id] = heard.get(event.stream_id, 0) + len(event.data)
                if event.stream_ended is not None:
                    peer.h2.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)

    async def requests() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(50):
            yield bytes(9_995)
            taken += 10_000
        await go_on.wait()

    async with http2_server(talk) as address:
        channel = channels(address)
        call = channel.stream_stream(METHOD)(requests())
        await until(lambda: heard.get(1) == 65_535)
        assert taken == 60_000
        assert await read_all(channel.stream_stream(METHOD)(several(b"one"))) == []
        await until(lambda: heard[1] == 500_000)
        go_on.set()
        assert await read_all(call) == []


async def test_what_nobody_reads_is_bounded_by_the_window(channels: Any) -> None:
    sent = 0

    async def behaviour(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        nonlocal sent
        async for _request in requests:
            for _ in range(100):
                yield bytes(100_000)
                sent += 100_000

    async with grpc_server(behaviour) as (_, address):
        channel = channels(address)
        slow = channel.stream_stream(METHOD)(several(b"go"))
        await until(lambda: sent >= 500_000)
        assert sum(map(len, await read_all(slow))) == 10_000_000


async def test_a_server_that_answers_nothing_is_noticed(channels: Any) -> None:
    """Its TCP is alive, perhaps."""

    async def talk(peer: Http2Peer) -> None:
        async for event in peer.events():
            if isinstance(event, RequestReceived):
                await peer.still()

    async with http2_server(talk) as address:
        channel = channels(address, options=Options(keepalive=0.05, keepalive_timeout=0.05))
        error = await failure(channel.stream_stream(METHOD)(several(b"one")))
    assert error.code() is Code.UNAVAILABLE
    assert error.details() == "the server did not answer a ping within 0.05 s"


async def test_a_server_that_answers_pings_is_waited_for(channels: Any) -> None:
    async with grpc_server(waits) as (_, address):
        channel = channels(address, options=Options(keepalive=0.02, keepalive_timeout=5.0))
        call = channel.stream_stream(METHOD)(several(b"one"), timeout=0.3)
        assert await call.read() == b"here"
        assert (await failure(call)).code() is Code.DEADLINE_EXCEEDED


async def test_streams_that_a_leaving_server_has_not_seen_are_told_so(channels: Any) -> None:
    async def talk(peer: Http2Peer) -> None:
        async for event in peer.events():
            if isinstance(event, RequestReceived):
                peer.h2.close_connection(last_stream_id=0)

    async with http2_server(talk) as address:
        error = await failure(channels(address).stream_stream(METHOD)(several()))
    assert error.code() is Code.UNAVAILABLE
    assert "GOAWAY" in (error.details() or "")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (0, Code.INTERNAL),
        (7, Code.UNAVAILABLE),
        (8, Code.CANCELLED),
        (11, Code.RESOURCE_EXHAUSTED),
        (99, Code.INTERNAL),
    ],
)
async def test_a_stream_that_is_reset_is_told(channels: Any, number: int, code: Code) -> None:
    async def talk(peer: Http2Peer) -> None:
        async for event in peer.events():
            if isinstance(event, DataReceived) and event.data:
                peer.h2.reset_stream(event.stream_id, number)
                await peer.flush()
                await peer.still()

    async with http2_server(talk) as address:
        error = await failure(channels(address).stream_stream(METHOD)(several(b"one")))
    assert (error.code(), error.details()) == (code, f"Received RST_STREAM with error code {number}")


@pytest.mark.parametrize(
    ("headers", "code", "text"),
    [
        (
            [(":status", "502"), ("content-type", "text/html")],
            Code.UNAVAILABLE,
            "Received http2 header with status: 502",
        ),
        ([(":status", "404")], Code.UNIMPLEMENTED, "Received http2 header with status: 404"),
        ([(":status", "200"), ("content-type", "text/html")], Code.UNKNOWN, "not gRPC's: content-type 'text/html'"),
        ([(":status", "200"), ("content-type", "application/grpc")], Code.UNKNOWN, "ended without a status"),
        (
            [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "77")],
            Code.UNKNOWN,
            "",
        ),
    ],
)
async def test_an_answer_that_is_not_a_grpc_servers(channels: Any, headers: Any, code: Code, text: str) -> None:
    async def talk(peer: Http2Peer) -> None:
        async for event in peer.events():
            if isinstance(event, RequestReceived):
                peer.h2.send_headers(event.stream_id, headers, end_stream=True)

    async with http2_server(talk) as address:
        error = await failure(channels(address).stream_stream(METHOD)(several()))
    assert error.code() is code
    assert text in (error.details() or "")


async def test_a_message_that_is_compressed_is_refused(channels: Any) -> None:
    async def talk(peer: Http2Peer) -> None:
        async for event in peer.events():
            if isinstance(event, RequestReceived):
                peer.h2.send_headers(event.stream_id, ANSWER)
                peer.h2.send_data(event.stream_id, b"\1\0\0\0\1a")

    async with http2_server(talk) as address:
        error = await failure(channels(address).stream_stream(METHOD)(several()))
    assert error.code() is Code.INTERNAL
    assert error.details() == "a message cannot be read: it is compressed"


async def test_a_window_that_shrinks_is_kept(channels: Any) -> None:
    heard = bytearray()

    async def talk(peer: Http2Peer) -> None:
        async for event in peer.events():
            if isinstance(event, RequestReceived):
                peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
                peer.h2.send_headers(event.stream_id, ANSWER)
            elif isinstance(event, DataReceived):
                heard.extend(event.data)
                peer.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if event.stream_ended is not None:
                    peer.h2.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)

    async with http2_server(talk) as address:
        assert await read_all(channels(address).stream_stream(METHOD)(several(bytes(200_000)))) == []
    assert len(heard) == 200_005


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\0" * 100])
async def test_who_does_not_speak_http2_is_no_server(channels: Any, says: bytes) -> None:
    async def talk(peer: Http2Peer) -> None:
        await peer.say(says)

    async with http2_server(talk) as address:
        error = await failure(channels(address).stream_stream(METHOD)(several()))
    assert error.code() is Code.UNAVAILABLE
    assert f"failed to connect to {address}: the server" in (error.details() or "")


async def test_credentials_are_asked_for_each_call(channels: Any) -> None:
    seen: list[str] = []
    asked = 0

    async def behaviour(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        seen.append(dict(context.invocation_metadata())["authorization"])
        async for request in requests:
            yield request

    async def credentials() -> list[tuple[str, str]]:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise ValueError("the key was revoked")
        return [("authorization", f"Bearer {asked}")]

    async with grpc_server(behaviour) as (_, address):
        call = channels(address, credentials=credentials).stream_stream(METHOD)
        for _ in range(2):
            await read_all(call(several(b"one")))
        error = await failure(call(several(b"one")))
    assert seen == ["Bearer 1", "Bearer 2"]
    assert error.code() is Code.UNAVAILABLE
    assert "the key was revoked" in (error.details() or "")


async def test_tls_is_spoken_with_who_can_be_trusted(channels: Any, tmp_path: Any) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "stranger")
    pair = authority.issue()
    credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.certificate.read_bytes())])
    async with grpc_server(credentials=credentials) as (_, address):
        for known, works in ((authority, True), (stranger, False)):
            context = known.trusted()
            context.set_alpn_protocols(["h2"])
            call = channels(address, tls=context).stream_stream(METHOD)(several(b"one"))
            if works:
                assert await read_all(call) == [b"one"]
            else:
                assert "CERTIFICATE_VERIFY_FAILED" in ((await failure(call)).details() or "")


async def test_tls_without_http2_is_refused(channels: Any, tmp_path: Any) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    ours = authority.trusted()
    ours.set_alpn_protocols(["h2"])
    error = await failure(channels(address, tls=ours).stream_stream(METHOD)(several()))
    server.close()
    assert "does not speak HTTP/2" in (error.details() or "")


async def test_a_channel_that_is_closed_tells_its_calls_and_leaves_nothing_behind() -> None:
    before = len(asyncio.all_tasks())
    async with grpc_server(waits) as (_, address):
        channel = Channel(address)
        call = channel.stream_stream(METHOD)(several(b"one"))
        assert await call.read() == b"here"
        await channel.close()
        assert (await failure(call)).code() is Code.UNAVAILABLE
        late = await failure(channel.stream_stream(METHOD)(several()))
        assert (late.code(), late.details()) == (Code.CANCELLED, "the channel is closed")
    await until(lambda: len(asyncio.all_tasks()) <= before)
