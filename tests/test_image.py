"""The container: what its last step takes out and leaves, on a tree of files, and what the files for it say.

Nothing here builds an image: that needs a container engine.
"""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SLIM = ROOT / "deploy" / "image" / "slim.py"
LIB = "usr/lib/x86_64-linux-gnu"
GOES = [
    *("usr/bin/bash", "usr/bin/dash", "usr/bin/ls", "usr/bin/perl", "usr/bin/apt", "usr/bin/dpkg", "usr/sbin/useradd"),
    *("usr/lib/apt/methods/http", "var/lib/apt/lists/deb", "var/lib/dpkg/info/bash.list", f"{LIB}/perl-base/lib.pm"),
    *("usr/local/bin/pip", "usr/local/bin/pip3.11", "usr/local/lib/python3.11/site-packages/pip/__init__.py"),
    *(
        "usr/local/lib/python3.11/ensurepip/_bundled/pip.whl",
        "opt/venv/bin/activate",
        "opt/venv/bin/uvicorn",
        "slim.py",
    ),
]
STAYS = [
    *("usr/local/bin/python3.11", "usr/local/lib/python3.11/os.py", "usr/local/lib/libpython3.11.so.1.0"),
    *(f"{LIB}/libssl.so.3", f"{LIB}/libc.so.6", "usr/lib64/ld-linux-x86-64.so.2", "etc/ssl/certs/ca.pem"),
    *("etc/ld.so.cache", "etc/passwd", "usr/share/zoneinfo/UTC", "var/lib/dpkg/status"),
    *("opt/venv/bin/transcribe", "opt/venv/pyvenv.cfg", "opt/venv/lib/python3.11/site-packages/app/__main__.py"),
]
FOLDERS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
PYTHONS = {"usr/local/bin/python": "python3.11", "opt/venv/bin/python": "/usr/local/bin/python3.11"}
LINKS = FOLDERS | PYTHONS | {"usr/bin/sh": "dash"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As much of Debian 12 with Python and this service as there is to tell apart."""
    for name in (*GOES, *STAYS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name, target in LINKS.items():
        (tmp_path / name).symlink_to(target)
    return tmp_path


@pytest.fixture
def slim() -> Callable[[Path], None]:
    found: Callable[[Path], None] = runpy.run_path(str(SLIM))["slim"]
    return found


def test_no_shell_no_tools_no_package_manager_are_left(tree: Path, slim: Callable[[Path], None]) -> None:
    slim(tree)
    assert [name for name in GOES if (tree / name).exists()] == []
    assert not any((tree / "bin").iterdir()) and not any((tree / "sbin").iterdir())
    assert {path.name for path in (tree / "opt/venv/bin").iterdir()} == {"python", "transcribe"}


def test_python_its_libraries_and_the_service_stay(tree: Path, slim: Callable[[Path], None]) -> None:
    slim(tree)
    slim(tree)
    assert [name for name in STAYS if not (tree / name).is_file()] == []
    links = FOLDERS | PYTHONS
    assert {name: str((tree / name).readlink()) for name in links} == links


def test_the_image_needs_no_shell_and_runs_as_nobody_in_particular() -> None:
    """After the last step there is none that a RUN, a CMD or a health check could begin with."""
    *_, slimming, last = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert slimming.rstrip().partition("\n\n")[0].endswith('RUN ["/usr/local/bin/python", "/slim.py"]')
    assert last.startswith("scratch\n") and "RUN" not in last
    assert 'CMD ["python", ' in last
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE), "a number, which Kubernetes can check"
    assert not re.search(r"CMD-SHELL|test: [^\[]|command: [^\[]", (ROOT / "docker-compose.yml").read_text())


@pytest.mark.parametrize("service", ["emulator", "gateway"])
def test_compose_gives_no_more_than_is_needed(service: str) -> None:
    text: Any = (ROOT / "docker-compose.yml").read_text()
    hardened = text.partition("x-hardened: &hardened\n")[2].partition("\n\n")[0]
    for line in ("read_only: true", "tmpfs: [/tmp]", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'):
        assert f"  {line}" in hardened
    assert f"  {service}:\n    <<: *hardened\n" in text


def test_the_build_sees_nothing_but_what_it_copies() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    named = {name.rstrip("/") for line in copied for name in line.split()}
    seen = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert named == seen
