"""Bytes of a slide's file, wherever it lies."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Any, BinaryIO, Protocol


class ByteSource(Protocol):
    """A file of random access that threads may share. Its text is its name in messages."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def version(self) -> Hashable:
        """Anything that changes when the file does."""

    def read(self, offset: int, count: int) -> bytes:
        """Bytes from a place; fewer at the end of the file."""

    def open(self) -> Any:
        """A new binary file object, from the start."""

    def close(self) -> None:
        """Release it. Safe to call twice."""


class FileSource:
    """A file on a disk.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        stat = path.stat()
        self.size = stat.st_size
        self.version = (stat.st_size, stat.st_mtime_ns)
        self._file: BinaryIO = path.open("rb")
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self.path)

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource`. The position is shared, hence the lock."""
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def open(self) -> BinaryIO:
        """See `ByteSource`."""
        return self.path.open("rb")

    def close(self) -> None:
        """See `ByteSource`."""
        with self._lock:
            self._file.close()
