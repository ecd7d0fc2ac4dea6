"""python -m app.emulator: a local Google Speech-to-Text.

Prints one line on stdout, `listening on HOST:PORT`, when it can serve; everything else goes to stderr.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from app.emulator.faults import BadSpec, parse
from app.emulator.injection import Faults
from app.emulator.models import ModelMissing
from app.emulator.options import Options
from app.emulator.pool import WorkerFailed
from app.emulator.server import Emulator
from app.tls import BadPem, check_authorities, check_pair


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = Options(
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        model=arguments.model,
        languages=tuple(arguments.languages.split(",")),
        stream_limit=arguments.stream_limit,
        idle_limit=arguments.idle_limit,
        faults=tuple(arguments.fault),
        seed=arguments.seed,
        connection_faults=arguments.connection_faults,
        tls_certificate=arguments.tls_certificate,
        tls_key=arguments.tls_key,
        client_ca=arguments.client_ca,
    )
    _check_tls(parser, options)
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())  # as from 3.12 on; else a thread waits for each worker
    try:
        asyncio.run(_serve(options, exit_with_stdin=arguments.exit_with_stdin))
    except (ModelMissing, WorkerFailed, RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _check_tls(parser: argparse.ArgumentParser, options: Options) -> None:
    """Ends the program where it would not do what it was asked for."""
    certificate, key, authority = options.tls_certificate, options.tls_key, options.client_ca
    if certificate is None or key is None:
        if certificate or key or authority:
            parser.error("--tls-certificate and --tls-key go together; --client-ca is for both of them")
        return
    if Faults(options).wants_forwarder:
        parser.error("faults of connections need plaintext: leave out --tls-certificate or the faults")
    try:
        check_pair(certificate, key)
        if authority:
            check_authorities(authority)
    except BadPem as error:
        parser.error(str(error))


async def _serve(options: Options, *, exit_with_stdin: bool) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if exit_with_stdin:
        _watch_stdin(over)
    emulator = Emulator(options)
    try:
        port = await emulator.start()
        sys.stdout.write(f"listening on {options.host}:{port}\n")
        sys.stdout.flush()
        await over.wait()
    finally:
        await emulator.stop()


def _watch_stdin(over: asyncio.Event) -> None:
    """Who started us holds the other end, and lets go of it even when killed."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            over.set()

    try:
        loop.add_reader(0, read)
    except PermissionError:  # a file or /dev/null: nobody is there
        over.set()


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m app.emulator", description="A local Google Speech-to-Text.")
    parser.add_argument("--host", default=default.host)
    parser.add_argument("--port", type=int, default=default.port, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes that recognize (default: one per core)")
    parser.add_argument("--model", type=Path, help="directory of another Moonshine model")
    parser.add_argument("--languages", default="en", help="that the model speaks, by commas (default: %(default)s)")
    parser.add_argument("--stream-limit", type=float, default=default.stream_limit, help="seconds a stream may last")
    parser.add_argument("--idle-limit", type=float, default=default.idle_limit, help="seconds without audio")
    parser.add_argument("--fault", type=_spec, action="append", default=[], help="inject one; may be repeated")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the faults (default: %(default)s)")
    parser.add_argument("--connection-faults", action="store_true", help="let such be set at run time")
    parser.add_argument("--tls-certificate", type=Path, help="PEM file, with its chain: serve with TLS")
    parser.add_argument("--tls-key", type=Path, help="PEM file with its key, unencrypted")
    parser.add_argument(
        "--client-ca", type=Path, help="PEM file: serve only clients with a certificate of this authority"
    )
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin does")
    return parser


def _spec(source: str) -> str:
    try:
        parse(source)
    except BadSpec as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return source


if __name__ == "__main__":
    sys.exit(main())
