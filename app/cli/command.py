"""The command `transcribe`: what a person types, and what every failure is told as - one line, and an exit code.

Everything heavier than argparse is imported where it is used: `--help` answers at once.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.cli.run import Session
    from app.cli.screen import Screen
    from app.client import GatewayError, SessionConfig
    from app.core.protocol import Audio

DEFAULT_URL = "ws://127.0.0.1:8000/ws/transcribe"
DONE, FAILED, WRONG, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
"""Exit codes: the last two are 128 + SIGINT, 128 + SIGPIPE, as shells count."""

OPTIONS = {"language_codes": "--language", "model": "--model", "phrases": "--phrase"}
"""What to type for a field of `start`."""

DESCRIPTION = "Live captions of a WAV file or of the microphone, from a gateway."
EPILOG = """\
other commands:
  transcribe serve               run the gateway (as `make run` does)
  transcribe sample [options]    the sample recording that ships with the recognizer
  transcribe demo                the same through a gateway of its own, stopped afterwards
  transcribe key NAME            a new API key, and the entry for GATEWAY_API_KEYS_FILE
A file of such a name is reached as ./serve.

formats:
  On a terminal, interims turn into finals in place. In a pipe or in --output there are finals only:
  --txt    a line for each final (the default)
  --json   JSON Lines: the gateway's messages `final`, `gap` and, last, `stopped`, each on its own line as it comes
  --srt, --vtt   cues of at most two lines of 42 characters

files: WAV with 8- to 32-bit PCM, float, MULAW or ALAW samples at 8 to 48 kHz; several channels are mixed down to one.
TLS: --url wss://...; SSL_CERT_FILE=ca.pem names an authority of your own.
exit code: 0 done; 1 the gateway failed or refused; 2 wrong arguments or file; 130 broken off by Ctrl-C.
"""


class CommandError(Exception):
    """What goes wrong, in one line, and the exit code it makes."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    command = {"serve": _serve, "demo": _demo, "sample": _sample, "key": _key}.get(arguments[0]) if arguments else None
    try:
        return command(arguments[1:]) if command else _transcribe(arguments)
    except CommandError as error:
        print(f"transcribe: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush would complain
        return BROKEN_PIPE


# The commands ---------------------------------------------------------------------------------


def _transcribe(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.mic == bool(options.file):
        parser.error("give a WAV file, or --mic")
    if options.file and options.output and options.output.exists() and options.output.samefile(options.file):
        parser.error(f"--output {options.output} is the recording itself")
    return _run(_from_microphone(options) if options.mic else _from_file(options))


def _serve(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="transcribe serve", description="Run the gateway. Its settings stand in the environment: see .env.example."
    )
    parser.parse_args(arguments)
    from app.__main__ import main as serve  # noqa: PLC0415

    serve()
    return DONE


def _key(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="transcribe key",
        description="A new API key, on standard error, and its entry for GATEWAY_API_KEYS_FILE, on standard output: "
        "`transcribe key my-app >> keys.toml`. The file holds its hash alone: the key is shown once.",
    )
    parser.add_argument("name", metavar="NAME", help="who answers for what is done with it")
    options = parser.parse_args(arguments)
    from app.auth.keys import NAME, new_key  # noqa: PLC0415

    if not re.fullmatch(NAME, options.name, re.ASCII):
        parser.error(f"{options.name!r} is not 1 to 64 letters, digits, dots, hyphens or underscores")
    key, entry = new_key(options.name)
    print(f"the key, which is shown this once: {key}", file=sys.stderr)
    print(entry)
    return DONE


def _sample(options: Sequence[str]) -> int:
    return _transcribe([str(_sample_recording()), *options])


def _demo(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="transcribe demo",
        description="Start a gateway, send the sample recording through it at real time, show the captions, stop it.",
    )
    parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # the gateway must not outlive us
    return _run(_through_own_gateway())


def _run(work: Coroutine[None, None, int]) -> int:
    """Every foreign error becomes a CommandError here: one line that says what to do."""
    import asyncio  # noqa: PLC0415

    from app.client import ConnectionLostError, GatewayError, TranscriberError, UnreachableError  # noqa: PLC0415

    try:
        return asyncio.run(work)
    except GatewayError as error:
        raise CommandError(f"{error}{_advice(error)}", FAILED) from error
    except UnreachableError as error:
        raise CommandError(f"{error}: {_how_to_reach(error)}", FAILED) from error
    except ConnectionLostError as error:
        raise CommandError(f"{error}: see the gateway's log, then try again", FAILED) from error
    except TranscriberError as error:
        raise CommandError(f"{error}: are the gateway and this program of one version?", FAILED) from error


def _how_to_reach(error: Exception) -> str:
    import ssl  # noqa: PLC0415

    match error.__cause__:
        case ssl.SSLCertVerificationError():
            return "an authority of your own is named by SSL_CERT_FILE=ca.pem"
        case ssl.SSLError():
            return "without TLS it is --url ws://..."
    return "is the gateway running? `make run`"


def _advice(error: "GatewayError") -> str:
    match error.code:
        case "unauthenticated" | "token_expired" | "forbidden":
            return ": give a valid token with --token or --token-file"
        case "invalid_config" if error.param:
            field = re.split(r"[.\[]", error.param)[0]
            return f": change {OPTIONS.get(field, field)}"
        case "http_403" | "http_404":
            return ": is --url the address of a gateway?"
    if error.retry_after_ms is not None:
        return f": try again in {error.retry_after_ms / 1000:.0f} s"
    return ": try again" if error.retryable else ": trying again will not help"


# What they do ---------------------------------------------------------------------------------


async def _from_file(options: argparse.Namespace) -> int:
    from app.cli.run import at_once, in_real_time, note, run  # noqa: PLC0415
    from app.cli.wav import WavError, open_wav  # noqa: PLC0415
    from app.core.audio import AudioFormat  # noqa: PLC0415
    from app.core.protocol import Audio  # noqa: PLC0415

    with ExitStack() as stack:
        try:
            wav = stack.enter_context(open_wav(options.file))
        except (WavError, OSError) as error:
            raise CommandError(f"{options.file}: {_reason(error)}", WRONG) from error
        if wav.channels > 1:
            note(f"note: {wav.channels} channels are mixed down to one")
        audio = Audio(wav.encoding, wav.sample_rate_hertz)
        chunks = wav.chunks(options.frame_ms)
        source = at_once(chunks) if options.fast else in_real_time(chunks, AudioFormat.of(audio).bytes_per_second)
        complete = await _checked(run(_session(options, audio), source, _screens(options, wav.total_ms)))
        return DONE if complete else INTERRUPTED


async def _from_microphone(options: argparse.Namespace) -> int:
    from app.cli.microphone import AUDIO, MicrophoneError, open_microphone  # noqa: PLC0415
    from app.cli.run import run  # noqa: PLC0415

    with ExitStack() as stack:
        try:
            recording = stack.enter_context(open_microphone())
        except MicrophoneError as error:
            raise CommandError(str(error), WRONG) from error
        session = replace(_session(options, AUDIO), overflow="gap", give_up_seconds=None)
        await _checked(run(session, recording.pieces(), _screens(options, None)))
        return DONE  # Ctrl-C is how a recording ends


async def _through_own_gateway() -> int:
    from app.cli.demo import GatewayNotReadyError, own_gateway  # noqa: PLC0415
    from app.cli.run import note  # noqa: PLC0415

    recording = _sample_recording()
    try:
        async with own_gateway(note) as url:
            address = f"{url.replace('http', 'ws', 1)}/ws/transcribe"
            return await _from_file(_parser().parse_args([str(recording), "--url", address]))
    except GatewayNotReadyError as error:
        raise CommandError(str(error), FAILED) from error


def _sample_recording() -> Path:
    from app.emulator.models import INSTALL_HINT, sample_recording  # noqa: PLC0415

    recording = sample_recording()
    if not recording:
        raise CommandError(f"the sample recording is not here: {INSTALL_HINT}", WRONG)
    return recording


async def _checked(session: Coroutine[None, None, bool]) -> bool:
    try:
        return await session
    except TimeoutError as error:
        raise CommandError("the gateway did not send the last captions in time", INTERRUPTED) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"{error.filename or 'cannot read or write'}: {_reason(error)}", WRONG) from error


def _session(options: argparse.Namespace, audio: "Audio") -> "Session":
    from app.cli.run import Session  # noqa: PLC0415

    return Session(
        url=options.url,
        config=_config(options, audio),
        token=_token(options),
        framing="base64" if options.base64 else "binary",
        frame_ms=options.frame_ms,
        give_up_seconds=options.give_up,
    )


def _token(options: argparse.Namespace) -> str | None:
    if options.token_file is None:
        token: str | None = options.token
        return token
    try:
        return str(options.token_file.read_text().strip())
    except (OSError, UnicodeError) as error:
        raise CommandError(f"{options.token_file}: {_reason(error)}", WRONG) from error


def _config(options: argparse.Namespace, audio: "Audio") -> "SessionConfig":
    from app.core.protocol import Phrase, SessionConfig  # noqa: PLC0415

    return SessionConfig(
        audio=audio,
        language_codes=options.language or ["en-US"],
        model=options.model,
        interim_results=sys.stdout.isatty(),
        enable_word_time_offsets=options.words or options.form in {"srt", "vtt"},
        enable_word_confidence=options.words,
        phrases=[Phrase(value=phrase) for phrase in options.phrase] or None,
    )


def _screens(options: argparse.Namespace, total_ms: int | None) -> "list[Screen]":
    """A terminal shows what is going on, also while the captions go to a file."""
    from app.cli.screen import Plain, Terminal  # noqa: PLC0415

    screens: list[Screen] = []
    if options.output:
        screens.append(Plain(options.form, options.output))
    if sys.stdout.isatty():
        screens.append(Terminal("txt" if options.output else options.form, total_ms, fast=options.fast))
    return screens or [Plain(options.form)]


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


# What is typed --------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="transcribe",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", nargs="?", type=Path, metavar="FILE.wav")
    add("--mic", action="store_true", help="record from the microphone until Ctrl-C")
    _add_formats(parser.add_mutually_exclusive_group().add_argument)
    add("--output", type=Path, metavar="PATH", help="write the captions to a file")
    add("--words", action="store_true", help="times and confidences of words, in --json")
    add("--language", action="append", metavar="CODE", help="BCP-47 code (default en-US); repeat for alternatives")
    add("--model", metavar="NAME", help="such as latest_long (default: the gateway's)")
    add("--phrase", action="append", default=[], metavar="TEXT", help="words to expect; repeat for more")
    add("--url", default=DEFAULT_URL, help="of the gateway (default %(default)s)")
    add("--token", help="API key, signed token or one-time token")
    add("--token-file", type=Path, metavar="PATH", help="the same in a file: a command line can be read by others")
    add("--fast", action="store_true", help="as fast as the gateway takes it, not at real time")
    add(
        "--frame-ms",
        type=_frame_ms,
        default=100,
        metavar="N",
        help="milliseconds of audio in a frame (default %(default)s)",
    )
    add(
        "--give-up",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="without a connection for so long a file has failed (default %(default)g; a microphone never has)",
    )
    add("--base64", action="store_true", help="send audio as JSON text frames, not binary")
    return parser


def _add_formats(add: Callable[..., argparse.Action]) -> None:
    for form, text in {"txt": "plain text", "json": "JSON Lines", "srt": "SubRip", "vtt": "WebVTT"}.items():
        add(f"--{form}", dest="form", action="store_const", const=form, default="txt", help=text)


def _frame_ms(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 1 to 10000")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
