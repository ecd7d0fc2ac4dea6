"""Who may look at whom (ARCHITECTURE.md): checked from the import statements."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "core": "asyncio threading socket ssl time os logging fastapi starlette uvicorn grpc google websockets redis app.*",
    "relay.py": "fastapi starlette uvicorn grpc google redis websockets app.speech app.emulator app.api app.settings",
    "live.py": "fastapi starlette uvicorn grpc google redis websockets app.speech app.emulator app.api app.settings",
    "hub.py": "fastapi starlette uvicorn grpc google redis websockets app.speech app.emulator app.api app.settings",
    "journal.py": "fastapi starlette uvicorn grpc google redis websockets app.speech app.emulator app.api app.settings",
    "store.py": "fastapi starlette uvicorn grpc google redis websockets app.speech app.api app.settings app.hub",
    "store_redis.py": "fastapi starlette uvicorn grpc google websockets app.speech app.api app.settings app.hub",
    "quota": "fastapi starlette uvicorn grpc google websockets app.speech app.emulator app.api app.settings app.hub",
    "http2": "fastapi starlette uvicorn google websockets redis app.*",
    "speech": "fastapi starlette uvicorn websockets app.api app.emulator app.relay app.hub app.settings",
    "emulator": "fastapi starlette uvicorn websockets app.api app.core app.speech app.relay app.hub app.settings",
    "auth": "fastapi starlette uvicorn grpc google redis app.api app.speech app.emulator app.settings app.hub",
    "api": "grpc google app.speech app.emulator app.settings app.main app.assembly",
    "client": "fastapi starlette uvicorn grpc google app.api app.speech app.hub app.relay app.settings app.main "
    "app.assembly",
}
"""Room -> what it must not import; `app.*` for all of the project but the room itself."""
READ_THE_ENVIRONMENT = {"settings.py", "demo.py"}
"""settings.py alone for the gateway; the demo hands its own environment on to the gateway that it starts."""


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import statement, wherever it stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files(room: str) -> list[Path]:
    place = ROOT / "app" / room
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_nothing_that_it_must_not_know(room: str) -> None:
    assert files(room), f"there is no room {room}"
    for path in files(room):
        for name in imports(path):
            for forbidden in FORBIDDEN[room].split():
                if forbidden == "app.*":
                    assert not name.startswith("app.") or name.startswith(f"app.{room}"), f"{path}: {name}"
                else:
                    assert not f"{name}.".startswith(f"{forbidden}."), f"{path}: {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "app").rglob("*.py")), ids=str)
def test_no_threads_no_executors_no_environment(path: Path) -> None:
    """Nothing starts a thread, blocks the loop, or reads the environment behind the settings' back."""
    text = path.read_text()
    for word in ("to_thread", "run_in_executor", "ThreadPoolExecutor", "import threading", "time.sleep("):
        assert word not in text, f"{path}: {word}"
    if path.name not in READ_THE_ENVIRONMENT:
        assert not re.search(r"os\.(environ|getenv)", text), f"{path} reads the environment"


def test_no_page_has_a_placeholder() -> None:
    for page in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md"), ROOT / "bench/README.md"):
        assert not re.search(r"BENCH_|TODO|FIXME|XXX", page.read_text()), page.name


FEW_NEED = ("httpx", "google.auth.transport.requests", "app.http2", "app.speech.v1", "redis", "onnxruntime", "numpy")


def test_what_few_need_is_not_imported_by_the_others() -> None:
    """Each takes a tenth of a second or more of every start."""
    program = f"import sys, app.main; print([name for name in {FEW_NEED} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, cwd=ROOT)
    assert said.stdout == "[]\n"
