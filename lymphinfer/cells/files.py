"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lymphinfer.errors import ResultError

_FIXES = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder with --out",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another --out",
    errno.EACCES: "no permission to write there: choose a writable folder with --out",
    errno.EPERM: "no permission to write there: choose a writable folder with --out",
    errno.EROFS: "the folder is read-only: choose a writable folder with --out",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another folder with --out",
    errno.EEXIST: "a file stands where a folder is needed: choose another folder with --out",
    errno.ENAMETOOLONG: "the name is too long for this file system: choose a shorter --out",
}


# Windows lets nobody replace or delete a file while another process reads it.
_WAITS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if os.name == "nt" else ()

# What is added to a name is 28 bytes at most, and a name may have 255.
_TEMPORARY_BYTES = 200


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only once it is complete.

    The bytes go to a hidden ``.tmp`` file beside it, which is synced and renamed when the block
    ends, and removed when it fails. Missing parent folders are made.

    Parameters
    ----------
    path : Path
        The file to create or replace.

    Yields
    ------
    BinaryIO
        Writable and seekable.

    Raises
    ------
    ResultError
        If it cannot be written, naming the path and what to do. Any other error raised inside the
        block passes through unchanged.
    """
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            patiently(lambda: temporary.replace(path))
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def patiently(act: Callable[[], object]) -> None:
    """Replace or delete a file that another process may be reading at the moment.

    Raises
    ------
    OSError
        It still cannot be done after some two seconds on Windows; elsewhere at once.
    """
    for wait_s in _WAITS_S:
        try:
            act()
        except PermissionError:
            time.sleep(wait_s)
        else:
            return
    act()


def cannot_write(path: Path, error: OSError) -> ResultError:
    """What a failed write means to a user, and what to do."""
    reason = error.strerror or str(error)
    return ResultError(f"cannot write {path} ({reason}): {fix_for(error)}")


def fix_for(error: OSError) -> str:
    """What to do where a result cannot be written."""
    return _FIXES.get(error.errno or 0, "check the folder, or choose another with --out")


def check_writable(folder: Path, longest: str) -> None:
    """Fail before the hours of work, not after them.

    Parameters
    ----------
    folder : Path
    longest : str
        The longest name that will be written there.

    Raises
    ------
    ResultError
        Files cannot be made in the folder, not removed, or not have such long names.
    """
    probe = folder / f".{longest}.tmp"
    with atomic_write(probe) as stream:
        stream.write(b"")
    try:
        probe.unlink()
    except OSError as error:
        raise ResultError(f"{folder}: files can be made there but not removed ({error})") from error


def sweep_temporaries(folder: Path) -> None:
    """Remove what writers that were killed have left of their files in a folder.

    Only for a folder that nobody else writes to: a file that is being written is swept too.
    """
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """Hidden ``.tmp`` name beside a file, unlike any other, that is not too long where it is not.

    The process id alone is not unique on a file system that several machines share.
    """
    start = path.name.encode("utf-8", "surrogateescape")[:_TEMPORARY_BYTES].decode(
        "utf-8", "ignore"
    )
    return path.with_name(f".{start}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
