"""What goes to standard output, for scripts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lymphinfer.textfiles import shown


def write_path(path: Path | None) -> None:
    """Write a path on a line of its own, as the bytes that it has on the disk."""
    if path is not None:
        _write(f"{path}\n", os.fsencode(path) + b"\n")


def write_line(text: str) -> None:
    """Write a line of text."""
    _write(f"{text}\n", f"{shown(text)}\n".encode())


def _write(text: str, raw: bytes) -> None:
    """Write text, or its bytes where standard output's encoding has no letters for it."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        sys.stdout.flush()
        stream = getattr(sys.stdout, "buffer", None)
        if stream is None:
            sys.stdout.write(ascii(text)[1:-1] + "\n")
        else:
            stream.write(raw)
            stream.flush()
