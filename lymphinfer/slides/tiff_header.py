"""What the directories of a TIFF say, without its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lymphinfer.slides.tiff_content import TiffImage, tiff_content


@dataclass(frozen=True)
class TiffHeader:
    """The largest scan of a TIFF, and where its pixels lie.

    Attributes
    ----------
    image : TiffImage
        What `TiffSlide` would read.
    is_ome : bool
        Whether an OME-XML text describes it.
    dtype : str
        Of a sample.
    levels : int
        Of the pyramid.
    end : int
        Byte behind the last of its pixels, those of its levels included.
    """

    image: TiffImage
    is_ome: bool
    dtype: str
    levels: int
    end: int


def read_header(path: Path) -> TiffHeader | None:
    """Read the directories of a TIFF; None for one without an image.

    Parameters
    ----------
    path : Path

    Raises
    ------
    Exception
        Whatever a damaged file leads tifffile into.
    """
    from tifffile import TiffFile

    with TiffFile(path) as tif:
        content = tiff_content(path, tif)
        if content is None:
            return None
        image = content.scan()
        levels = (image.planes, *image.candidates)
        ends = (page_end(page) for planes in levels for page in planes)
        dtype = str(image.planes[0].keyframe.dtype)
        return TiffHeader(image, content.is_ome, dtype, len(levels), max(ends))


def page_end(page: Any) -> int:
    """Byte behind the last of a page's pixels, by its own list of tiles or strips."""
    ends = np.add(page.dataoffsets, page.databytecounts, dtype=np.int64)
    return int(ends.max()) if ends.size else 0
