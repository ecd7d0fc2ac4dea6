"""A file that is read anew when it has changed: what was taken out of it is gone at once, without a restart.

It is looked at (one stat) each time it is asked for, which is once for each connection.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class FileError(Exception):
    """The file cannot be taken: names it and says why."""


class Watched(Generic[T]):
    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        """`parse` raises ValueError. Raises FileError."""
        self._path = path
        self._parse = parse
        self._trouble = ""
        """As it was logged last."""
        self._stamp = self._look()
        self._value = self._read()

    def newest(self) -> T:
        """A file that cannot be taken changes nothing: what was known stays, and the log says why."""
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                self._value = self._read()
                self._trouble = ""
                log.info("%s was read anew", self._path)
        except FileError as error:
            if str(error) != self._trouble:
                log.error("what was read before stays: %s", error)
            self._trouble = str(error)
        return self._value

    def _look(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise FileError(f"{self._path}: {error.strerror}") from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> T:
        try:
            return self._parse(self._path.read_bytes())
        except OSError as error:
            raise FileError(f"{self._path}: {error.strerror}") from error
        except ValueError as error:
            raise FileError(f"{self._path}: {error}") from error
