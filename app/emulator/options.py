"""What can be set about an emulator."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """Every default is Google's own limit, or the recognizer that ships with the `emulator` extra."""

    host: str = "127.0.0.1"
    port: int = 9090  # 0 takes a free one
    workers: int | None = None  # processes that recognize; one per core
    model: Path | None = None  # directory with encoder, decoder and tokenizer
    languages: tuple[str, ...] = ("en",)  # that the model speaks; "en" stands for every en-*
    stream_limit: float = 305.0  # seconds a stream may last
    idle_limit: float = 10.0  # seconds without audio
    faults: tuple[str, ...] = ()  # specs, see faults.py
    seed: int = 0  # of the faults
    connection_faults: bool = False  # whether such faults may be set later, too
    tls_certificate: Path | None = None  # PEM, with its chain; plaintext without
    tls_key: Path | None = None
    client_ca: Path | None = None  # PEM; only clients with a certificate of this authority are served

    @property
    def worker_count(self) -> int:
        if self.workers:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
