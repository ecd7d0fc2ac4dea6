"""The driver of Google's API, legs and all, against a scripted server of it: what goes up, what comes back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.cloud.speech_v1.types import cloud_speech as v1

from app.core.transcript import Transcript
from tests.gateway import START, Client, Gateway, run_gateway, transcribe
from tests.upstream import BYTES_PER_SECOND, Call, ScriptedUpstream, hears_bytes, refuses

SECOND = b"\1\2" * (BYTES_PER_SECOND // 2)


def finals(messages: list[dict[str, Any]]) -> list[str]:
    return [message["text"] for message in messages if message["type"] == "final"]


async def test_a_session_is_heard_byte_for_byte(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    messages = await transcribe(gateway, SECOND, SECOND, SECOND[:1600])
    assert finals(messages) == ["0-32000", "32000-64000", "64000-65600"]
    assert bytes(upstream.calls[0].audio) == SECOND + SECOND + SECOND[:1600]
    assert messages[0]["type"] == "started"
    assert messages[-1] == {
        "type": "stopped",
        "event": 4,
        "audio_ms": 2050,
        "billed_ms": 3000,
        "finals": 3,
        "gap_ms": 0,
        "upstream_streams": 1,
        "resumes": 0,
        "replayed_ms": 0,
    }


async def test_small_frames_are_gathered_to_100_ms_and_large_ones_split(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    await transcribe(gateway, *[SECOND[:640]] * 50, SECOND + SECOND)
    assert upstream.calls[0].chunks == [3200] * 30


@pytest.mark.parametrize("frame", [1, 3, 639, 641, 3199, 32000])
async def test_frames_of_any_size_give_the_same_audio(gateway: Gateway, upstream: ScriptedUpstream, frame: int) -> None:
    audio = bytes(range(250)) * 64
    await transcribe(gateway, *[audio[i : i + frame] for i in range(0, len(audio), frame)])
    assert bytes(upstream.calls[0].audio) == audio


async def test_half_a_sample_at_the_end_is_not_sent_and_does_not_keep_the_session(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    messages = await transcribe(gateway, SECOND + b"\1")
    assert messages[-1]["type"] == "stopped"
    assert bytes(upstream.calls[0].audio) == SECOND


async def test_a_session_without_audio_opens_no_leg(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    messages = await transcribe(gateway)
    assert messages[-1]["upstream_streams"] == 0
    assert upstream.calls == []


async def test_finalize_ends_the_leg_and_the_next_audio_opens_another(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async with Client.connect(gateway) as client:
        await client.say(START, SECOND[:8000], {"type": "finalize", "id": "a"})
        finalized = await client.hear("finalized")
        assert (finalized["id"], finalized["end_ms"]) == ("a", 250)
        assert [m["text"] for m in client.heard("final")] == ["0-8000"]
        await client.say(SECOND[:8000], {"type": "stop"})
        messages = await client.hear_all()
    assert [(m["start_ms"], m["end_ms"]) for m in messages if m["type"] == "final"] == [(0, 250), (250, 500)]
    assert messages[-1]["upstream_streams"] == 2


async def test_finalize_without_audio_answers_at_once(gateway: Gateway) -> None:
    async with Client.connect(gateway) as client:
        await client.say(START, {"type": "finalize"})
        assert (await client.hear("finalized"))["end_ms"] == 0


async def test_a_gap_advances_the_clock_and_tells_the_reader(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    messages = await transcribe(gateway, SECOND, {"type": "gap", "bytes": 64000, "reason": "muted"}, SECOND)
    gap = next(m for m in messages if m["type"] == "gap")
    assert (gap["start_ms"], gap["end_ms"], gap["reason"]) == (1000, 3000, "muted")
    assert [(m["start_ms"], m["end_ms"]) for m in messages if m["type"] == "final"] == [(0, 1000), (3000, 4000)]
    assert (messages[-1]["gap_ms"], messages[-1]["audio_ms"]) == (2000, 2000)


async def test_a_leg_without_audio_is_parked_and_its_utterance_goes_on_with_the_next_audio(
    upstream: ScriptedUpstream,
) -> None:
    """A client that falls silent within a word has lost its network: the word is heard again, whole."""
    async with run_gateway(upstream=f"grpc://{upstream.address}", leg_idle_seconds=0.2) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, SECOND[:9600], SECOND[:1000])
            first = await upstream.called(1)
            await first.ended.wait()
            assert len(first.audio) == 10600, "what waited to be gathered goes up before the leg is parked"
            assert (await client.hear("interim"))["text"] == "0-10600"
            await client.say(SECOND[:9600], {"type": "stop"})
            messages = await client.hear_all()
    assert finals(messages) == ["0-20200"]
    assert messages[-1]["upstream_streams"] == 2


@pytest.mark.parametrize("end", ["pause", "finalize", "stop"])
async def test_what_a_parked_leg_said_last_becomes_final_when_no_audio_follows(
    upstream: ScriptedUpstream, end: str
) -> None:
    pause = {"leg_pause_seconds": 0.3} if end == "pause" else {}
    async with run_gateway(upstream=f"grpc://{upstream.address}", leg_idle_seconds=0.2, **pause) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, SECOND[:9600])
            await (await upstream.called(1)).ended.wait()
            if end != "pause":
                await client.hear("interim")
                await client.say({"type": end})
            assert (await client.hear("final"))["text"] == "0-9600"
            if end != "stop":
                await client.say(SECOND[:9600], {"type": "stop"})
            messages = await client.hear_all()
    assert finals(messages) == ["0-9600"] * (1 if end == "stop" else 2)


async def test_a_parked_leg_that_fails_is_heard_again(upstream: ScriptedUpstream) -> None:
    """In the middle of a word, perhaps: with what comes next it is one utterance all the same."""

    async def fails(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        upstream.script = hears_bytes()
        await call.context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        yield

    upstream.script = fails
    async with run_gateway(upstream=f"grpc://{upstream.address}", leg_idle_seconds=0.2) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, SECOND[:9600])
            await client.hear("interim")
            await client.say(SECOND[:9600], {"type": "stop"})
            messages = await client.hear_all()
    assert finals(messages) == ["0-19200"]


async def test_long_silence_is_settled_by_a_change_of_leg(upstream: ScriptedUpstream) -> None:
    async def hears_nothing(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        yield call.billed(1)

    upstream.script = hears_nothing
    async with run_gateway(upstream=f"grpc://{upstream.address}", leg_quiet_seconds=1) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START, *[SECOND] * 4)
            while (await client.hear("ack"))["final"] < 2 * BYTES_PER_SECOND:
                await client.say(SECOND)


async def test_times_are_cut_at_the_audio_that_was_sent(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def says_too_much(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        yield call.final("over the end", 10 * BYTES_PER_SECOND)

    upstream.script = says_too_much
    messages = await transcribe(gateway, SECOND)
    assert next(m for m in messages if m["type"] == "final")["end_ms"] == 1000


async def test_pieces_of_one_interim_are_joined_and_a_final_starts_where_speech_began(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def speaks(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if len(call.audio) == BYTES_PER_SECOND:
                yield call.activity(2, 16000)
                yield call.interim("to be", " or not", end=32000, stability=0.9)
                yield call.activity(3, 32000)
        yield call.final(" to be or not ", 32000, confidence=0.75)

    upstream.script = speaks
    messages = await transcribe(gateway, SECOND, enable_voice_activity_events=True)
    assert next(m for m in messages if m["type"] == "interim") == {
        "type": "interim",
        "text": "to be or not",
        "start_ms": 500,
        "end_ms": 1000,
        "stability": 0.9,
        "language_code": "en-us",
        "channel": 1,
    }
    final = next(m for m in messages if m["type"] == "final")
    assert (final["text"], final["start_ms"], final["confidence"]) == ("to be or not", 500, 0.75)
    assert [m["at_ms"] for m in messages if m["type"] in {"speech_started", "speech_ended"}] == [500, 1000]


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.NOT_FOUND,
    ],
)
async def test_a_refusal_of_googles_is_passed_on_with_its_text(
    gateway: Gateway, upstream: ScriptedUpstream, code: grpc.StatusCode
) -> None:
    upstream.script = refuses(code, "Invalid recognition 'config': bad encoding.")
    async with Client.connect(gateway) as client:
        await client.say(START, SECOND)
        messages = await client.hear_all()
        assert client.close_code == 4400
    assert messages[-1]["code"] == "upstream_rejected"
    assert "Invalid recognition 'config': bad encoding." in messages[-1]["message"]


SPOKEN = [(2, 0), (3, 3200)]
"""Activity: speech begins, and ends after 0.1 s."""


@pytest.mark.parametrize(
    ("api", "asked", "told"),
    [
        ("v1", {"speech_end_ms": 600}, [*SPOKEN, (4, 22_400)]),
        ("v2", {"speech_end_ms": 600}, SPOKEN),
        ("v2", {"speech_start_ms": 700}, []),
    ],
)
async def test_the_voice_activity_timeout_ends_the_session_in_good_order(
    upstream: ScriptedUpstream, api: str, asked: dict[str, int], told: list[tuple[int, int]]
) -> None:
    """v1 says so and waits for our half-close; v2 just ends the stream."""

    async def times_out(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if len(call.audio) == 22_400:
                yield call.final("go", 3200)
                for kind, at in told:
                    yield call.activity(kind, at)
                if api == "v2":
                    return

    upstream.script = times_out
    async with run_gateway(upstream=f"grpc://{upstream.address}", speech_api=api) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START | {"voice_activity_timeout": asked}, SECOND[:22_400])
            messages = await client.hear_all()
            assert client.close_code == 1000
    assert finals(messages) == ["go"]
    assert messages[-1]["type"] == "stopped"
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("told", [[(2, 0)], [(2, 0), (3, 16_000)]], ids=["in speech", "too soon after it"])
async def test_an_end_that_no_silence_explains_is_not_the_timeout(
    upstream: ScriptedUpstream, told: list[tuple[int, int]]
) -> None:
    """What the stream leaves out is heard by the next one."""

    async def ends_unasked(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if call is upstream.calls[0] and len(call.audio) == 22_400:
                for kind, at in told:
                    yield call.activity(kind, at)
                return
        yield call.final(f"0-{len(call.audio)}", len(call.audio))

    upstream.script = ends_unasked
    async with run_gateway(upstream=f"grpc://{upstream.address}", speech_api="v2") as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START | {"voice_activity_timeout": {"speech_end_ms": 600}}, SECOND[:22_400])
            await upstream.called(2)
            await client.say(SECOND, {"type": "stop"})
            messages = await client.hear_all()
    assert finals(messages) == ["0-54400"]
    assert messages[-1]["type"] == "stopped"


def v1_error(code: int, text: str) -> Any:
    """v1 says so in a response, and not only by the status of the call."""
    return v1.StreamingRecognizeResponse.pb()(error={"code": code, "message": text})


async def test_an_error_in_a_response_ends_the_stream_and_not_the_session(upstream: ScriptedUpstream) -> None:
    async def ends(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if call is upstream.calls[0] and len(call.audio) >= len(SECOND):
                yield call.final("one", 16_000)
                yield v1_error(11, "Exceeded maximum allowed stream duration of 305 seconds.")
                return
        yield call.final("the rest", len(call.audio))

    upstream.script = ends
    async with run_gateway(upstream=f"grpc://{upstream.address}", speech_api="v1") as gateway:
        messages = await transcribe(gateway, SECOND, SECOND)
    assert finals(messages) == ["one", "the rest"]
    assert (messages[-1]["type"], messages[-1]["upstream_streams"]) == ("stopped", 2)


async def test_so_does_one_of_a_younger_stream(upstream: ScriptedUpstream) -> None:
    """It comes while the older one's last words are still awaited."""
    failed = asyncio.Event()

    async def fails(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            pass
        if call is upstream.calls[0]:
            await failed.wait()
        elif len(upstream.calls) == 2:
            yield v1_error(14, "The service is currently unavailable.")
            failed.set()
            return
        yield call.final(f"0-{len(call.audio)}", len(call.audio))

    upstream.script = fails
    async with run_gateway(upstream=f"grpc://{upstream.address}", speech_api="v1") as gateway:
        messages = await transcribe(gateway, SECOND, {"type": "finalize"}, SECOND)
    assert finals(messages) == ["0-32000", "0-32000"]
    assert messages[-1]["type"] == "stopped"


FULL = {
    "language_codes": ["en-US", "de-DE"],
    "model": "latest_long",
    "interim_results": False,
    "enable_word_time_offsets": True,
    "enable_word_confidence": True,
    "enable_automatic_punctuation": False,
    "profanity_filter": True,
    "max_alternatives": 3,
    "diarization": {"min_speaker_count": 2, "max_speaker_count": 4},
    "phrases": [{"value": "uvloop", "boost": 5.0}],
    "enable_voice_activity_events": True,
    "voice_activity_timeout": {"speech_start_ms": 5000, "speech_end_ms": 700},
}


async def test_every_field_of_start_reaches_v2(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", google_project="p", google_location="eu") as gateway:
        await transcribe(gateway, SECOND, **FULL)
    request = upstream.calls[0].config
    assert request.recognizer == "projects/p/locations/eu/recognizers/_"
    config, features = request.streaming_config.config, request.streaming_config.streaming_features
    decoding = config.explicit_decoding_config
    assert (decoding.encoding, decoding.sample_rate_hertz, decoding.audio_channel_count) == (1, 16000, 1)
    assert (config.model, list(config.language_codes)) == ("latest_long", ["en-US", "de-DE"])
    wanted = config.features
    assert wanted.enable_word_time_offsets
    assert wanted.enable_word_confidence
    assert wanted.profanity_filter
    assert not wanted.enable_automatic_punctuation
    assert wanted.max_alternatives == 3
    assert (wanted.diarization_config.min_speaker_count, wanted.diarization_config.max_speaker_count) == (2, 4)
    phrase = config.adaptation.phrase_sets[0].inline_phrase_set.phrases[0]
    assert (phrase.value, phrase.boost) == ("uvloop", 5.0)
    assert not features.interim_results
    assert features.enable_voice_activity_events
    assert features.voice_activity_timeout.speech_start_timeout.seconds == 5
    assert features.voice_activity_timeout.speech_end_timeout.nanos == 700_000_000


async def test_every_field_of_start_reaches_v1(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", speech_api="v1") as gateway:
        await transcribe(gateway, SECOND, **FULL)
    streaming = upstream.calls[0].config.streaming_config
    config = streaming.config
    assert (config.encoding, config.sample_rate_hertz, config.audio_channel_count) == (1, 16000, 1)
    assert (config.language_code, list(config.alternative_language_codes)) == ("en-US", ["de-DE"])
    assert config.model == "latest_long"
    assert config.enable_word_time_offsets
    assert config.enable_word_confidence
    assert config.profanity_filter
    assert not config.enable_automatic_punctuation
    assert config.max_alternatives == 3
    speakers = config.diarization_config
    assert (speakers.enable_speaker_diarization, speakers.min_speaker_count, speakers.max_speaker_count) == (True, 2, 4)
    phrase = config.adaptation.phrase_sets[0].phrases[0]
    assert (phrase.value, phrase.boost) == ("uvloop", 5.0)
    assert not streaming.interim_results
    assert streaming.enable_voice_activity_events
    assert streaming.voice_activity_timeout.speech_start_timeout.seconds == 5


@pytest.mark.parametrize("api", ["v1", "v2"])
async def test_an_empty_list_of_phrases_is_none(upstream: ScriptedUpstream, api: str) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", speech_api=api) as gateway:
        messages = await transcribe(gateway, SECOND, phrases=[])
    assert [message["text"] for message in messages if message["type"] == "final"] == ["0-32000"]


async def test_alaw_goes_to_v1_as_the_same_samples_in_linear16(upstream: ScriptedUpstream) -> None:
    upstream.script = hears_bytes(1 << 30)
    async with run_gateway(upstream=f"grpc://{upstream.address}", speech_api="v1") as gateway:
        await transcribe(gateway, bytes([0xD5, 0x55, 0xAA, 0x2A]) * 400, audio=audio("ALAW", 8000))
    call = upstream.calls[0]
    assert call.config.streaming_config.config.encoding == 1
    samples = [int.from_bytes(call.audio[i : i + 2], "little", signed=True) for i in range(0, 8, 2)]
    assert samples == [8, -8, 32256, -32256]
    assert len(call.audio) == 3200


@pytest.mark.parametrize(("api", "encoding", "number"), [("v1", "MULAW", 3), ("v2", "MULAW", 2), ("v2", "ALAW", 3)])
async def test_telephone_encodings_go_up_as_they_are(
    upstream: ScriptedUpstream, api: str, encoding: str, number: int
) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", speech_api=api) as gateway:
        await transcribe(gateway, b"\x55" * 800, audio=audio(encoding, 8000))
    config = upstream.calls[0].config.streaming_config.config
    sent = config.encoding if api == "v1" else config.explicit_decoding_config.encoding
    assert sent == number
    assert bytes(upstream.calls[0].audio) == b"\x55" * 800


@pytest.mark.parametrize(
    ("settings", "start", "param", "said"),
    [
        ({"speech_api": "v1"}, {"model": "chirp_3"}, "model", "with Speech-to-Text v1 one of latest_long"),
        ({"speech_api": "v2"}, {"model": "phone_call"}, "model", "with Speech-to-Text v2 one of long"),
        ({"speech_api": "v1"}, {"language_codes": ["auto"]}, "language_codes", "v1 needs a BCP-47 code"),
        ({}, {"language_codes": ["auto"]}, "language_codes", "only the chirp models find the language, not long"),
        ({}, {"model": "chirp_2"}, "model", "it needs a region"),
        (
            {"google_location": "us"},
            {"model": "chirp_3", "enable_word_confidence": True},
            "enable_word_confidence",
            "chirp_3 has no confidence",
        ),
        (
            {"google_location": "us-central1"},
            {"language_codes": ["en-US", "de-DE"]},
            "language_codes",
            "one language in the region us-central1",
        ),
    ],
)
async def test_what_the_api_would_refuse_is_refused_by_name(
    upstream: ScriptedUpstream, settings: dict[str, str], start: dict[str, object], param: str, said: str
) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START | start)
            error = await client.hear("error")
    assert (error["code"], error["param"]) == ("invalid_config", param)
    assert said in error["message"]
    assert upstream.calls == []


def audio(encoding: str, rate: int) -> dict[str, object]:
    return {"encoding": encoding, "sample_rate_hertz": rate}


async def test_the_timeout_counts_in_the_session_not_in_the_leg(upstream: ScriptedUpstream) -> None:
    """A new leg gets what is left of it: of the start before any speech, of the end in the silence after."""

    async def speaks(call: Call) -> AsyncIterator[Any]:
        async for _ in call.hear():
            if len(upstream.calls) == 2 and len(call.audio) == BYTES_PER_SECOND:
                yield call.activity(2, 0)
                yield call.activity(3, BYTES_PER_SECOND // 2)
        yield call.final("x", len(call.audio))

    def timeouts(call: Call) -> list[float]:
        asked = call.config.streaming_config.streaming_features.voice_activity_timeout
        return [t.seconds + t.nanos / 1e9 for t in (asked.speech_start_timeout, asked.speech_end_timeout)]

    upstream.script = speaks
    wanted = {"voice_activity_timeout": {"speech_start_ms": 9000, "speech_end_ms": 3000}}
    async with run_gateway(upstream=f"grpc://{upstream.address}") as gateway:
        async with Client.connect(gateway) as client:
            await client.say(START | wanted)
            for _ in range(3):
                await client.say(SECOND, {"type": "finalize"})
                await client.hear("finalized")
    assert [timeouts(call) for call in upstream.calls] == [[9.0, 3.0], [8.0, 3.0], [2.5, 3.0]]


async def test_a_fault_of_ours_is_told_and_logged_as_such(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not taken for Google's, which would be tried again without end."""

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Transcript, "hear", broken)
    messages = await transcribe(gateway, bytes(BYTES_PER_SECOND))
    assert (messages[-1]["code"], messages[-1]["message"]) == (
        "internal",
        "the gateway failed: its log has the reason",
    )
    assert "KeyError: 'a bug'" in caplog.text
