"""What a file holds, and what `predict` would take of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lymphinfer.errors import PixelSizeError, SlideError
from lymphinfer.slides import pixel_size
from lymphinfer.slides.grouping import group_files
from lymphinfer.slides.images import SlideImage, listed
from lymphinfer.slides.opening import SLIDE_SUFFIXES, open_slide
from lymphinfer.slides.pyramid import PyramidSlide
from lymphinfer.slides.slide import Slide
from lymphinfer.slides.stain_check import appearance, sample_patches
from lymphinfer.slides.zarr_reader import is_zarr
from lymphinfer.textfiles import shown

# Any plausible size, where the file has none: it decides nothing that is shown.
_STAND_IN_MPP = 0.25


@dataclass(frozen=True)
class Description:
    """What a file holds.

    Attributes
    ----------
    path : Path
    members : tuple of Path
        Files of the slide; the file alone for most formats.
    refusal : str
        Why ``predict`` would not read it; empty if it would.
    choice : str
        What ``predict`` would read, and why; empty where nothing can be read at all.
    reader, vendor : str
        Empty where nothing can be read.
    images : tuple of SlideImage
    levels : tuple of (int, int)
        Of the image that would be read.
    mpp : float or None
    mpp_source : str
    bounds_offset : tuple of int
    associated, other_files, warnings : tuple of str
    icc_profile_bytes : int
    appearance : str
        What is unlike H&E in its looks; empty if nothing is.
    dimensions : tuple of int, or None
        (width, height) of the image that would be read, px; None where nothing can be read.
    """

    path: Path
    members: tuple[Path, ...]
    refusal: str = ""
    choice: str = ""
    reader: str = ""
    vendor: str = ""
    images: tuple[SlideImage, ...] = ()
    levels: tuple[tuple[int, int], ...] = ()
    mpp: float | None = None
    mpp_source: str = ""
    bounds_offset: tuple[int, int] = (0, 0)
    associated: tuple[str, ...] = ()
    other_files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    icc_profile_bytes: int = 0
    appearance: str = ""
    dimensions: tuple[int, int] | None = None

    @property
    def size_mm(self) -> tuple[float, float] | None:
        """(width, height) of the image that would be read; None without a pixel size."""
        if self.mpp is None or self.dimensions is None:
            return None
        width, height = (round(n * self.mpp / 1000, 3) for n in self.dimensions)
        return width, height

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **vars(self),
            "path": str(self.path),
            "members": [str(path) for path in self.members],
            "images": [
                {**image.to_dict(), "mpp_source": image.mpp_source, "read": image.is_read,
                 "levels": [list(level) for level in image.levels]}
                for image in self.images
            ],
            "levels": [list(level) for level in self.levels],
            "bounds_offset": list(self.bounds_offset),
            "size_mm": self.size_mm,
        }  # fmt: skip


def describe(
    path: Path, *, mpp: float | None = None, series: str | None = None
) -> list[Description]:
    """Describe a file, or each slide of a folder.

    Parameters
    ----------
    path : Path
        A slide, its address, or a folder; subfolders are not looked into.
    mpp, series
        As `lymphinfer.slides.open_slide` takes them.

    Returns
    -------
    list of Description
        One a slide.

    Raises
    ------
    SlideError
        The folder holds no slide.
    """
    if not path.is_dir() or is_zarr(path):
        return [_describe(path, (path,), mpp, series)]
    files = [file for file in path.iterdir() if file.suffix.lower() in SLIDE_SUFFIXES]
    groups = group_files(files)
    if not groups:
        below = sorted(shown(p.name) for p in path.iterdir() if p.is_dir())
        inside = f"; subfolders are not looked into: {listed(below)}" if below else ""
        raise SlideError(
            f"{path}: no slide in this folder; looked for {', '.join(SLIDE_SUFFIXES)}{inside}"
        )
    return [_describe(group.path, group.members, mpp, series) for group in groups]


def _describe(
    path: Path, members: tuple[Path, ...], mpp: float | None, series: str | None
) -> Description:
    refusal, unusable = "", None
    try:
        slide = open_slide(path, mpp, series=series)
    except PixelSizeError as error:
        refusal, unusable = str(error), error
    except SlideError as error:
        refusal = str(error)
    if refusal:
        try:
            with _silent():
                slide = open_slide(path, mpp or _STAND_IN_MPP, series=series, force=True)
        except SlideError:
            return Description(path, members, refusal)
    with slide:
        found = appearance(*sample_patches(slide, None))
        looks = "" if found is None else f"{found.reason}. {found.way_out}"
        if found is not None and found.is_certain and not refusal:
            refusal = f"{path}: it looks like {looks}"
        size: float | None
        if unusable is None:
            size, source = slide.mpp, slide.mpp_source
        else:
            size = None if unusable.stated is None else sum(unusable.stated) / 2
            source = unusable.source
        return Description(
            path=path,
            members=members,
            refusal=refusal.removeprefix(f"{path}: "),
            choice=_choice(slide, series),
            reader=slide.reader,
            vendor=slide.reader.partition(":")[2] if slide.reader.startswith("openslide") else "",
            images=slide.images,
            levels=slide.level_dimensions
            if isinstance(slide, PyramidSlide)
            else (slide.dimensions,),
            mpp=size,
            mpp_source=source,
            bounds_offset=slide.bounds_offset,
            associated=slide.associated,
            other_files=slide.other_files,
            warnings=slide.warnings,
            icc_profile_bytes=slide.icc_profile_bytes,
            appearance=looks,
            dimensions=slide.dimensions,
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warning that a stand-in for the pixel size differs from the file's own."""
    logger = logging.getLogger(pixel_size.__name__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _choice(slide: Slide, series: str | None) -> str:
    read = next((image for image in slide.images if image.is_read), None)
    if read is None or len(slide.images) == 1:
        return "the scan, the one image of the file"
    if series is not None:
        return f"image {read}, since --series asks for it"
    scans = sum(image.kind == "scan" for image in slide.images)
    if scans == 1:
        return f"image {read}, the only one that the file does not call a label or an overview"
    return f"image {read}, the largest of {scans} scans"
