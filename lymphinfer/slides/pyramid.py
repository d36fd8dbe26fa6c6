"""Reading at any pixel size from a pyramid of levels."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from lymphinfer.slides.slide import RGB, Slide

if TYPE_CHECKING:
    from PIL.Image import Image

# A level this much coarser than asked for is still good enough to read from.
_LEVEL_TOLERANCE = 1.02
# Source pixels a side that are resampled at once: it bounds memory, and Pillow keeps the box in
# float32, whose error at this size is 1e-4 px.
_BLOCK_PX = 2048
# Drift over the whole slide below which two pixel sizes count as the same.
_SAME_GRID_PX = 0.02


def level_downsample(level0: tuple[int, int], level: tuple[int, int]) -> tuple[float, float]:
    """Level-0 px per px of a level, along x and y.

    Writers cut the last pixels off, so that 100,003 px become 25,000 at a downsample of 4 and not
    of 4.00012: a whole number that explains both sides is taken as the truth.
    """
    ratios = level0[0] / level[0], level0[1] / level[1]
    whole = round(max(ratios))
    if all(abs(n / whole - m) < 1 for n, m in zip(level0, level, strict=True)):
        return float(whole), float(whole)
    return ratios


class PyramidSlide(Slide):
    """A slide of one or more levels; a format only has to read a rectangle of a level.

    Attributes
    ----------
    level_dimensions : tuple of (int, int)
        (width, height) of each level, px, level 0 first.
    """

    level_dimensions: tuple[tuple[int, int], ...]
    _closed: bool = False

    @abstractmethod
    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Image:
        """Read pixels of a level, RGB, white outside the level; any rectangle may be asked for."""

    def _best_level(self, scale: float) -> tuple[int, float, float]:
        """Index and downsamples of the coarsest level that is no coarser than `scale`."""
        best = (0, 1.0, 1.0)
        for index, size in enumerate(self.level_dimensions):
            dx, dy = level_downsample(self.dimensions, size)
            if max(best[1:]) < max(dx, dy) <= scale * _LEVEL_TOLERANCE:
                best = (index, dx, dy)
        return best

    def read_region(self, x: int, y: int, width: int, height: int, mpp: float) -> RGB:
        """Read a rectangle of the slide's pixel grid at a pixel size; see `Slide.read_region`."""
        if width < 1 or height < 1 or not mpp > 0:
            raise ValueError(f"an empty region: {width} x {height} px at {mpp} µm/px")
        if self._closed:
            raise ValueError(f"{self.path}: the slide is closed")
        scale = mpp / self.mpp
        level, dx, dy = self._best_level(scale)
        level_width, level_height = self.level_dimensions[level]
        rx, ry = scale / dx, scale / dy
        if abs(rx - 1) * level_width < _SAME_GRID_PX and abs(ry - 1) * level_height < _SAME_GRID_PX:
            rx = ry = 1.0
        step_x, step_y = (max(1, int(_BLOCK_PX / max(r, 1.0))) for r in (rx, ry))
        out = np.full((height, width, 3), 255, dtype=np.uint8)
        slide_width, slide_height = self.dimensions_at(mpp)
        right, bottom = min(x + width, slide_width), min(y + height, slide_height)
        for y0 in range(max(y, 0), bottom, step_y):
            for x0 in range(max(x, 0), right, step_x):
                w, h = min(step_x, right - x0), min(step_y, bottom - y0)
                block = self._block(level, x0, y0, w, h, rx, ry)
                out[y0 - y : y0 - y + h, x0 - x : x0 - x + w] = np.asarray(block)
        return out

    def _block(self, level: int, x: int, y: int, w: int, h: int, rx: float, ry: float) -> Image:
        """Read a block of the wanted grid; `rx`, `ry`: source px per wanted px."""
        if rx == 1.0 and ry == 1.0:
            return self._read_level(level, x, y, w, h)
        from PIL import Image

        # Every source pixel under the filter is read, so that a pixel comes out the same in
        # whichever block it lies: bicubic reaches 2 px, or 2 wanted px where it shrinks.
        margin_x, margin_y = (math.ceil(2 * max(r, 1.0)) + 1 for r in (rx, ry))
        x0, y0 = math.floor(x * rx) - margin_x, math.floor(y * ry) - margin_y
        x1, y1 = math.ceil((x + w) * rx) + margin_x, math.ceil((y + h) * ry) + margin_y
        source = self._read_level(level, x0, y0, x1 - x0, y1 - y0)
        box = (x * rx - x0, y * ry - y0, (x + w) * rx - x0, (y + h) * ry - y0)
        return source.resize((w, h), Image.Resampling.BICUBIC, box=box)
