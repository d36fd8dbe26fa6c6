"""Where a picture shows bare glass, and what colour the glass has there.

Glass may have any level and tint, may darken towards the corners, and may differ from one camera
field to the next. What it never has is structure: tissue, mucus and even fat vary by several levels
from one pixel to the next where glass varies by half of one. Glass is thus looked for among the
flat areas of a picture: the palest and least pink of them, and all that are like it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]
Kind = TypeVar("Kind", Mask, Image)

_LONGEST_PX = 2048
"""A larger picture is shrunk to look for glass: its colour changes slowly."""
_FLAT = (1.0 / 255, 2.5 / 255)
"""Limits of the local variation of what is flat; the picture's own noise decides between them."""
_BLANK = 254.5 / 255
_MIN_LEVEL = 0.5
_MAX_SATURATION = 0.26
_MAX_PINK = 0.12
_SURELY_NOT_PINK = 0.03
_ALIKE_PINK = 0.025
_ALIKE_CHROMA = 0.12
_FIELD_PINK = 0.08
_FIELD_SHARE = 0.01
_ALIKE_LEVEL = 0.65
_MIN_SHARE = 0.002
_MIN_SHARE_PINK = 0.03
_MIN_PX = 6
_SEEDS = 20
_SIGMAS_PX = (2.0, 8.0, 32.0)
_PINK_DRIFT = 0.08
_STEEP = 0.015
"""Change of the glass's pinkness from one pixel to the next."""


@dataclass(frozen=True, eq=False)
class Glass:
    """Bare glass of a picture.

    Attributes
    ----------
    where : ndarray of bool, (rows, columns)
        Pixels that surely are glass; others may be.
    white : ndarray of float32, (rows, columns, 3)
        The colour that glass has at each pixel, beneath tissue too; 0 to 1.
    is_steep : bool
        Whether it turns pinker within so short a way, as at the seams of unevenly lit camera
        fields, that pale tissue cannot be told from it there.
    """

    where: Mask
    white: Image
    is_steep: bool = False


def find_glass(image: Image, seen: Mask) -> Glass | None:
    """Find the glass of a coarse picture.

    Parameters
    ----------
    image : ndarray of float32, (rows, columns, 3)
        RGB, 0 to 1, at several µm/px.
    seen : ndarray of bool, (rows, columns)
        Pixels that show anything: not the black around a scan.

    Returns
    -------
    Glass, or None where no glass can be told from tissue
    """
    factor = -(-max(image.shape[:2]) // _LONGEST_PX)
    small, small_seen = _reduced(image, seen, factor)
    flat = small_seen & (_variation(small) <= _flat_limit(small, small_seen))
    where = _alike(small, flat, int(small_seen.sum()))
    if where is None:
        return None
    white = _white(small, where)
    is_steep = _is_steep(white)
    if factor > 1:
        white = _enlarged(white, factor, image.shape[:2])
        where = _enlarged(where, factor, image.shape[:2])
    return Glass(where & seen, white, is_steep)


def pinkness(color: Image) -> Image:
    """How far green lies below both red and blue, as it does in stained tissue; may be negative."""
    red, green, blue = color[..., 0], color[..., 1], color[..., 2]
    return np.asarray(np.minimum(red, blue) - green)


def _reduced(image: Image, seen: Mask, factor: int) -> tuple[Image, Mask]:
    """Means of blocks; a block that is not wholly seen is not seen."""
    if factor == 1:
        return image, seen
    rows, columns = (n // factor * factor for n in image.shape[:2])
    blocks = image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor, 3)
    whole = seen[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
    return blocks.mean(axis=(1, 3), dtype=np.float32), np.asarray(whole.all(axis=(1, 3)))


def _enlarged(array: Kind, factor: int, shape: tuple[int, ...]) -> Kind:
    rows, columns = (
        np.minimum(np.arange(n) // factor, m - 1) for n, m in zip(shape, array.shape, strict=False)
    )
    enlarged: Kind = array[rows][:, columns]
    return enlarged


def _variation(image: Image) -> Image:
    """Deviation from the mean of 3 x 3 pixels: a slow gradient has none."""
    from scipy import ndimage

    worst = np.zeros(image.shape[:2], np.float32)
    for channel in np.moveaxis(image, -1, 0):
        off = (channel - ndimage.uniform_filter(channel, 3)) ** 2
        np.maximum(worst, ndimage.uniform_filter(off, 3), out=worst)
    return np.sqrt(np.maximum(worst, 0))


def _flat_limit(image: Image, seen: Mask) -> float:
    if not seen.any():
        return _FLAT[0]
    quiet = float(np.percentile(_variation(image)[seen], 5))
    return float(np.clip(3 * quiet, *_FLAT))


def _alike(image: Image, flat: Mask, seen_px: int) -> Mask | None:
    """The palest, least pink flat area that can be glass, and all flat areas like it."""
    from scipy import ndimage

    labels, count = ndimage.label(flat)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if not count or sizes.max() < _MIN_PX:
        return None
    which = np.arange(1, count + 1)
    boxes = ndimage.find_objects(labels)
    colors = np.stack(
        [ndimage.mean(image[..., c], labels, which) for c in range(3)], axis=-1
    ).astype(np.float32)
    level = colors.max(axis=-1)
    pink = pinkness(colors) / np.maximum(level, 1e-3)
    saturation = (level - colors.min(axis=-1)) / np.maximum(level, 1e-3)
    blank = colors.min(axis=-1) > _BLANK
    able = (sizes >= _MIN_PX) & (level >= _MIN_LEVEL)
    able &= (saturation <= _MAX_SATURATION) & (pink <= _MAX_PINK)
    # Pure white is glass in an overexposed picture, else a place that no camera has seen: these
    # have straight edges. Beside overexposed glass, what is pink is pale tissue.
    filled = np.isin(labels, which[blank])
    real = able & ~blank & ((pink <= _SURELY_NOT_PINK) | _is_straight(filled))
    score = colors[:, 1] - 2 * np.maximum(pink, 0) - blank * 10
    for seed in np.argsort(-np.where(real | (able & blank), score, -np.inf))[:_SEEDS]:
        if not (real | (able & blank))[seed]:
            break
        relative = colors / np.maximum(colors[seed], 1e-3)
        high = relative.max(axis=-1)
        redder = pinkness(relative) / np.maximum(high, 1e-3)
        alike = redder <= _FIELD_PINK
        alike &= (high - relative.min(axis=-1)) / np.maximum(high, 1e-3) <= _ALIKE_CHROMA
        alike &= (high >= _ALIKE_LEVEL) & (sizes >= _MIN_PX)
        # Pinker than the seed is pale tissue, but for a camera field: these have straight edges.
        for area in np.flatnonzero(alike & (redder > _ALIKE_PINK)):
            alike[area] = sizes[area] >= _FIELD_SHARE * seen_px and _is_straight(
                np.pad(labels[boxes[area]] == area + 1, 1)
            )
        alike |= blank
        wanted = _MIN_SHARE if pink[seed] <= _SURELY_NOT_PINK else _MIN_SHARE_PINK
        if sizes[alike].sum() >= wanted * seen_px:
            return np.asarray(np.concatenate([[False], alike])[labels])
    return None


def _is_straight(mask: Mask) -> bool:
    """Whether most of a mask's edge runs along rows and columns; True of an empty mask."""
    edges = straight = 0
    for turned in (mask, mask.T):
        for edge in (turned[1:] & ~turned[:-1], turned[:-1] & ~turned[1:]):
            edges += int(edge.sum())
            straight += int((edge[:, 4:] & edge[:, 2:-2] & edge[:, :-4]).sum())
    return straight >= 0.5 * edges


def _white(image: Image, where: Mask) -> Image:
    """Colour of the glass everywhere: a smooth surface, and near glass what it really is there."""
    from scipy import ndimage

    log = np.log(np.maximum(image, 1e-2))
    unfilled = where & (image.min(axis=-1) <= _BLANK)
    where = unfilled if unfilled.any() else where
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in where.shape)
    y, x = (np.broadcast_to(a, where.shape) for a in (rows[:, None], columns[None, :]))
    kept = _thinned(where)
    surface = np.zeros(image.shape, np.float32)
    terms = [x, y, x * x, x * y, y * y]
    design = np.stack([term[kept] for term in terms], axis=-1).astype(np.float64)
    for c in range(3):
        value = log[..., c][kept].astype(np.float64)
        constant, weights = _fit(design, value)
        plane = np.float32(constant) + sum(
            np.float32(w) * term for w, term in zip(weights, terms, strict=True)
        )
        # Far from any glass the surface is a guess: it stays within what was seen.
        surface[..., c] = np.clip(plane, value.min(), value.max())
    rest = log - surface
    # A blurred edge of tissue can be flat enough to have been followed.
    where = where & (pinkness(rest) <= _PINK_DRIFT)
    rest = np.where(where[..., None], rest, 0)
    weight = where.astype(np.float32)
    correction = np.zeros_like(surface)
    for sigma in reversed(_SIGMAS_PX):
        near = ndimage.gaussian_filter(weight, sigma, mode="constant")[..., None]
        total = ndimage.gaussian_filter(rest, (sigma, sigma, 0), mode="constant")
        correction = (total + 0.01 * correction) / (near + 0.01)
    return np.asarray(np.exp(surface + correction), np.float32)


def _is_steep(white: Image) -> bool:
    if min(white.shape[:2]) < _MIN_PX:
        return False
    steps = np.gradient(pinkness(white) / white.max(axis=-1))
    return bool(np.percentile(np.hypot(*steps), 99) > _STEEP)


def _thinned(where: Mask, most: int = 20_000) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """At most so many pixels of a mask, evenly."""
    found = np.flatnonzero(where)
    found = found[:: -(-len(found) // most)]
    rows, columns = np.unravel_index(found, where.shape)
    return rows, columns


def _fit(
    design: NDArray[np.float64], value: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Constant and weights; what the glass does not show (its far side) is taken as constant."""
    used = np.ones(len(value), bool)
    constant, weights = float(np.median(value)), np.zeros(design.shape[1])
    for _ in range(3):
        x, y = design[used], value[used]
        mean = x.mean(axis=0)
        centered = x - mean
        normal = centered.T @ centered / len(y) + 1e-3 * np.eye(design.shape[1])
        weights = np.linalg.solve(normal, centered.T @ (y - y.mean()) / len(y))
        constant = float(y.mean() - mean @ weights)
        off = np.abs(value - constant - design @ weights)
        used = off <= max(0.02, 3 * float(np.median(off)))
    return constant, weights
