"""The last step of the image: takes out of a Debian with Python what this service does not need.

No shell, no core utilities, no package manager, no perl, no pip: who gets to run something in the container finds
nothing to run but Python itself. The list of Debian's packages (/var/lib/dpkg/status) stays, for scanners to read.

python slim.py [ROOT]
"""

import shutil
import sys
from pathlib import Path

PROGRAMS = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/games", "usr/libexec", "usr/local/sbin")
"""Folders of programs, none of which is needed: Python stands in usr/local/bin, and shares no library with them."""
PYTHON = "usr/local/bin/python"
"""What stays in usr/local/bin: every name that begins so."""
REST = (
    *("usr/lib/apt", "usr/lib/dpkg", "usr/share/dpkg", "var/lib/apt", "var/cache", "etc/apt", "etc/dpkg"),
    *("usr/share/perl*", "usr/lib/*/perl*", "etc/init.d", "etc/cron*", "etc/pam.d", "etc/skel", "usr/share/doc"),
    *("usr/local/lib/python3*/ensurepip", "usr/local/lib/python3*/site-packages/*"),  # pip, twice; ours are in opt/venv
    "opt/venv/bin/[!pt]*",  # all but python and transcribe; pip is not there any more
    "slim.py",
)
DPKG, LIST = "var/lib/dpkg", "status"


def slim(root: Path) -> None:
    """Leaves symbolic links between folders (bin -> usr/bin) as they are. Twice is as good as once."""
    for folder in PROGRAMS:
        if not (root / folder).is_symlink():
            _empty(root / folder)
    _empty(root / "usr/local/bin", keep=PYTHON.rpartition("/")[2])
    _empty(root / DPKG, keep=LIST)
    for pattern in REST:
        for path in root.glob(pattern):
            _remove(path)


def _empty(folder: Path, keep: str = "\0") -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.name.startswith(keep):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


if __name__ == "__main__":
    slim(Path(sys.argv[1] if len(sys.argv) > 1 else "/"))
