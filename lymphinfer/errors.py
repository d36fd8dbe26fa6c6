"""Errors that a user can cause or meet; each message names the file, what was found and the fix."""

from __future__ import annotations


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
