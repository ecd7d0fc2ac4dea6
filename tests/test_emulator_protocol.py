"""How a call goes: order, refusals, limits. Codes and texts are Google's own, version by version."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.cloud import speech_v1, speech_v2

from tests.emulator_client import RECOGNIZER, Asked, google, rest, serve, silence

pytest.importorskip("onnxruntime")

BOTH = pytest.mark.parametrize("version", ["v1", "v2"])
MALORDERED = "Malordered Data Received. Expected {} none was set. Send exactly one config, followed by audio data."
BAD = "Invalid recognition 'config': "


@pytest.fixture(scope="module")
def short() -> Iterator[int]:
    """A server whose streams last a second."""
    yield from serve("--workers", "1", "--stream-limit", "1")


@pytest.fixture(scope="module")
def impatient() -> Iterator[int]:
    """A server that waits a quarter of a second for audio."""
    yield from serve("--workers", "1", "--idle-limit", "0.25")


# -- order -----------------------------------------------------------------------------------------------------------


@BOTH
async def test_audio_before_the_config_is_malordered(version: str, port: int) -> None:
    """The config comes first."""
    async with google(version, port) as client:
        heard = await client.say([client.audio(silence(0.1))])
    assert heard.status == ("INVALID_ARGUMENT", MALORDERED.format("streaming_config"))


@BOTH
async def test_a_second_config_is_malordered(version: str, port: int) -> None:
    """The config comes once."""
    async with google(version, port) as client:
        heard = await client.say([client.config(Asked()), client.audio(silence(0.1)), client.config(Asked())])
    assert heard.status == ("INVALID_ARGUMENT", MALORDERED.format("audio_content"))


@BOTH
async def test_an_empty_message_is_malordered(version: str, port: int) -> None:
    """Also one with an empty chunk: nothing is no way to keep a call alive."""
    async with google(version, port) as client:
        empty = type(client.audio(b""))()
        for nothing in (empty, client.audio(b"")):
            heard = await client.say([client.config(Asked()), nothing])
            assert heard.status == ("INVALID_ARGUMENT", MALORDERED.format("audio_content"))


@BOTH
async def test_a_call_without_any_message_ends_well(version: str, port: int) -> None:
    """Nothing asked, nothing said, nothing billed."""
    async with google(version, port) as client:
        heard = await client.say([])
    assert heard.status == ("OK", "")
    assert heard.responses == []


# -- refusals --------------------------------------------------------------------------------------------------------

Change = Callable[[Any], None]


def _set(path: str, value: Any) -> Change:
    def change(config: Any) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            config = getattr(config, parent)
        setattr(config, name, value)

    return change


V1_REFUSALS: list[tuple[Change, str]] = [
    (_set("config.encoding", 0), BAD + "bad encoding."),
    (_set("config.encoding", 2), BAD + "bad encoding."),
    (_set("config.sample_rate_hertz", 0), BAD + "bad sample rate hertz."),
    (_set("config.sample_rate_hertz", 7_999), BAD + "bad sample rate hertz."),
    (_set("config.sample_rate_hertz", 48_001), BAD + "bad sample rate hertz."),
    (_set("config.language_code", ""), BAD + "bad language code."),
    (_set("config.language_code", "english!"), BAD + "bad language code."),
    (
        _set("config.language_code", "de-DE"),
        BAD + "The requested model is currently not supported for language : de-DE.",
    ),
    (_set("config.model", "best"), BAD + "Incorrect model specified"),
    (_set("config.audio_channel_count", 2), "Invalid audio channel count"),
    (_set("config.max_alternatives", 31), BAD + "bad max alternatives."),
    (
        _set("config.diarization_config.enable_speaker_diarization", True),
        "Recognizer does not support feature: speaker_diarization",
    ),
]


@pytest.mark.parametrize(("change", "text"), V1_REFUSALS)
async def test_what_v1_refuses(change: Change, text: str, port: int) -> None:
    """INVALID_ARGUMENT with the text of v1."""
    async with google("v1", port) as client:
        request = client.config(Asked())
        change(request.streaming_config)
        heard = await client.say([request])
    assert heard.status == ("INVALID_ARGUMENT", text)


V2_REFUSALS: list[tuple[Change, str]] = [
    (_set("recognizer", "recognizers/_"), "Invalid resource field value in the request."),
    (_set("streaming_config.config.explicit_decoding_config.encoding", 4), BAD + "bad encoding."),
    (_set("streaming_config.config.explicit_decoding_config.sample_rate_hertz", 1), BAD + "bad sample rate hertz."),
    (_set("streaming_config.config.explicit_decoding_config.audio_channel_count", 2), "Invalid audio channel count"),
    (_set("streaming_config.config.language_codes", []), BAD + "bad language code."),
    (
        _set("streaming_config.config.language_codes", ["en-US", "de-DE"]),
        'The language "de-DE" is not supported by the model "long" in the location named "global".',
    ),
    (
        _set("streaming_config.config.model", "chirp_2"),
        'The model "chirp_2" does not exist in the location named "global".',
    ),
    (
        _set("streaming_config.config.auto_decoding_config", speech_v2.AutoDetectDecodingConfig()),
        "Audio data does not appear to be in a supported encoding. If you believe this to be incorrect, "
        "try explicitly specifying the decoding parameters.",
    ),
    (
        _set("streaming_config.config.features.diarization_config", speech_v2.SpeakerDiarizationConfig()),
        "Recognizer does not support feature: speaker_diarization",
    ),
    (
        _set("streaming_config.streaming_features.voice_activity_timeout", {"speech_start_timeout": {"seconds": 5}}),
        "voice_activity_timeout requires enable_voice_activity_events to be true.",
    ),
]


@pytest.mark.parametrize(("change", "text"), V2_REFUSALS)
async def test_what_v2_refuses(change: Change, text: str, port: int) -> None:
    """INVALID_ARGUMENT with the text of v2."""
    async with google("v2", port) as client:
        request = client.config(Asked())
        change(request)
        heard = await client.say([request])
    assert heard.status == ("INVALID_ARGUMENT", text)


@BOTH
async def test_a_client_that_writes_at_once_sees_why_it_is_refused(version: str, port: int) -> None:
    """Not the INTERNAL of a status that meets a write on its way."""
    async with google(version, port) as client:
        for _ in range(5):
            heard = await client.recognize(Asked(rate=1), [silence(0.1)] * 50)
            assert heard.status == ("INVALID_ARGUMENT", BAD + "bad sample rate hertz.")


@BOTH
async def test_a_client_that_does_not_half_close_is_refused_all_the_same(version: str, port: int) -> None:
    """A moment later."""
    async with google(version, port) as client:
        call = await client.open(Asked(rate=1), silence(0.1))
        heard = await rest(call)
    assert heard.status == ("INVALID_ARGUMENT", BAD + "bad sample rate hertz.")


async def test_a_named_recognizer_is_not_found(port: int) -> None:
    """Only the implicit one exists."""
    async with google("v2", port) as client:
        request = client.config(Asked())
        request.recognizer = RECOGNIZER.replace("_", "mine")
        heard = await client.say([request])
    assert heard.status[0] == "NOT_FOUND"


@pytest.mark.parametrize("seconds", [0.5, 60.0])
@BOTH
async def test_a_timeout_out_of_range_is_refused(version: str, seconds: float, port: int) -> None:
    """Over 0.5 s and under 60 s."""
    async with google(version, port) as client:
        heard = await client.recognize(Asked(events=True, end_timeout=seconds), [])
    assert heard.status[0] == "INVALID_ARGUMENT"


async def test_a_message_of_v2_holds_at_most_25600_bytes(port: int) -> None:
    """One byte more ends the call."""
    async with google("v2", port) as client:
        fits = await client.recognize(Asked(), [bytes(25_600)])
        bursts = await client.recognize(Asked(), [bytes(25_601)])
    assert fits.status == ("OK", "")
    text = "Audio chunk can be of a a maximum of 25600 bytes. Received audio of 25601 bytes instead."
    assert bursts.status == ("INVALID_ARGUMENT", text)


async def test_a_message_of_v1_holds_at_most_10_megabytes(port: int) -> None:
    """Far more than gRPC takes by itself."""
    async with google("v1", port) as client:
        fits = await client.recognize(Asked(rate=48_000), [bytes(5_000_000)])
        bursts = await client.recognize(Asked(rate=48_000), [bytes(10 * 2**20 + 1)])
    assert fits.status == ("OK", "")
    assert bursts.status == ("INVALID_ARGUMENT", "Request payload size exceeds the limit: 10485760 bytes.")


async def test_what_makes_no_difference_here_is_accepted(port: int) -> None:
    """Phrases, alternatives, the profanity filter: in v1 and in v2."""
    async with google("v1", port) as client:
        request = client.config(Asked())
        config = request.streaming_config.config
        config.max_alternatives, config.profanity_filter, config.model = 3, True, "latest_long"
        config.speech_contexts = [speech_v1.SpeechContext(phrases=["worst of times"])]
        assert (await client.say([request])).status == ("OK", "")
    async with google("v2", port) as client:
        request = client.config(Asked())
        config = request.streaming_config.config
        config.features.max_alternatives, config.features.profanity_filter = 3, True
        phrases = speech_v2.PhraseSet(phrases=[{"value": "worst of times", "boost": 10}])
        config.adaptation.phrase_sets = [{"inline_phrase_set": phrases}]
        assert (await client.say([request])).status == ("OK", "")


# -- limits ----------------------------------------------------------------------------------------------------------

TOO_LONG = {
    "v1": ("OUT_OF_RANGE", "Exceeded maximum allowed stream duration of 1 seconds."),
    "v2": ("ABORTED", "Max duration of 1 seconds reached for stream."),
}
IDLE = {
    "v1": (
        "OUT_OF_RANGE",
        "Audio Timeout Error: Long duration elapsed without audio. Audio should be sent close to real time.",
    ),
    "v2": ("ABORTED", "Stream timed out after receiving no more client requests."),
}


@BOTH
async def test_a_stream_lasts_so_long_and_no_longer(version: str, short: int) -> None:
    """By the clock, whatever was said."""
    async with google(version, short) as client:
        call = await client.open(Asked(), silence(0.5))
        heard = await rest(call)
    assert heard.status == TOO_LONG[version]


@BOTH
async def test_a_stream_without_audio_is_given_up(version: str, impatient: int) -> None:
    """With a config and nothing after it."""
    async with google(version, impatient) as client:
        call = await client.open(Asked())
        heard = await rest(call)
    assert heard.status == IDLE[version]
