"""Squares on a slide: what of an area lies in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from lymphinfer.slides.outline import draw

F64 = NDArray[np.float64]
FINENESS = 16


@dataclass(frozen=True)
class Grid:
    """Squares that start at level-0 (0, 0).

    Attributes
    ----------
    side_px : float
        Level-0 px.
    shape : tuple of int
        (rows, columns).
    """

    side_px: float
    shape: tuple[int, int]

    @classmethod
    def over(cls, dimensions: tuple[int, int], side_px: float) -> Grid:
        """Squares that cover a slide of (width, height)."""
        columns, rows = (max(1, int(np.ceil(n / side_px))) for n in dimensions)
        return cls(side_px, (rows, columns))

    def places(self, x: F64, y: F64) -> NDArray[np.intp]:
        """Flat index of the square of each point, level-0 px."""
        rows, columns = self.shape
        row = np.clip((y / self.side_px).astype(np.intp), 0, rows - 1)
        column = np.clip((x / self.side_px).astype(np.intp), 0, columns - 1)
        return row * columns + column

    def sums(self, places: NDArray[np.intp], weights: NDArray[Any] | None = None) -> F64:
        """Sum of each square, flat."""
        size = self.shape[0] * self.shape[1]
        return np.bincount(places, weights, minlength=size).astype(np.float64)

    def shares(self, area: BaseGeometry) -> F64:
        """Share of each square that an area covers, flat; to about 1 % of a square.

        An area is drawn with 16 x 16 points a square.
        """
        rows, columns = self.shape
        fine = (rows * FINENESS, columns * FINENESS)
        mask = draw(area, fine, self.side_px / FINENESS)
        cells = mask.reshape(rows, FINENESS, columns, FINENESS)
        return np.asarray(cells.mean(axis=(1, 3)), np.float64).ravel()
