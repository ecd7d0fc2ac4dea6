"""A microphone as a source of audio: LINEAR16, 16 kHz, one channel.

PortAudio calls back in a thread of its own. All that happens there is the hand-over to the event loop.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from app.core.protocol import Audio, Gap

AUDIO = Audio(encoding="LINEAR16", sample_rate_hertz=16_000)
BLOCK_SECONDS = 0.1
KEPT_BLOCKS = 100
"""10 s: until the gateway has accepted the session. After that the client has room of its own."""
INSTALL_HINT = "pip install 'captions-gateway[microphone]'"
PORTAUDIO_HINT = "install it, on Debian: apt install libportaudio2"


class MicrophoneError(Exception):
    """There is no microphone to record from; the message says what is missing."""


class Recording:
    """What was recorded and not yet sent, at most KEPT_BLOCKS; what does not fit becomes a gap in its place."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | Gap] = asyncio.Queue()
        self._missing = 0

    def add(self, block: bytes) -> None:
        if self._queue.qsize() >= KEPT_BLOCKS:
            self._missing += len(block)
            return
        if self._missing:
            self._queue.put_nowait(Gap(bytes=self._missing, reason="overflow"))
            self._missing = 0
        self._queue.put_nowait(block)

    async def pieces(self) -> AsyncGenerator[bytes | Gap, None]:
        """Never ends by itself."""
        while True:
            yield await self._queue.get()


@contextmanager
def open_microphone() -> Iterator[Recording]:
    """Records while it is entered. Needs a running event loop. Raises MicrophoneError."""
    try:
        import sounddevice  # noqa: PLC0415 - an extra, and it loads PortAudio
    except ImportError:
        raise MicrophoneError(f"the microphone needs the package sounddevice: {INSTALL_HINT}") from None
    except OSError as exc:
        raise MicrophoneError(f"the microphone needs PortAudio ({exc}): {PORTAUDIO_HINT}") from exc
    loop = asyncio.get_running_loop()
    recording = Recording()

    def in_portaudio_thread(block: object, *_: object) -> None:
        loop.call_soon_threadsafe(recording.add, bytes(block))  # type: ignore[call-overload]

    try:
        stream = sounddevice.RawInputStream(
            samplerate=AUDIO.sample_rate_hertz,
            blocksize=int(AUDIO.sample_rate_hertz * BLOCK_SECONDS),
            channels=1,
            dtype="int16",
            callback=in_portaudio_thread,
        )
        stream.start()
    except sounddevice.PortAudioError as exc:
        raise MicrophoneError(f"there is no microphone to record from ({exc})") from exc
    try:
        yield recording
    finally:
        stream.close()
