"""The images that a file holds, and which of them is the slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lymphinfer.errors import SlideError

_NAMED = 6


@dataclass(frozen=True)
class SlideImage:
    """An image in a slide's file.

    Attributes
    ----------
    number : int
        By which ``--series`` names it, from 0.
    name : str
        Empty where the file gives it none.
    kind : str
        ``"scan"``, ``"label"``, ``"macro"``, ``"overview"``, ``"thumbnail"`` and the like.
    dimensions : tuple of int
        (width, height), px.
    levels : tuple of (int, int)
        (width, height) of each level, level 0 first; of an image that is not read, level 0 alone.
    mpp : float or None
        Its own pixel size, µm/px; None where the file states none.
    mpp_source : str
        Where that comes from; empty where there is none.
    is_read : bool
        Whether it is the one that is read.
    """

    number: int
    name: str
    kind: str
    dimensions: tuple[int, int]
    levels: tuple[tuple[int, int], ...]
    mpp: float | None
    mpp_source: str
    is_read: bool

    def __str__(self) -> str:
        width, height = self.dimensions
        size = "" if self.mpp is None else f", {self.mpp:.4g} µm/px"
        name = f" {self.name!r}" if self.name else ""
        return f"{self.number}{name} ({width} x {height} px{size})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a summary."""
        return {
            "number": self.number,
            "name": self.name,
            "kind": self.kind,
            "dimensions": list(self.dimensions),
            "mpp": self.mpp,
        }


def pick(path: object, images: Sequence[SlideImage], series: str) -> int:
    """Place in a sequence of the image that a user names.

    Parameters
    ----------
    path : object
        The file, for the message.
    images : sequence of SlideImage
    series : str
        A number, or a name: whole, or a part that only one name has; in upper or lower case.

    Returns
    -------
    int

    Raises
    ------
    SlideError
        There is no such image, or more than one.
    """
    wanted = series.strip().lower()
    numbers = [i for i, image in enumerate(images) if str(image.number) == wanted]
    names = [i for i, image in enumerate(images) if image.name.strip().lower() == wanted]
    parts = [i for i, image in enumerate(images) if wanted and wanted in image.name.lower()]
    for found in (numbers, names, parts):
        if len(found) == 1:
            return found[0]
        if found:
            break
    problem = "several images are called so" if names or parts else "the file has no such image"
    raise SlideError(
        f"{path}: --series {series}: {problem}. It holds {listed(images)}; give a number of these."
    )


def listed(images: Sequence[object]) -> str:
    """Images in words, the first few by name."""
    shown = ", ".join(str(image) for image in images[:_NAMED])
    more = len(images) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def other_images_warning(images: Sequence[SlideImage]) -> str | None:
    """What the reader of the numbers must know of the images that are not read."""
    others = [image for image in images if not image.is_read]
    read = next((image for image in images if image.is_read), None)
    if not others or read is None:
        return None
    what = "1 other image" if len(others) == 1 else f"{len(others)} other images"
    return (
        f"The file holds {what} beside {read}, which is the one that was read: {listed(others)}. "
        "--series N reads another one."
    )


def other_files_warning(files: Sequence[str]) -> str | None:
    """What the reader must know of files that belong to the same set."""
    if not files:
        return None
    return (
        "The file belongs to a set: its OME-XML also describes pixels in "
        f"{listed(files)}, of which nothing was read. Such a file is a slide of its own."
    )
