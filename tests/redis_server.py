"""A real Redis for tests: in a process of its own, on a free port, with an empty folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARY = shutil.which("redis-server")
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
"""Also where a test run is killed, and ends nothing itself."""


class RedisServer:
    """`persistent` ones write every change to the disk before they answer: `kill` loses nothing."""

    def __init__(self, folder: Path, *options: str, persistent: bool = False) -> None:
        self.port = free_port()
        self._options = options
        self._folder = folder
        self._persistent = persistent
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when it answers. What is in its folder from before, it knows again."""
        assert BINARY and self._process is None
        self._folder.mkdir(exist_ok=True)
        keeping = "--appendonly yes --appendfsync always" if self._persistent else "--appendonly no"
        options = f"--port {self.port} --bind 127.0.0.1 {keeping}".split()
        command = [*DIES_WITH_US, BINARY, *options, "--save", "", "--dir", str(self._folder), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        log = []
        for line in self._process.stdout:
            log.append(line)
            if "Ready to accept connections" in line:
                return
        raise RuntimeError(f"redis-server has not started: {''.join(log)}")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It is there, accepts connections (the kernel does), and says nothing."""
        pid = self._signal(signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)

    def unpause(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self, *, empty: bool) -> None:
        """On the same port. With its memory only where it is `persistent`."""
        if self._process:
            self.kill()
        if empty:
            shutil.rmtree(self._folder)
        self.start()

    def _signal(self, number: int) -> int:
        assert self._process
        self._process.send_signal(number)
        return self._process.pid

    def _end(self, number: int) -> None:
        assert self._process
        with self._process as process:  # waits, and closes its pipe
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # a paused one hears nothing else
        self._process = None

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self.kill()


@contextmanager
def redis_server(*options: str, persistent: bool = False) -> Iterator[RedisServer]:
    """Runs until the end of the block; skips the test where Redis is not installed."""
    if BINARY is None:
        pytest.skip("redis-server is not installed")
    with tempfile.TemporaryDirectory() as folder:
        with RedisServer(Path(folder, "data"), *options, persistent=persistent) as server:
            yield server


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
