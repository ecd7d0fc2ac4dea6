"""What a call says beside words: voice-activity events and timeouts, the bill, whose answer it is."""

import pytest

from tests.emulator_client import SECOND, Asked, Heard, billed, end_of, google, pieces, rest, silence, speech

pytest.importorskip("onnxruntime")

BOTH = pytest.mark.parametrize("version", ["v1", "v2"])


@BOTH
async def test_speech_is_announced_only_when_asked_for(version: str, port: int) -> None:
    """A beginning and an end around each utterance, before its final."""
    audio = pieces(silence(1.0) + speech(0, 3.4) + silence(1.0))
    async with google(version, port) as client:
        quiet = await client.recognize(Asked(), audio)
        told = await client.recognize(Asked(events=True), audio)
    assert quiet.events == []
    assert told.events[:2] == ["SPEECH_ACTIVITY_BEGIN", "SPEECH_ACTIVITY_END"]
    assert len(told.events) % 2 == 0
    began, ended = told.event_times[:2]
    assert SECOND <= began < 3 * SECOND
    assert began < ended <= end_of(told.finals[0])
    assert [bool(r.results) for r in told.responses[:3]] == [False, False, True]


async def test_v1_tells_of_a_timeout_and_waits_for_the_client(port: int) -> None:
    """Silence is counted in bytes of audio, not by the clock; the bill comes with the half-close."""
    async with google("v1", port) as client:
        heard = await client.recognize(Asked(events=True, start_timeout=2.0), pieces(silence(5.0)))
    assert heard.events == ["SPEECH_ACTIVITY_TIMEOUT"]
    assert heard.event_times == [2 * SECOND]
    assert heard.status == ("OK", "")
    assert billed(heard) == 5


async def test_v2_closes_the_stream_at_a_timeout(port: int) -> None:
    """A clean end that the client did not ask for."""
    async with google("v2", port) as client:
        call = await client.open(Asked(events=True, start_timeout=2.0), *pieces(silence(3.0)))
        heard = await rest(call)
    assert heard.events == []
    assert heard.status == ("OK", "")


@BOTH
async def test_the_end_timeout_counts_from_the_end_of_speech(version: str, port: int) -> None:
    """What was said before comes as a final; what comes after is not recognized."""
    asked = Asked(events=True, start_timeout=20.0, end_timeout=3.0)
    audio = speech(0, 3.4) + silence(6.0) + speech(0, 3.4)
    async with google(version, port) as client:
        heard = await client.recognize(asked, pieces(audio))
    assert heard.status == ("OK", "")
    assert heard.events.count("SPEECH_ACTIVITY_TIMEOUT") == (version == "v1")
    assert end_of(heard.finals[-1]) < 4.5 * SECOND


@BOTH
async def test_single_utterance_ends_with_the_first(version: str, port: int) -> None:
    """The event first, then its one final. In v2 the model latest_short does it, and the server closes."""
    audio = pieces(speech(0, 3.4) + silence(2.0) + speech(0, 3.4))
    async with google(version, port) as client:
        heard = await client.recognize(Asked(single_utterance=True), audio)
    assert heard.events == ["END_OF_SINGLE_UTTERANCE"]
    assert heard.responses[0].speech_event_type
    assert len(heard.finals) == 1
    assert heard.status == ("OK", "")


@BOTH
async def test_every_second_begun_is_billed_on_the_last_response(version: str, port: int) -> None:
    """And on no other."""
    async with google(version, port) as client:
        heard = await client.recognize(Asked(interims=True), pieces(speech(0, 3.3)))
    assert billed(heard) == 4
    assert [billed(Heard([response])) for response in heard.responses[:-1]] == [0] * (len(heard.responses) - 1)


@BOTH
async def test_a_call_has_one_request_id(version: str, port: int) -> None:
    """The same on each of its responses, another for the next call."""
    async with google(version, port) as client:
        first, second = [await client.recognize(Asked(), pieces(speech(0, 3.0))) for _ in range(2)]
    ids = [{r.request_id if version == "v1" else r.metadata.request_id for r in h.responses} for h in (first, second)]
    assert [len(group) for group in ids] == [1, 1]
    assert ids[0] != ids[1]


@BOTH
async def test_results_name_their_language(version: str, port: int) -> None:
    """In lower case in v1, as it was asked for in v2."""
    async with google(version, port) as client:
        heard = await client.recognize(Asked(language="en-GB"), pieces(speech(0, 3.0)))
    assert {result.language_code for result in heard.results} == {"en-gb" if version == "v1" else "en-GB"}


async def test_later_results_open_with_a_space(port: int) -> None:
    """Put together as they are, they are the whole text."""
    async with google("v2", port) as client:
        heard = await client.recognize(Asked(interims=True), pieces(speech(0, 10)))
    first, *later = [final.alternatives[0].transcript for final in heard.finals]
    assert not first.startswith(" ")
    assert later
    assert all(text.startswith(" ") for text in later)
