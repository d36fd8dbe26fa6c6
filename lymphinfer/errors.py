"""Errors that a user can cause or meet; each message names the file, what was found and the fix."""

from __future__ import annotations

import errno


class LymphinferError(Exception):
    """Base of every error that LymphInfer raises on purpose.

    The command line prints the message without a traceback.
    """


class SlideError(LymphinferError):
    """A slide cannot be opened or read."""


class PixelSizeError(SlideError):
    """A slide states no pixel size, or one at which nuclei cannot be seen.

    Attributes
    ----------
    stated : tuple of float, or None
        What it states, µm/px along x and y.
    source : str
        Where; empty where it states nothing.
    """

    stated: tuple[float, float] | None = None
    source: str = ""


class BundleError(LymphinferError):
    """A bundle is missing, damaged or not what it says it is."""


class ResultError(LymphinferError):
    """A result cannot be written or read (read-only folder, full disk, foreign files)."""


class DataError(LymphinferError):
    """Training or evaluation data is missing, incomplete or contradicts itself."""


class AnnotationError(LymphinferError):
    """A file of annotations cannot be read, or limits a slide to nothing."""


NO_MEMORY = (
    "not enough memory: a smaller --tile, fewer --workers, more memory for the job, or a limit of "
    "the shell that is higher (ulimit -v)"
)

# What engines, loader and C++ say; they have no class in common.
_MEMORY_WORDS = (
    "failed to allocate",
    "can't allocate memory",
    "cannot allocate memory",
    "can't start new thread",
    "failed to map segment",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "resource temporarily unavailable",
)


def is_memory_short(error: BaseException) -> bool:
    """Whether an error says that the process gets no more memory, whoever raised it."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError | ImportError) and any(
        words in text for words in _MEMORY_WORDS
    )
