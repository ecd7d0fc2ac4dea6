"""Faults on demand: what each does to an unmodified client, and that a seed repeats them."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.api_core.exceptions import GoogleAPICallError

from app.emulator import faults
from app.emulator.__main__ import _parser
from app.emulator.api_v2 import V2
from app.emulator.calls import Refused
from app.emulator.control import control, main, set_faults, show_faults
from app.emulator.faults import CODES, EVERY_KIND, GOOGLE_TEXT, BadSpec, Point, parse
from app.emulator.forwarder import FrameEnds, goaway_frame
from app.emulator.injection import Faults, StreamFaults
from app.emulator.options import Options
from tests.emulator_client import (
    Asked,
    Google,
    Heard,
    google,
    pieces,
    port_of,
    rest,
    serve,
    silence,
    speech,
    start_server,
)

pytest.importorskip("onnxruntime")

BOTH = pytest.mark.parametrize("version", ["v1", "v2"])
BIG = 25_600  # bytes, 0.8 seconds: v2's largest message. Few of them: none is on its way when a status comes
UNAVAILABLE = ("UNAVAILABLE", "The service is currently unavailable.")
NEVER_END = {"stall at=speech", "silent at=speech", "blackhole at=speech"}
SOON = 0.3  # seconds; what has not come by then is held back


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """One server for all of these tests; each sets its own faults."""
    yield from serve("--workers", "1", "--connection-faults")


@pytest.fixture
def address(port: int) -> str:
    return f"127.0.0.1:{port}"


def utterance() -> list[bytes]:
    """Speech, and a pause after which it is final."""
    return pieces(speech(0, 2.4) + silence(1.0), BIG)


async def until(address: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What the emulator shows once it is so."""
    while not condition(state := await show_faults(address)):
        await asyncio.sleep(0.01)
    return state


async def opened(client: Google, *chunks: bytes, **asked: Any) -> Heard:
    """A call that only the server ends: it is not writing when that happens."""
    return await rest(await client.open(Asked(**asked), *chunks))


# -- status codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
async def test_any_status_code_with_its_known_text(code: str, port: int, address: str) -> None:
    """Before anything is said, unless the spec says otherwise."""
    await set_faults(address, [code])
    async with google("v2", port) as client:
        heard = await opened(client)
    assert heard.status == (code.upper(), GOOGLE_TEXT[CODES[code]])
    assert heard.responses == []


@BOTH
async def test_any_text(version: str, port: int, address: str) -> None:
    """Quoted as in a shell."""
    await set_faults(address, ["unavailable text='502:Bad Gateway'"])
    async with google(version, port) as client:
        heard = await opened(client)
    assert heard.status == ("UNAVAILABLE", "502:Bad Gateway")


@BOTH
async def test_mid_utterance(version: str, port: int, address: str) -> None:
    """Somebody speaks, and nothing is final yet."""
    await set_faults(address, ["unavailable at=speech"])
    async with google(version, port) as client:
        silent = await client.recognize(Asked(), pieces(silence(2.0), BIG))
        heard = await opened(client, *pieces(speech(0, 2.4), BIG), events=True)
    assert silent.status == ("OK", "")
    assert heard.status == UNAVAILABLE
    assert heard.events == ["SPEECH_ACTIVITY_BEGIN"]
    assert heard.finals == []


@BOTH
async def test_after_a_final(version: str, port: int, address: str) -> None:
    """Which is the last thing said."""
    await set_faults(address, ["internal at=final"])
    async with google(version, port) as client:
        heard = await opened(client, *utterance())
    assert heard.status == ("INTERNAL", "Internal error encountered.")
    assert heard.text.startswith("it was the best")


@BOTH
async def test_at_the_half_close(version: str, port: int, address: str) -> None:
    """Instead of the flush: the utterance in flight is lost."""
    await set_faults(address, ["aborted at=close"])
    async with google(version, port) as client:
        heard = await client.recognize(Asked(), pieces(speech(0, 2.4), BIG))
    assert heard.status == ("ABORTED", "The operation was aborted.")
    assert heard.finals == []


@BOTH
async def test_at_the_end(version: str, port: int, address: str) -> None:
    """The flushed final comes, and then no OK."""
    await set_faults(address, ["unavailable at=end"])
    async with google(version, port) as client:
        heard = await client.recognize(Asked(), pieces(speech(0, 2.4), BIG))
    assert heard.status == UNAVAILABLE
    assert heard.text.startswith("it was the best")
    assert heard.responses[-1].results


async def test_after_so_much_audio(port: int, address: str) -> None:
    """Not before, however long that takes."""
    await set_faults(address, ["unavailable after=1.5"])
    async with google("v2", port) as client:
        early = await client.recognize(Asked(), [silence(0.7), silence(0.7)])
        late = await opened(client, silence(0.7), silence(0.7), silence(0.1))
    assert early.status == ("OK", "")
    assert late.status == UNAVAILABLE


@pytest.mark.parametrize(
    ("version", "kind", "status"),
    [
        ("v1", "duration", ("OUT_OF_RANGE", "Exceeded maximum allowed stream duration of 305 seconds.")),
        ("v2", "duration", ("ABORTED", "Max duration of 5 minutes reached for stream.")),
        ("v2", "idle", ("ABORTED", "Stream timed out after receiving no more client requests.")),
    ],
)
async def test_a_limit_as_if_it_were_reached(
    version: str, kind: str, status: tuple[str, str], port: int, address: str
) -> None:
    """Each version has its own code and text."""
    await set_faults(address, [f"{kind} after=0.5"])
    async with google(version, port) as client:
        assert (await opened(client, silence(0.5))).status == status


async def test_shorter_limits(port: int, address: str) -> None:
    """By the clock; the texts name them."""
    await set_faults(address, ["limits duration=1 every=2", "limits idle=1 times=1"])
    async with google("v1", port) as client:
        idle = await opened(client, silence(0.1))
        long = await opened(client, silence(0.1))
    assert idle.status[1].startswith("Audio Timeout Error")
    assert long.status == ("OUT_OF_RANGE", "Exceeded maximum allowed stream duration of 1 seconds.")


@BOTH
async def test_a_clean_end_that_nobody_asked_for(version: str, port: int, address: str) -> None:
    """OK, in the middle, and the utterance in flight is lost."""
    await set_faults(address, ["end at=speech"])
    async with google(version, port) as client:
        heard = await opened(client, *pieces(speech(0, 2.4), BIG))
    assert heard.status == ("OK", "")
    assert heard.responses == []


# -- what comes late, twice or never ---------------------------------------------------------------------------------


async def test_a_stalled_stream_reads_nothing_and_says_nothing(port: int, address: str) -> None:
    """Until the fault is cleared: nothing is lost, then."""
    await set_faults(address, ["stall at=speech"])
    async with google("v2", port) as client:
        call = await client.open(Asked(), *pieces(speech(0, 2.4), BIG))
        before = await until(address, lambda state: bool(state["injected"]))
        reading = asyncio.create_task(rest(call))
        for _ in range(10):
            await call.write(client.audio(silence(0.5)))
        await asyncio.wait([reading], timeout=SOON)
        after = await show_faults(address)
        assert not reading.done()
        assert after["open"][0]["seconds"] <= 2.4 + 0.5
        assert before["injected"] == after["injected"] == {"stall at=speech": 1}
        await set_faults(address, [])
        await call.done_writing()
        heard = await reading
    assert heard.status == ("OK", "")
    assert heard.text.startswith("it was the best")


async def test_a_silent_stream_reads_everything_and_says_nothing(port: int, address: str) -> None:
    """Until the fault is cleared."""
    await set_faults(address, ["silent"])
    async with google("v2", port) as client:
        call = await client.open(Asked(), *utterance(), silence(0.6))
        reading = asyncio.create_task(rest(call))
        await call.done_writing()
        await until(address, lambda state: [stream["seconds"] for stream in state["open"]] == [4.0])
        await asyncio.wait([reading], timeout=SOON)
        assert not reading.done()
        await set_faults(address, [])
        heard = await reading
    assert heard.status == ("OK", "")
    assert heard.text.startswith("it was the best")


@pytest.mark.parametrize("kind", ["stall", "silent", "blackhole"])
async def test_what_ends_by_itself_loses_nothing(kind: str, port: int, address: str) -> None:
    """Everything comes, only later."""
    await set_faults(address, [f"{kind} at=speech for=1"])
    async with google("v2", port) as client:
        since = asyncio.get_running_loop().time()
        call = await client.open(Asked(), *utterance())
        await call.done_writing()
        heard = await rest(call)
    assert heard.status == ("OK", "")
    assert heard.text.startswith("it was the best")
    assert (await show_faults(address))["injected"] == {f"{kind} at=speech for=1": 1}
    assert asyncio.get_running_loop().time() - since >= 1


@BOTH
async def test_slow_finals(version: str, port: int, address: str) -> None:
    """What else there is to say before them comes in time."""
    await set_faults(address, ["slow by=1"])
    async with google(version, port) as client:
        since = asyncio.get_running_loop().time()
        call = await client.open(Asked(events=True), *utterance())
        for _ in range(2):
            assert (await call.read()).speech_event_type
        assert (await call.read()).results[0].is_final
        assert asyncio.get_running_loop().time() - since >= 1
        call.cancel()


@BOTH
async def test_duplicate_interims(version: str, port: int, address: str) -> None:
    """Finals never."""
    await set_faults(address, ["duplicate"])
    async with google(version, port) as client:
        heard = await client.recognize(Asked(interims=True), pieces(speech(0, 2.4)))
    assert heard.interims
    assert heard.interims[::2] == heard.interims[1::2]
    assert len(heard.finals) == 1


# -- connections -----------------------------------------------------------------------------------------------------


async def test_a_reset_ends_every_stream_of_the_connection(port: int, address: str) -> None:
    """And none of another."""
    await set_faults(address, ["reset at=speech"])
    async with google("v2", port) as client, google("v2", port) as other:
        bystander, elsewhere = await client.open(Asked()), await other.open(Asked(), silence(0.5))
        await until(address, lambda state: state["streams"] == 2)
        heard = await opened(client, *pieces(speech(0, 2.4), BIG))
        assert heard.status[0] == "UNAVAILABLE"
        assert (await rest(bystander)).status[0] == "UNAVAILABLE"
        await elsewhere.done_writing()
        assert (await rest(elsewhere)).status == ("OK", "")
        assert (await client.recognize(Asked(), [silence(0.5)])).status == ("OK", "")


async def test_a_ping_of_grpc_finds_a_blackhole(port: int, address: str) -> None:
    """The connection lives, and nothing arrives on it. TCP acknowledges, so it takes gRPC's own ping to notice."""
    keepalive = {"keepalive_time_ms": 1000, "keepalive_timeout_ms": 500, "http2.ping_timeout_ms": 500}
    await set_faults(address, ["blackhole after=0.5"])
    async with google("v2", port, **keepalive) as client:
        heard = await opened(client, silence(0.5))
    assert heard.status[0] == "UNAVAILABLE"
    async with google("v2", port) as client:
        assert (await client.recognize(Asked(), [silence(0.1)])).status == ("OK", "")


async def test_a_goaway_moves_the_next_call_to_another_connection(port: int, address: str) -> None:
    """The one under way stays, and ends well."""
    await set_faults(address, ["goaway at=speech times=1"])
    async with google("v2", port) as client:
        call = await client.open(Asked(), *utterance())
        assert (await anext(aiter(call))).results[0].is_final  # behind the GOAWAY
        following = await client.open(Asked(), silence(0.1))
        state = await until(address, lambda state: state["streams"] == 2)
        assert len({stream["connection"] for stream in state["open"]}) == 2
        assert state["injected"] == {"goaway at=speech times=1": 1}
        for each in (call, following):
            await each.done_writing()
            assert (await rest(each)).status == ("OK", "")


async def test_nobody_is_there_for_a_while(port: int, address: str) -> None:
    """Every connection is reset and none is taken; afterwards all is as before."""
    await set_faults(address, [])
    async with google("v2", port) as client:
        call = await client.open(Asked(), silence(0.1))
        await until(address, lambda state: len(state["open"]) == 1)
        await set_faults(address, ["down for=3 at=now"])
        assert (await rest(call)).status[0] == "UNAVAILABLE"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
    async with google("v2", port, initial_reconnect_backoff_ms=100) as client:
        assert (await client.recognize(Asked(), [silence(0.1)])).status == ("OK", "")


def test_a_goaway_stands_between_two_frames() -> None:
    """However the bytes are cut; never inside a header block, and never before the settings."""
    settings, headers = bytes(3) + bytes([4, 0]) + bytes(4), b"\0\0\2" + bytes([1, 0]) + bytes(4) + b"ab"
    continuation = b"\0\0\1" + bytes([9, 4]) + bytes(4) + b"c"
    stream = settings + headers + continuation + goaway_frame()
    for size in (1, 2, 5, 9, 10, 100):
        ends = FrameEnds()
        assert not ends.clean
        clean = set()
        for at in range(0, len(stream), size):
            end = ends.feed(stream[at : at + size])
            clean |= {at + end} if end is not None else set()
        assert clean <= {len(settings), len(settings + headers + continuation), len(stream)}
        assert len(settings) in clean
        assert ends.clean


# -- quotas ----------------------------------------------------------------------------------------------------------


async def test_a_quota_of_streams(port: int, address: str) -> None:
    """One more is refused until one ends."""
    await set_faults(address, ["quota streams=2"])
    async with google("v2", port) as client:
        calls = [await client.open(Asked(), silence(0.1)) for _ in range(2)]
        await until(address, lambda state: len(state["open"]) == 2)
        refused = await opened(client)
        await calls[0].done_writing()
        assert (await rest(calls[0])).status == ("OK", "")
        assert (await client.recognize(Asked(), [silence(0.1)])).status == ("OK", "")
        calls[1].cancel()
    assert refused.status == ("RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).")


async def test_a_quota_of_starts(port: int, address: str) -> None:
    """In a minute, however short each is."""
    await set_faults(address, ["quota starts=2"])
    async with google("v2", port) as client:
        heard = [await opened(client) if n == 2 else await client.say([client.config(Asked())]) for n in range(3)]
    assert [each.status[0] for each in heard] == ["OK", "OK", "RESOURCE_EXHAUSTED"]
    assert heard[2].status[1].startswith("Quota exceeded for quota metric 'speech.googleapis.com/default_requests'")


# -- how often -------------------------------------------------------------------------------------------------------


async def statuses(port: int, count: int) -> list[str]:
    async with google("v2", port) as client:
        return [(await client.say([client.config(Asked())])).status[0] for _ in range(count)]


async def test_every_so_many_calls_and_so_many_times(port: int, address: str) -> None:
    """Counted from when it was set; the first spec that ends a call wins."""
    state = await set_faults(address, ["unavailable every=3", "internal times=1"])
    assert (state["streams"], state["injected"]) == (0, {})
    assert await statuses(port, 7) == ["INTERNAL", "OK", "UNAVAILABLE", "OK", "OK", "UNAVAILABLE", "OK"]
    injected = (await show_faults(address))["injected"]
    assert injected == {"unavailable every=3": 2, "internal times=1": 1}


async def test_a_seed_repeats_the_same_faults(port: int, address: str) -> None:
    """Call by call; another seed gives others."""
    runs = []
    for seed in (1, 1, 2):
        await set_faults(address, ["unavailable chance=0.5"], seed)
        runs.append(await statuses(port, 16))
    assert runs[0] == runs[1] != runs[2]
    assert set(runs[0]) == {"OK", "UNAVAILABLE"}


async def test_every_few_seconds_of_audio_at_times_that_the_seed_gives() -> None:
    """Half as long to half as long again, each time."""
    times = [_strikes(["duplicate every=4s"], seed) for seed in (1, 1, 2)]
    assert times[0] == times[1] != times[2]
    gaps = [b - a for a, b in zip([0.0, *times[0]], times[0], strict=False)]
    assert len(gaps) > 10
    assert all(1.9 < gap < 6.2 for gap in gaps)


async def test_one_fault_does_not_change_the_dice_of_another() -> None:
    """Each spec has its own, so faults can be added to a run that is to be repeated."""
    assert _strikes(["duplicate every=4s"], 1) == _strikes(["duplicate every=4s", "slow every=1s by=0"], 1)


def _strikes(specs: list[str], seed: int) -> list[float]:
    """Seconds of audio at which the first spec strikes a stream of a minute."""
    owner, stream = _stream(specs, seed)
    stream.opened()
    struck = []
    for tenth in range(600):
        before = owner.injected[specs[0]]
        stream.heard(tenth / 10)
        if owner.injected[specs[0]] > before:
            struck.append(tenth / 10)
    return struck


def _stream(specs: list[str], seed: int) -> tuple[Faults, StreamFaults]:
    owner = Faults(Options(faults=tuple(specs), seed=seed))
    return owner, owner.enter(V2(), "ipv4:127.0.0.1:1", lambda _: None)


# -- a fault of every kind -------------------------------------------------------------------------------------------


def test_every_kind_is_dealt_to_as_many_streams_as_there_are_kinds() -> None:
    """In an order that the seed gives."""
    decks = [[faults.dealt(seed, n + 1).source for n in range(len(EVERY_KIND))] for seed in (1, 1, 2)]
    assert decks[0] == decks[1] != decks[2]
    assert sorted(decks[0]) == sorted(decks[2]) == sorted(EVERY_KIND)
    assert {parse(card).at for card in EVERY_KIND} == {None, *Point} - {Point.NOW}


async def test_every_kind_befalls_real_calls(port: int, address: str) -> None:
    """One call after the other, each with the fault that is dealt to it and perhaps more."""
    await set_faults(address, ["every-kind every=0.5s"], seed=7)
    hung = 0
    for _ in EVERY_KIND:
        async with google("v2", port, initial_reconnect_backoff_ms=100) as client:
            hung = await _survive(client, address, hung)
    async with google("v2", port, initial_reconnect_backoff_ms=100) as client:
        state = await show_faults(address)
        assert state["streams"] == len(EVERY_KIND)
        assert set(state["injected"]) == set(EVERY_KIND)
        await set_faults(address, [])
        assert (await client.recognize(Asked(), utterance())).text.startswith("it was the best")


async def _survive(client: Google, address: str, hung: int) -> int:
    """A call to its end, or to a fault that never ends; `hung`: how many of those there were, before and after it."""
    call = await client.client.streaming_recognize(retry=None)
    saying = asyncio.create_task(_say(client, call))
    while not saying.done():
        await asyncio.wait([saying], timeout=0.05)
        if (now := await _count_hung(address)) > hung:
            hung = now
            call.cancel()
    if not saying.cancelled():
        saying.result()
    return hung


async def _say(client: Google, call: Any) -> None:
    try:
        await call.write(client.config(Asked(interims=True)))
        for chunk in utterance():
            await call.write(client.audio(chunk))
        await call.done_writing()
    except (GoogleAPICallError, asyncio.InvalidStateError):
        pass  # it ended while we were writing
    await rest(call)


async def _count_hung(address: str) -> int:
    """Never less than before, but while nobody is there to ask."""
    try:
        injected = (await show_faults(address))["injected"]
    except grpc.aio.AioRpcError:
        return 0
    return sum(injected.get(spec, 0) for spec in NEVER_END)


# -- at run time -----------------------------------------------------------------------------------------------------


async def test_what_is_to_happen_now_happens_to_every_open_stream_and_to_no_other(port: int, address: str) -> None:
    """At the moment at which it is set."""
    await set_faults(address, [])
    async with google("v2", port) as client:
        calls = [await client.open(Asked(), silence(0.1)) for _ in range(2)]
        await until(address, lambda state: len(state["open"]) == 2)
        state = await set_faults(address, ["unavailable at=now"])
        assert state["injected"] == {"unavailable at=now": 2}
        assert [(await rest(call)).status for call in calls] == [UNAVAILABLE] * 2
        assert (await client.recognize(Asked(), [silence(0.1)])).status == ("OK", "")


async def test_what_is_set_replaces_what_was_set_in_open_streams_too(port: int, address: str) -> None:
    """No fault comes from a spec that is gone."""
    await set_faults(address, ["unavailable at=close"])
    async with google("v2", port) as client:
        call = await client.open(Asked(), silence(0.1))
        await until(address, lambda state: len(state["open"]) == 1)
        await set_faults(address, [])
        await call.done_writing()
        assert (await rest(call)).status == ("OK", "")


def test_the_command(
    port: int, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sets, shows and clears; what cannot be read it says."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["control", "--address", address, *words])
        return main(), *capsys.readouterr()

    state = json.loads(run("--seed", "3", "unavailable at=final every=2", "slow by=1")[1])
    assert (state["specs"], state["seed"]) == (["unavailable at=final every=2", "slow by=1"], 3)
    assert json.loads(run("show")[1]) == state
    assert json.loads(run("clear")[1])["specs"] == []
    complaint = "at=noon: it must be one of open, speech, final, close, end, now\n"
    assert run("unavailable at=noon") == (1, "", complaint)


async def test_the_options() -> None:
    """The same words, and a seed."""
    with start_server(
        "--workers", "1", "--fault", "internal times=1", "--fault", "reset every=9", "--seed", "4"
    ) as run:
        port = port_of(run)
        state = await show_faults(f"127.0.0.1:{port}")
        assert (state["specs"], state["seed"]) == (["internal times=1", "reset every=9"], 4)
        assert await statuses(port, 2) == ["INTERNAL", "OK"]
        run.terminate()


def test_an_option_that_cannot_be_read_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason."""
    with pytest.raises(SystemExit, match="2"):
        _parser().parse_args(["--fault", "hiccup"])
    assert "there is no fault 'hiccup'" in capsys.readouterr().err


async def test_faults_of_connections_want_a_forwarder_from_the_start() -> None:
    """Rather than an emulator that says yes and does nothing."""
    async with _control_alone() as address:
        for spec in ("reset at=now", "every-kind"):
            with pytest.raises(grpc.aio.AioRpcError, match="--connection-faults") as raised:
                await set_faults(address, [spec])
            assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (await show_faults(address))["specs"] == []


@asynccontextmanager
async def _control_alone() -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([control(Faults(Options()))])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


# -- the words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("", "is no fault"),
        ("text='", "No closing quotation"),
        ("ok", "there is no fault 'ok'"),
        ("stall by=2", "'by' means nothing to stall"),
        ("slow", None),
        ("unavailable at=noon", "one of open, speech, final"),
        ("unavailable every=0", "a number from 1"),
        ("unavailable every=x", "a number from 1"),
        ("unavailable every=-1s", "a number from 0"),
        ("unavailable chance=1.5", "from 0 to 1"),
        ("unavailable after=nan", "a number from 0"),
        ("unavailable every=5s after=2", "has no `after`"),
        ("unavailable at=open after=2", "leaves no time"),
        ("unavailable at=now times=2", "once, for all"),
        ("unavailable at=final after=2s every=3 chance=0.5 times=1 text=no", None),
        ("quota", "needs starts or streams"),
        ("quota streams=3 every=5s", "a matter of whole calls"),
        ("limits", "needs duration or idle"),
        ("down", "needs for"),
        ("down for=1s at=now", None),
        ("every-kind every=3", "counts seconds"),
        ("every-kind every=3s times=9", None),
    ],
)
def test_a_spec_is_understood_or_refused_with_the_reason(source: str, complaint: str | None) -> None:
    """None is a good one."""
    if complaint is None:
        assert parse(source).source == source
        return
    with pytest.raises(BadSpec, match=complaint):
        parse(source)


async def test_a_fault_that_ends_a_stream_is_its_last() -> None:
    """Nothing is counted as injected that nobody could notice."""
    owner, stream = _stream(["silent after=1", "unavailable after=2"], 0)
    stream.heard(1.0)
    stream.heard(2.0)
    assert owner.injected == {"silent after=1": 1}
    owner, stream = _stream(["silent after=1 for=9", "unavailable after=2"], 0)
    stream.heard(1.0)
    with pytest.raises(Refused):
        stream.heard(2.0)
    owner.leave(stream)
