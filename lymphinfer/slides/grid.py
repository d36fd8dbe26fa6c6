"""Tiles: which pixels one sees, and which nuclei it owns; `lymphinfer.slides.cover` lays them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Box = tuple[int, int, int, int]


def grid_dimensions(
    dimensions_level0: tuple[int, int], mpp_level0: float, mpp: float
) -> tuple[int, int]:
    """(width, height) in pixels of the grid at `mpp` that covers a slide of that level-0 size."""
    # A slide of 1000 px at 0.25 has 500 px at 0.5, not 501 by a rounding error of the division.
    width, height = (max(1, math.ceil(n * mpp_level0 / mpp - 1e-6)) for n in dimensions_level0)
    return width, height


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile. Its core is what it owns, its halo what it sees.

    Attributes
    ----------
    core : tuple of int
        (x0, y0, x1, y1) on the working grid. Cores of a slide do not overlap.
    halo : tuple of int
        The core and at least a margin around it; may reach beyond the slide.
    last_row, last_col : bool
        Whether the core ends at the slide's far edge, which it then owns.
    """

    core: Box
    halo: Box
    last_row: bool = False
    last_col: bool = False

    def owns(self, x_work: ArrayLike, y_work: ArrayLike) -> NDArray[np.bool_]:
        """Whether points lie in the core: half-open, closed at the slide's far edges.

        For any point of a slide this is true for at most one of its tiles.

        Parameters
        ----------
        x_work, y_work : array_like of float, same shape
            Points on the working grid, px.

        Returns
        -------
        ndarray of bool
            Of the points' shape.
        """
        x, y = np.asarray(x_work), np.asarray(y_work)
        x0, y0, x1, y1 = self.core
        left_of_end = (x <= x1) if self.last_col else (x < x1)
        above_end = (y <= y1) if self.last_row else (y < y1)
        return np.asarray((x >= x0) & left_of_end & (y >= y0) & above_end)


@dataclass(frozen=True, slots=True)
class Shard:
    """Neighbouring tiles that are run and stored together.

    Attributes
    ----------
    id : str
        ``shard-RRRR-CCCC``, from its place.
    tiles : tuple of Tile
        Its tiles, never empty; those that see as much are in a row.
    """

    id: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class TileGrid:
    """The working grid of a slide, on which its tiles lie.

    Attributes
    ----------
    dimensions_level0 : tuple of int
        The slide's (width, height), level-0 px.
    mpp_slide, mpp_work : float
        Pixel size of level 0 and of the working grid, µm/px.
    tile_px : int
        Side of the largest square that a tile owns, working px.
    halo_px : int
        Margin around the core, working px.

    Raises
    ------
    ValueError
        If a size is not positive, or the halo negative.

    Examples
    --------
    >>> grid = TileGrid((2000, 1000), 0.25, 0.5, tile_px=512, halo_px=64)
    >>> tile = grid.tile((512, 0, 1024, 512))
    >>> grid.dimensions, tile.core, tile.halo
    ((1000, 500), (512, 0, 1000, 500), (448, -64, 1064, 564))
    """

    dimensions_level0: tuple[int, int]
    mpp_slide: float
    mpp_work: float
    tile_px: int = 1024
    halo_px: int = 64

    def __post_init__(self) -> None:
        sizes = (*self.dimensions_level0, self.mpp_slide, self.mpp_work, self.tile_px)
        if min(sizes) <= 0 or self.halo_px < 0:
            raise ValueError(f"a tile grid needs positive sizes, got {self}")

    @property
    def downsample(self) -> float:
        """Level-0 px per working px."""
        return self.mpp_work / self.mpp_slide

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height) of the working grid, px."""
        return grid_dimensions(self.dimensions_level0, self.mpp_slide, self.mpp_work)

    def tile(self, box: Box) -> Tile:
        """The tile that owns a rectangle of the working grid, as far as the slide goes."""
        width, height = self.dimensions
        x0, y0, x1, y1 = box[0], box[1], min(box[2], width), min(box[3], height)
        margin = self.halo_px
        halo = x0 - margin, y0 - margin, x1 + margin, y1 + margin
        return Tile((x0, y0, x1, y1), halo, y1 == height, x1 == width)
