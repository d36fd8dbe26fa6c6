"""What the tiles and the tissue of a slide may be limited to."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry


class Area(Protocol):
    """An area of a slide, such as `lymphinfer.annotations.Roi`."""

    @property
    def area(self) -> BaseGeometry:
        """Polygon or MultiPolygon, level-0 px."""

    def meets(self, boxes: ArrayLike) -> NDArray[np.bool_]:
        """Which rectangles (N, 4: x0, y0, x1, y1, level-0 px) share a point with it."""

    def mask(self, shape: tuple[int, int], step: float) -> NDArray[np.bool_]:
        """Pixels whose centre lies inside, on a grid of `step` level-0 px from (0, 0)."""


class Tissue(Protocol):
    """Where a slide has tissue, such as `lymphinfer.slides.TissueMask`."""

    def fraction_in(
        self, x: ArrayLike, y: ArrayLike, width: ArrayLike, height: ArrayLike
    ) -> NDArray[np.float64]:
        """Share of tissue in rectangles, level-0 px."""
