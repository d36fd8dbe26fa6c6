"""What is stained tissue, by colour: neither glass, nor ink, nor the dark beyond the glass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lymphinfer.slides.glass import Glass, find_glass, pinkness

Mask = NDArray[np.bool_]
Channels = NDArray[np.float32]

# All on a scale of 0 to 1 after the glass has been made white.
_TISSUE_CHROMA = (0.03, 0.04)
_PALE_PINK = -0.005
_DEEP_CHROMA = 0.2
_BLACK = 0.22
_BLACK_CHROMA = 0.15
_GREY_SATURATION = 0.18
_BLACK_SPREAD_PX = 2
_INK_SPREAD_PX = 4


def tissue_pixels(rgb: NDArray[np.uint8]) -> tuple[Mask, Glass | None]:
    """Classify the pixels of a coarse H&E image.

    Eosin and haematoxylin absorb green above all, so that tissue is pink to violet even where it
    is pale. A pixel is tissue if it is coloured beyond the glass's own noise and not ink. The
    threshold has fixed limits and does not come from the histogram's valley (Otsu), which would
    cut an image that is all tissue in two. Without any glass all that is neither ink nor black is
    tissue.

    Parameters
    ----------
    rgb : ndarray of uint8, (rows, columns, 3)
        The image, at several µm/px.

    Returns
    -------
    tissue : ndarray of bool, (rows, columns)
        True on tissue.
    glass : Glass or None
        What it was told from; None where no glass was found.
    """
    image: Channels = rgb.astype(np.float32) / np.float32(255)
    dark = _black(image.max(axis=-1), _span(image))
    glass = find_glass(image, ~dark)
    if glass is None:
        return np.asarray(~dark & ~_ink(image, image.max(axis=-1), _span(image))), None
    image = np.minimum(image / glass.white, np.float32(1))
    chroma = _span(image)
    noise = chroma[glass.where]
    median = float(np.median(noise))
    spread = 1.4826 * float(np.median(np.abs(noise - median)))
    threshold = float(np.clip(median + 3 * spread, *_TISSUE_CHROMA))
    ink = _ink(image, image.max(axis=-1), chroma)
    # Where the glass shades faster than its colour could be followed it looks yellow or blue; pale
    # tissue never lacks the pink.
    stained = (pinkness(image) > _PALE_PINK) | (chroma > _DEEP_CHROMA)
    return np.asarray((chroma > threshold) & stained & ~dark & ~ink), glass


def _black(high: Channels, chroma: Channels) -> Mask:
    """Black, and the grey with which it passes into glass."""
    from scipy import ndimage

    black = (high < _BLACK) & (chroma < _BLACK_CHROMA)
    if not black.any():
        return np.asarray(black)
    grey = chroma < _GREY_SATURATION * high
    rims = ndimage.binary_dilation(
        black, structure=np.ones((3, 3)), iterations=_BLACK_SPREAD_PX, mask=grey
    )
    return np.asarray(black | rims)


def _span(image: Channels) -> Channels:
    """Largest minus smallest channel, 0 for grey."""
    return np.asarray(image.max(axis=-1) - image.min(axis=-1), dtype=np.float32)


def _ink(image: Channels, high: Channels, chroma: Channels) -> Mask:
    """Pen marks: any green, saturated blue and red, and their paler rims."""
    from scipy import ndimage

    saturation = chroma / np.maximum(high, 1e-3)
    hue = _hue(image, high, chroma)
    green = (hue > 70) & (hue < 190)
    blue_hue = (hue >= 190) & (hue < 248)
    red_hue = (hue >= 350) | (hue <= 20)
    strong = (
        (green & (saturation > 0.25))
        | (blue_hue & (saturation > 0.65))
        | (red_hue & (saturation > 0.75))
    )
    pale = green | (blue_hue & (saturation > 0.06)) | (red_hue & (saturation > 0.2))
    if not strong.any():
        return np.asarray(green)
    rims = ndimage.binary_dilation(
        strong, structure=np.ones((3, 3)), iterations=_INK_SPREAD_PX, mask=pale
    )
    return np.asarray(green | strong | rims)


def _hue(image: Channels, high: Channels, chroma: Channels) -> Channels:
    """Hue in degrees, 0 to 360; 0 for grey."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    span = np.maximum(chroma, 1e-6)
    hue = np.where(
        high == red,
        (green - blue) / span % 6,
        np.where(high == green, (blue - red) / span + 2, (red - green) / span + 4),
    )
    return np.asarray(60 * hue, dtype=np.float32)
