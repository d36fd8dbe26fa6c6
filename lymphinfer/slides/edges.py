"""A slide goes on beyond its edges as its mirror image.

Glass surrounds most tissue; where the picture ends in tissue, as a cropped field of view does,
white would be a lie that networks believe: of the lymphocytes within 20 µm of it a quarter more are
called beside a mirror image (BRCA-M2C's val: recall .79 for .56).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lymphinfer.slides.slide import Slide


def read_with_edges(slide: Slide, box: tuple[int, int, int, int], mpp: float) -> NDArray[np.uint8]:
    """Read a rectangle that may reach beyond the slide.

    Parameters
    ----------
    slide : Slide
    box : tuple of int
        (x0, y0, x1, y1) on the grid at `mpp`; it touches the slide.
    mpp : float
        µm/px.

    Returns
    -------
    ndarray of uint8, (y1 - y0, x1 - x0, 3)

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    size = slide.dimensions_at(mpp)
    x0, y0 = max(box[0], 0), max(box[1], 0)
    x1, y1 = min(box[2], size[0]), min(box[3], size[1])
    return mirrored(slide.read_region(x0, y0, x1 - x0, y1 - y0, mpp), box, size)


def mirrored(
    pixels: NDArray[np.uint8], box: tuple[int, int, int, int], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Continue an image beyond its edges by its mirror image.

    Parameters
    ----------
    pixels : ndarray of uint8, (h, w, 3)
        The part of the image within the rectangle.
    box : tuple of int
        Rectangle (x0, y0, x1, y1); may reach beyond the image on any side.
    size : tuple of int
        (width, height) of the image.

    Returns
    -------
    ndarray of uint8, (y1 - y0, x1 - x0, 3)
    """
    x0, y0, x1, y1 = box
    before = max(0, -y0), max(0, -x0)
    after = max(0, y1 - size[1]), max(0, x1 - size[0])
    if not any((*before, *after)):
        return pixels
    margins = [*zip(before, after, strict=True), (0, 0)]
    return np.pad(pixels, margins, mode="symmetric")
