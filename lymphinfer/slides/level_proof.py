"""Whether a small image shows what a large one shows, pixel for pixel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import SlideError
from lymphinfer.slides.pyramid import level_downsample

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]

_WINDOW_PX = 96
_FINE_PX = 2048
_WINDOWS_A_SIDE = 5
_MOST_TEXTURED = 16
# On a scale of 0 to 255: below it a window shows nothing by which to compare.
_TEXTURE = 3.0
# Levels of a scanner reach .9 and more, sharpened and compressed as they may be; other tissue
# stays below .3 but where an edge happens to lie at the same place.
_LEAST_CORRELATION = 0.5
_MOST_COLOUR_DIFFERENCE = 20.0
_SHARE = 0.8


class Level(Protocol):
    """Anything that has a size and reads a rectangle."""

    width: int
    height: int

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """RGB, (height, width, 3)."""


# Whether two images of a file show the same, which each opening would ask again.
_known: dict[Hashable, bool] = {}
_MOST_KNOWN = 10_000


def remembered(key: Hashable, ask: Callable[[], bool]) -> bool:
    """Answer a question about a file once in the life of the process.

    Parameters
    ----------
    key : hashable
        The file, its version, and which of its images.
    ask : callable
        Answers it; a `SlideError` counts as no.
    """
    if key not in _known:
        try:
            answer = ask()
        except SlideError:
            answer = False
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = answer
    return _known[key]


def shows_the_same(fine: Level, coarse: Level) -> bool:
    """Compare an image, window by window, with a larger one of the same proportions, shrunk.

    Parameters
    ----------
    fine, coarse : Level
        Of the same proportions; the same size is allowed.

    Returns
    -------
    bool
        Whether colours agree in every window, and structure in four of five that have any. Where
        nothing can be decoded the answer is False.
    """
    dx, dy = level_downsample((fine.width, fine.height), (coarse.width, coarse.height))
    correlations, differences = [], []
    for box in _windows(coarse, max(dx, dy)):
        pair = _pair(fine, coarse, box, (dx, dy))
        if pair is None:
            continue
        small, shrunk = pair
        differences.append(float(np.abs(small.mean((0, 1)) - shrunk.mean((0, 1))).max()))
        grey = [image.mean(axis=-1) for image in pair]
        grey = [image - image.mean() for image in grey]
        spread = [float(image.std()) for image in grey]
        if max(spread) >= _TEXTURE:
            product = float((grey[0] * grey[1]).mean())
            correlations.append(product / max(spread[0] * spread[1], 1e-6))
    if not differences:
        return False
    agree = np.mean(np.array(differences) <= _MOST_COLOUR_DIFFERENCE) >= _SHARE
    alike = not correlations or np.mean(np.array(correlations) >= _LEAST_CORRELATION) >= _SHARE
    return bool(agree and alike)


def _windows(coarse: Level, downsample: float) -> Iterator[Box]:
    """Rectangles of the coarse image, over all of it, the textured ones first."""
    side = int(max(16, min(_WINDOW_PX, _FINE_PX / downsample)))
    w, h = min(side, coarse.width), min(side, coarse.height)
    count = _WINDOWS_A_SIDE
    xs = sorted({round(i * (coarse.width - w) / max(count - 1, 1)) for i in range(count)})
    ys = sorted({round(i * (coarse.height - h) / max(count - 1, 1)) for i in range(count)})
    found = []
    for y in ys:
        for x in xs:
            try:
                texture = float(coarse.read(x, y, w, h).mean(axis=-1).std())
            except SlideError:
                continue
            found.append((texture, (x, y, w, h)))
    # Stable: windows without texture keep the order of the image.
    found.sort(key=lambda item: -item[0])
    yield from (box for _, box in found[:_MOST_TEXTURED])


def _pair(
    fine: Level, coarse: Level, box: Box, downsample: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """A window of both at the coarse size, without the finest detail, or None if undecodable."""
    from PIL import Image
    from scipy import ndimage

    x, y, w, h = box
    dx, dy = downsample
    left, top = int(x * dx), int(y * dy)
    right, bottom = int(np.ceil((x + w) * dx)), int(np.ceil((y + h) * dy))
    try:
        small = coarse.read(x, y, w, h)
        large = Image.fromarray(fine.read(left, top, right - left, bottom - top))
    except SlideError:
        return None
    inner = (x * dx - left, y * dy - top, (x + w) * dx - left, (y + h) * dy - top)
    shrunk = np.asarray(large.resize((w, h), Image.Resampling.BOX, box=inner))
    # Scanners shrink by dropping pixels, by averaging or by filters that sharpen.
    both = [ndimage.gaussian_filter(image.astype(np.float32), (1.5, 1.5, 0))
            for image in (small, shrunk)]  # fmt: skip
    return both[0], both[1]
