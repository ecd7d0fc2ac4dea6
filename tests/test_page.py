"""The page at `/`: served under its strict policy, and used in a real browser as a person would."""

import asyncio
import json
import re
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from importlib.util import find_spec
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.http import CSP, load_page
from app.cli.demo import own_gateway
from tests.browser import CHROMIUM, Page, open_tab, run_browser
from tests.credentials import Keyring
from tests.flaky import flaky
from tests.gateway import Gateway, run_gateway
from tests.test_seams import names_samples
from tests.upstream import Call, ScriptedUpstream

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
needs_recognizer = pytest.mark.skipif(find_spec("moonshine_voice") is None, reason="the extra `emulator` is missing")

FILES = {"index.html", "page.js", "page.css", "capture.js", "client.js"}
OUTSIDE = re.compile(r"\b(https?|wss?)://|\burl\(|@import|(src|href)\s*=\s*[\"']?//")
BEGINNING = "it was the best of times it was the worst of times"
BEGINNING_SECONDS = 5
"""Of the sample recording; its first words are over before."""

FAKE_SOCKET = """
window.WebSocket = class {
  constructor(url, protocols) {
    Object.assign(this, { url, protocols, said: [], sizes: [], order: [] });
    window.fake = this;
    queueMicrotask(() => this.onopen());
  }
  send(frame) {
    if (typeof frame === "string") this.said.push(JSON.parse(frame)), this.order.push(JSON.parse(frame).type);
    else this.sizes.push(frame.byteLength), this.order.push(frame.byteLength);
  }
  close() {}
  say(...messages) { for (const message of messages) this.onmessage({ data: JSON.stringify(message) }); }
  start(window_bytes, max_frame_bytes = 65536) {
    this.say({ type: "started", session_id: "s1", resume_token: "r1", limits: { window_bytes, max_frame_bytes } });
  }
};
"""
"""A gateway of the test's own inside the page: `fake` is the last socket, `order` what it was sent."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One for all of these tests; each has a tab that shares nothing with the others."""
    with run_browser(tmp_path_factory.mktemp("browser") / "profile") as devtools:
        yield devtools


# What is served ---------------------------------------------------------------------------------


class Markup(HTMLParser):
    """What a policy without inline code would refuse, and every address."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.addresses: list[str] = []
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.inline += [f"{tag} {name}" for name, _ in attrs if name == "style" or name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "action"}]

    def handle_data(self, data: str) -> None:
        if self._open in {"script", "style"} and data.strip():
            self.inline.append(self._open)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


@pytest.mark.parametrize("name", sorted(FILES))
async def test_every_file_comes_with_the_policy(gateway: Gateway, name: str) -> None:
    answer = await gateway.get("/" if name == "index.html" else f"/web/{name}")
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == CSP
    assert answer.content == load_page()[name]


def test_the_policy_forbids_inline_code_and_other_hosts() -> None:
    assert "default-src 'none'" in CSP
    assert not re.search(r"unsafe|https?:|\*", CSP)


def test_no_file_names_an_outside_host() -> None:
    assert load_page().keys() >= FILES
    for name, content in load_page().items():
        assert not OUTSIDE.search(content.decode()), name


def test_the_page_has_no_inline_code_and_only_addresses_beside_it() -> None:
    """Relative ones, so that it also works below a path of a proxy."""
    markup = Markup(load_page()["index.html"].decode())
    assert markup.inline == []
    assert sorted(markup.addresses) == ["data:,", "web/page.css", "web/page.js"]


# With a real recognizer -------------------------------------------------------------------------


@needs_chromium
@needs_recognizer
async def test_recordings_are_captioned_live(browser: str, tmp_path: Path) -> None:
    """The sample until Stop, then a file to its end."""
    async with own_gateway(print) as url, open_page(url, browser) as page:
        await page.click("#sample-choice")
        await page.click("#go")
        await page.until(f"{words('#captions')}.includes('{BEGINNING}')")
        await page.click("#go")
        await page.until("document.body.dataset.state === 'done'")
        assert BEGINNING in await page.run(words("#finals"))
        assert await page.run("document.querySelector('#interim').hidden")

        await page.click("[value=file] ~ span")
        assert await page.run("document.querySelector('#go').disabled")
        await page.choose_file("#file", await beginning(url, tmp_path))
        await page.click("#go")
        assert await page.run(text("#finals")) == ""
        await page.until("document.body.dataset.state === 'done'")
        assert BEGINNING in await page.run(words("#finals"))
        assert await page.run(text("#status")) == "Closed: 1 caption from 5.0 s of audio"
        assert page.complaints == []


@needs_chromium
@needs_recognizer
async def test_the_microphone_is_captioned_live(tmp_path: Path) -> None:
    async with own_gateway(print) as url:
        with run_browser(tmp_path / "profile", *microphone(await beginning(url, tmp_path))) as browser:
            async with open_page(url, browser) as page:
                await page.click("#go")
                await page.until(f"{words('#finals')}.includes('{BEGINNING}')")
                await page.click("#go")
                await page.until("document.body.dataset.state === 'done'")
                assert page.complaints == []


# With an upstream, and then a gateway, that says what the test wants ----------------------------


@needs_chromium
@needs_recognizer
async def test_an_interim_turns_into_its_final(gateway: Gateway, upstream: ScriptedUpstream, browser: str) -> None:
    """While the sample plays; a recognizer that is behind real time has no interims."""
    seen = asyncio.Event()

    async def speaks(call: Call) -> AsyncIterator[Any]:
        heard = call.hear()
        await anext(heard)
        yield call.interim("it was the", end=len(call.audio))
        await seen.wait()
        yield call.final("it was the best of times", len(call.audio))
        async for _ in heard:
            pass

    upstream.script = speaks
    async with open_page(gateway.http, browser) as page:
        await page.click("#sample-choice")
        await page.click("#go")
        await page.until(f"{words('#interim')}.includes('it was the')")
        await page.until(f"{text('#status')} === 'Listening'")
        seen.set()
        await page.until(f"{words('#finals')}.includes('it was the best of times')")
        assert await page.run("document.querySelector('#interim').hidden")
        await page.click("#go")
        await page.until("document.body.dataset.state === 'done'")
        assert page.complaints == []


@needs_chromium
async def test_the_page_tells_what_the_gateway_says(gateway: Gateway, browser: str, tmp_path: Path) -> None:
    async with fake_run(gateway, browser, tmp_path) as page:
        assert await page.run(text("#status")) == "Connecting"
        await page.run("fake.start(1e9)")
        assert await page.run(text("#status")) == "Listening"

        await page.run("fake.say({type: 'interim', text: 'one too', start_ms: 61000})")
        assert await page.run(text("#interim")) == "1:01 one too"
        await page.run("fake.say({type: 'final', text: 'One, two.', start_ms: 61000})")
        assert await page.run("document.querySelector('#interim').hidden")
        await page.run("fake.say({type: 'gap', start_ms: 62000, end_ms: 64500, reason: 'upstream'})")
        assert await page.run(text("#finals")) == "1:01 One, two. 1:02 2.5 s without captions (upstream)"

        await page.run("fake.say({type: 'throttle', state: 'on', queued_ms: 1500})")
        assert await page.run(text("#status")) == "Listening: the gateway is 1.5 s behind"
        await page.run("fake.say({type: 'error', code: 'bad_audio', message: 'it is none', retryable: false})")
        assert await page.run("document.body.dataset.state") == "error"
        assert await page.run(text("#status")) == "bad_audio it is none"
        assert await page.run(text("#finals")) == "1:01 One, two. 1:02 2.5 s without captions (upstream)"
        assert page.complaints == []


@needs_chromium
async def test_audio_goes_out_in_chunks_of_100_ms(gateway: Gateway, browser: str, tmp_path: Path) -> None:
    async with fake_run(gateway, browser, tmp_path) as page:
        await page.run("fake.start(1e6)")
        await page.until("fake.sizes.length >= 5")
        start, sizes = await page.run("[fake.said[0], fake.sizes]")
        rate = start["audio"]["sample_rate_hertz"]
        assert start["audio"]["encoding"] == "LINEAR16"
        assert 8_000 <= rate <= 48_000
        assert set(sizes) == {rate * 2 // 10}


@needs_chromium
async def test_a_microphone_that_may_not_be_heard_is_told(gateway: Gateway, browser: str) -> None:
    """This browser has none, and nobody to allow it."""
    async with open_page(gateway.http, browser) as page:
        await page.click("#go")
        await page.until("document.body.dataset.state === 'error'")
        assert "microphone" in await page.run(text("#status"))
        assert await page.run(text("#go")) == "Start"


@needs_chromium
async def test_a_lost_connection_is_told(gateway: Gateway, browser: str, tmp_path: Path) -> None:
    async with fake_run(gateway, browser, tmp_path) as page:
        await page.run("fake.start(1e9)")
        await page.run("fake.onclose({ code: 1006, reason: '' })")
        assert await page.run(text("#status")) == "Reconnecting: try 1"
        assert await page.run(text("#go")) == "Stop"
        await page.until("fake.said[0]?.type === 'resume'")
        await page.run("fake.say({type: 'error', code: 'overloaded', retryable: true, retry_after_ms: 60000})")
        assert await page.run(text("#status")) == "Reconnecting: try 2 in 61 s"
        await page.run("window.dispatchEvent(new Event('online'))")
        await page.until("fake.said[0]?.type === 'resume'")
        await page.run("fake.say({type: 'resumed', offset: 0, resume_token: 'r2', replayed: 0})")
        assert await page.run(text("#status")) == "Listening"


@needs_chromium
async def test_a_connection_that_breaks_leaves_no_hole(
    upstream: ScriptedUpstream, browser: str, tmp_path: Path
) -> None:
    """The recording rises, and the captions say from where to where: so that nothing between them can be missing."""
    upstream.script = names_samples(every=24_000)
    rising = b"".join((n // 16).to_bytes(2, "little") for n in range(48_000 * 5))
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60) as gateway:
        async with flaky(gateway.port) as network, open_page(f"http://127.0.0.1:{network.port}", browser) as page:
            await page.click("[value=file] ~ span")
            await page.choose_file("#file", write_wav(tmp_path / "rising.wav", 48_000, rising))
            await page.click("#go")
            await page.until("document.querySelectorAll('#finals .line').length >= 2")
            network.refuses = True
            network.cut()
            await page.until(f"{text('#status')}.startsWith('Reconnecting')")
            network.refuses = False
            await page.until("document.body.dataset.state === 'done'")
            assert (await page.run(text("#status"))).endswith("captions from 5.0 s of audio")
            said = await page.run("[...document.querySelectorAll('#finals span')].map((span) => span.textContent)")
    ranges = [tuple(map(int, words.split("-"))) for words in said]
    if ranges[-1] == (0, 0):
        ranges.pop()  # the silence after the recording
    assert ranges[0][0] == 0
    assert ranges[-1][0] > 14_000
    assert all(0 <= after[0] - before[1] <= 1 for before, after in pairwise(ranges)), ranges


@needs_chromium
async def test_the_microphone_is_recorded_while_there_is_no_connection(gateway: Gateway, tmp_path: Path) -> None:
    """The page says so, and what was recorded goes out with the next one."""
    flags = microphone(write_wav(tmp_path / "quiet.wav", 16_000, bytes(32_000 * 60)))
    with run_browser(tmp_path / "profile", *flags) as browser:
        async with open_page(gateway.http, browser) as page:
            await page.run(FAKE_SOCKET)
            await page.click("#go")
            await page.until("window.fake?.said.length")
            await page.run("fake.start(1e6)")
            await page.until("fake.sizes.length >= 2")
            await page.run("fake.onclose({ code: 1006, reason: '' })")
            assert await page.run(text("#status")) == "Recording, reconnecting: try 1"
            assert await page.run(text("#go")) == "Stop"
            await page.until("fake.said[0]?.type === 'resume'")
            await page.until("document.querySelector('#clock').textContent === '0:02'")
            await page.run("fake.say({type: 'resumed', offset: 3200, resume_token: 'r2', replayed: 0})")
            assert await page.run(text("#status")) == "Listening"
            assert sum(await page.run("fake.sizes")) >= 2 * 32_000 - 3200


@needs_chromium
async def test_who_leaves_the_page_ends_the_session(upstream: ScriptedUpstream, browser: str, tmp_path: Path) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", resume_window_seconds=60) as gateway:
        async with open_page(gateway.http, browser) as page:
            await page.click("[value=file] ~ span")
            await page.choose_file("#file", write_wav(tmp_path / "quiet.wav", 48_000, bytes(96_000 * 60)))
            await page.click("#go")
            await page.until(f"{text('#status')} === 'Listening'")
            await page.open("about:blank")
            await gateway.until_no_session()


@needs_chromium
async def test_a_recording_waits_for_credit(gateway: Gateway, browser: str, tmp_path: Path) -> None:
    """Its sound too: the status says so, and nothing is sent beyond the window."""
    async with fake_run(gateway, browser, tmp_path) as page:
        await page.run("fake.start(20000)")
        await page.until(f"{text('#status')} === 'Listening: waiting, the gateway is behind'")
        assert sum(await page.run("fake.sizes")) == 20_000
        await page.run("fake.say({type: 'ack', received: 20000, final: 20000, window: 1e6})")
        assert await page.run(text("#status")) == "Listening"
        await page.until("fake.sizes.reduce((sum, size) => sum + size) > 60000")


@needs_chromium
async def test_the_reader_who_scrolled_up_stays_there(gateway: Gateway, browser: str, tmp_path: Path) -> None:
    async with fake_run(gateway, browser, tmp_path) as page:
        more = "for (let i = 0; i < 30; i++) fake.say({type: 'final', text: 'Word.', start_ms: 1000 * i})"
        left = "(c => c.scrollHeight - c.clientHeight - c.scrollTop)(document.querySelector('#captions'))"
        await page.run(f"fake.start(1e6); {more}")
        assert await page.run(left) < 2
        await page.run("document.querySelector('#captions').scrollTop = 0")
        await page.until("!document.querySelector('#latest').hidden")
        await page.run(more)
        assert await page.run("document.querySelector('#captions').scrollTop") == 0
        await page.click("#latest")
        await page.until(f"document.querySelector('#latest').hidden && {left} < 2")


@needs_chromium
async def test_the_client_never_exceeds_the_window(gateway: Gateway, browser: str) -> None:
    """What may not go yet waits, and `stop` waits behind it."""
    async with fake_client(gateway, browser) as page:
        await page.run("client.send(new Uint8Array(2500)); client.stop(); fake.start(1000, 300)")
        assert await page.run("fake.order") == ["start", 300, 300, 300, 100]
        await page.run("fake.say({type: 'ack', received: 1000, final: 500, window: 1000})")
        assert await page.run("fake.order.slice(5)") == [300, 200]
        await page.run("fake.say({type: 'ack', received: 1500, final: 1500, window: 1000})")
        assert await page.run("fake.order.slice(7)") == [300, 300, 300, 100, "stop"]
        await page.run("fake.say({type: 'stopped', event: 1, audio_ms: 157, gap_ms: 0})")
        assert (await page.run("heard.at(-1)"))[:2] == ["state", "stopped"]


@needs_chromium
async def test_the_client_tells_what_it_could_not_keep(gateway: Gateway, browser: str) -> None:
    """What comes on top of the window becomes one gap, in its place; then it waits for room for a while."""
    async with fake_client(gateway, browser) as page:
        await page.run("fake.start(1000); client.send(new Uint8Array(1100)); client.send(new Uint8Array(500))")
        assert await page.run("heard.at(-1)") == ["held", True]
        await page.run("fake.say({type: 'ack', received: 1000, final: 100, window: 1000})")
        await page.run("client.send(new Uint8Array(100))")
        assert await page.run("fake.order") == ["start", 1000]
        await page.run("fake.say({type: 'ack', received: 1000, final: 800, window: 1000})")
        assert await page.run("heard.at(-1)") == ["held", False]
        await page.run("client.send(new Uint8Array(100))")
        assert await page.run("fake.order") == ["start", 1000, "gap", 100]
        assert await page.run("fake.said[1]") == {"type": "gap", "bytes": 700, "reason": "overflow"}


@needs_chromium
async def test_the_client_brings_its_token(gateway: Gateway, browser: str) -> None:
    async with fake_client(gateway, browser, token="t0ken") as page:
        assert await page.run("fake.protocols") == ["stt.v1", "bearer.t0ken"]
        await page.run("client.close()")
        assert await page.run("heard.at(-1)") == ["state", "stopped", None]


@needs_chromium
async def test_a_fresh_token_is_brought_to_each_connection(gateway: Gateway, browser: str) -> None:
    """By a function that may fail; an expired one is then no failure."""
    async with open_page(gateway.http, browser) as page:
        await page.run(FAKE_SOCKET)
        await page.run(
            "import('/web/client.js').then(({ CaptionsClient }) => { window.asked = 0;"
            "const start = { audio: { encoding: 'MULAW', sample_rate_hertz: 8000 }, language_codes: ['en-US'] };"
            "const token = async () => { if (!asked++) throw new Error('not now'); return `t${asked}`; };"
            "window.client = new CaptionsClient({ url: 'ws://gateway', start, token }); })"
        )
        await page.until("window.fake?.said.length")
        assert await page.run("fake.protocols") == ["stt.v1", "bearer.t2"]
        await page.run("fake.start(1e6)")
        await page.run("fake.say({ type: 'error', code: 'token_expired', message: 'old', retryable: false })")
        await page.until("fake.said[0]?.type === 'resume'")
        assert await page.run("fake.protocols") == ["stt.v1", "bearer.t3"]
        await page.run("fake.say({ type: 'error', code: 'forbidden', message: 'no', retryable: false })")
        assert await page.run("client.state") == "failed"


@needs_chromium
async def test_who_is_asked_for_a_token_types_it_in(upstream: ScriptedUpstream, browser: str, tmp_path: Path) -> None:
    """Without a good one the page says what the gateway says; with it captions come."""
    keyring = Keyring(tmp_path)
    async with run_gateway(upstream=f"grpc://{upstream.address}", **keyring.settings) as gateway:
        async with open_page(gateway.http, browser) as page:
            assert await page.run("document.querySelector('#token').type") == "password"
            await page.click("[value=file] ~ span")
            await page.choose_file("#file", write_wav(tmp_path / "quiet.wav", 16_000, bytes(64_000)))
            await page.click("#go")
            await page.until("document.body.dataset.state === 'error'")
            assert "a credential is missing" in await page.run(text("#status"))
            await page.run(f"document.querySelector('#token').value = {json.dumps(keyring.keys['app'])}")
            await page.click("#go")
            await page.until(f"{text('#finals')}.length > 0")
            await page.until("document.body.dataset.state === 'done'")


@needs_chromium
async def test_where_nobody_is_asked_there_is_no_field_for_a_token(gateway: Gateway, browser: str) -> None:
    async with open_page(gateway.http, browser) as page:
        assert await page.run("document.querySelector('#token-choice').checkVisibility()") is False


# Helpers ----------------------------------------------------------------------------------------


def text(selector: str) -> str:
    """JavaScript: what a reader sees there, on one line."""
    return f"document.querySelector({json.dumps(selector)}).innerText.replace(/\\s+/g, ' ').trim()"


def words(selector: str) -> str:
    """JavaScript: the same in lower case, letters only."""
    return f"{text(selector)}.toLowerCase().replace(/[^a-z]+/g, ' ')"


def microphone(file: Path) -> tuple[str, ...]:
    """Flags for a microphone that hears a file once, and a person who allows it."""
    return (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={file}%noloop",
    )


@asynccontextmanager
async def open_page(url: str, browser: str) -> AsyncIterator[Page]:
    async with open_tab(browser) as page:
        await page.look(1200, 760)
        await page.open(url)
        await page.until("document.body.dataset.state === 'ready'")
        yield page


@asynccontextmanager
async def fake_run(gateway: Gateway, browser: str, folder: Path) -> AsyncIterator[Page]:
    """The page from the press on Start, with `fake` for a gateway; the file that it reads is a silent minute."""
    async with open_page(gateway.http, browser) as page:
        await page.run(FAKE_SOCKET)
        await page.click("[value=file] ~ span")
        await page.choose_file("#file", write_wav(folder / "quiet.wav", 48_000, bytes(96_000 * 60)))
        await page.click("#go")
        await page.until("window.fake?.said.length")
        yield page


@asynccontextmanager
async def fake_client(gateway: Gateway, browser: str, **options: Any) -> AsyncIterator[Page]:
    """`client`, alone, with `fake` for a gateway; `heard` is what its handlers were called with."""
    options["start"] = {"audio": {"encoding": "LINEAR16", "sample_rate_hertz": 8000}, "language_codes": ["en-US"]}
    async with open_page(gateway.http, browser) as page:
        await page.run(FAKE_SOCKET)
        await page.run(
            "import('/web/client.js').then(async ({ CaptionsClient }) => { window.heard = [];"
            "const on = new Proxy({}, { get: (_, name) => (...values) => { heard.push([name, ...values]); } });"
            f"window.client = new CaptionsClient({{ url: 'ws://gateway', on, ...{json.dumps(options)} }}); }})"
        )
        await page.until("fake.said.length")
        yield page


async def beginning(url: str, folder: Path) -> Path:
    """The first seconds of the gateway's sample recording as a file."""
    async with httpx.AsyncClient(trust_env=False) as http:
        recording = BytesIO((await http.get(f"{url}/sample.wav")).content)
    with wave.open(recording) as wav:
        rate = wav.getframerate()
        return write_wav(folder / "beginning.wav", rate, wav.readframes(BEGINNING_SECONDS * rate))


def write_wav(path: Path, rate: int, samples: bytes) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return path
