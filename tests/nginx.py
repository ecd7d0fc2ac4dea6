"""A real nginx for tests, with what deploy/nginx has for operators: only addresses and files are this machine's."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import Pair
from tests.redis_server import DIES_WITH_US, free_port

BINARY = shutil.which("nginx")
DEPLOYED = Path(__file__).parent.parent / "deploy" / "nginx"
START_SECONDS = 30.0
MAIN = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include {site};
}}
"""


@dataclass(frozen=True)
class Nginx:
    port: int
    """With TLS, where there is some."""
    plain_port: int
    log: Path
    """Of access and errors."""


@contextmanager
def nginx(site: str, gateway_port: int, pair: Pair | None = None) -> Iterator[Nginx]:
    """`site`: a file of deploy/nginx. Skips the test where nginx is not installed."""
    if BINARY is None:
        pytest.skip("nginx is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(DEPLOYED, folder, dirs_exist_ok=True)
        running = Nginx(free_port(), free_port(), folder / "log")
        _fit(folder, running, gateway_port, pair)
        (folder / "nginx.conf").write_text(MAIN.format(site=site))
        command = [*DIES_WITH_US, BINARY, "-p", name, "-c", str(folder / "nginx.conf"), "-e", "stderr"]
        with open(folder / "stderr", "wb") as stderr, subprocess.Popen(command, stderr=stderr) as process:
            try:
                _until_it_serves(folder, process)
                yield running
            finally:
                process.send_signal(signal.SIGTERM)


def _fit(folder: Path, running: Nginx, gateway_port: int, pair: Pair | None) -> None:
    own = {
        "server gateway:8000;": f"server 127.0.0.1:{gateway_port};",
        "listen 443 ssl;": f"listen 127.0.0.1:{running.port} ssl;",
        "listen 8080;": f"listen 127.0.0.1:{running.port};",
        "listen 80;": f"listen 127.0.0.1:{running.plain_port};",
        "/dev/stdout": str(running.log),
        "/dev/stderr": str(running.log),
    }
    if pair:
        own |= {"/etc/nginx/tls/fullchain.pem": str(pair.certificate), "/etc/nginx/tls/privkey.pem": str(pair.key)}
    for path in folder.rglob("*.conf"):
        text = path.read_text()
        for theirs, ours in own.items():
            text = text.replace(theirs, ours)
        path.write_text(text)


def _until_it_serves(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    """It writes its process id when it listens."""
    deadline = time.monotonic() + START_SECONDS
    while not (folder / "nginx.pid").exists() or not (folder / "nginx.pid").read_text().strip():
        assert process.poll() is None and time.monotonic() < deadline, (folder / "stderr").read_text()
        time.sleep(0.01)
