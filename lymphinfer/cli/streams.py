"""Standard output and error that may be closed: what is asked for is done all the same."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


class _Patient(io.FileIO):
    """A stream whose reader may go away; what comes after that is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def guard_streams() -> None:
    """Let ``| head -1`` and ``>&-`` neither stop a command nor change its exit code.

    A number that is closed is taken by the next file that is opened, and a library that prints
    would then print into that one; so it is given to nothing at all.
    """
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
    sys.stdout = _patient(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _patient(sys.stderr, sys.__stderr__, 2)


def _patient(stream: TextIO | None, own: TextIO | None, number: int) -> TextIO:
    if stream is None:
        return open(number, "w", closefd=False, encoding="utf-8")
    # Another one is a caller's or a test's.
    if stream is not own:
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Patient(number, "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=number == 2 or stream.isatty(),
    )
