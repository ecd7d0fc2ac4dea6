"""Nothing in here tells anybody else of its use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
RUN = {
    "the recognizer": "from app.emulator.models import *; from app.emulator.voice import *; "
    "from app.emulator.moonshine import session; session(voice_model())",
    "the silence gate": "from app.speech.voice import VoiceModel; VoiceModel()",
}


@pytest.mark.parametrize("what", RUN)
def test_onnx_runtime_keeps_no_id_of_this_machine(tmp_path: Path, what: str) -> None:
    """It would write one into the home directory as it starts, beside what it is about to send."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run([sys.executable, "-c", RUN[what]], env=others | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []
