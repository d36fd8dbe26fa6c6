"""Tiles: how a slide is divided, and which tile a nucleus belongs to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from lymphinfer.slides.area import Area, Tissue

Box = tuple[int, int, int, int]

TRIM_PX = 64
"""Trimmed cores begin and end on multiples of it: every detector's pixel grid fits."""
LEAST_TRIM = 0.1
"""Share of a side that trimming must save. Tiles of one size share a compiled network and its
memory, which cost as much as a tenth of a tile."""


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
    index : int
        Position in the full grid, row-major; does not depend on tissue.
    row, col : int
        Position in the full grid.
    core : tuple of int
        (x0, y0, x1, y1) on the working grid. The cores of a grid partition it.
    halo : tuple of int
        The core and a margin around it; may reach beyond the slide.
    last_row, last_col : bool
        Whether the core ends at the slide's far edge, which it then owns.
    """

    index: int
    row: int
    col: int
    core: Box
    halo: Box
    last_row: bool = False
    last_col: bool = False

    def owns(self, x_work: ArrayLike, y_work: ArrayLike) -> NDArray[np.bool_]:
        """Whether points lie in the core: half-open, closed at the slide's far edges.

        For any point of the slide this is true for exactly one tile of a grid.

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
        ``shard-RRRR-CCCC``, from the block's position: the same whatever the tissue.
    tiles : tuple of Tile
        Its tiles, row-major; never empty.
    """

    id: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class TileGrid:
    """The division of a slide's working grid into tiles.

    Attributes
    ----------
    dimensions_level0 : tuple of int
        The slide's (width, height), level-0 px.
    mpp_slide, mpp_work : float
        Pixel size of level 0 and of the working grid, µm/px.
    tile_px : int
        Side of a core, working px.
    halo_px : int
        Margin around the core, working px.

    Raises
    ------
    ValueError
        If a size is not positive, or the halo negative.

    Examples
    --------
    >>> grid = TileGrid((2000, 1000), 0.25, 0.5, tile_px=512, halo_px=64)
    >>> grid.dimensions, [tile.core for tile in grid]
    ((1000, 500), [(0, 0, 512, 500), (512, 0, 1000, 500)])
    >>> next(iter(grid)).halo
    (-64, -64, 576, 564)
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

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of tiles."""
        width, height = self.dimensions
        return -(-height // self.tile_px), -(-width // self.tile_px)

    def __len__(self) -> int:
        rows, cols = self.shape
        return rows * cols

    def __iter__(self) -> Iterator[Tile]:
        rows, cols = self.shape
        return (self.tile(row, col) for row in range(rows) for col in range(cols))

    def tile(self, row: int, col: int) -> Tile:
        """Return the tile at a row and a column.

        Raises
        ------
        IndexError
            If there is none.
        """
        rows, cols = self.shape
        if not (0 <= row < rows and 0 <= col < cols):
            raise IndexError(f"no tile ({row}, {col}) in a grid of {rows} x {cols}")
        width, height = self.dimensions
        x0, y0 = col * self.tile_px, row * self.tile_px
        x1, y1 = min(x0 + self.tile_px, width), min(y0 + self.tile_px, height)
        core = x0, y0, x1, y1
        index = row * cols + col
        last = row == rows - 1, col == cols - 1
        return Tile(index, row, col, core, self._halo(core), *last)

    def _halo(self, core: Box) -> Box:
        x0, y0, x1, y1 = core
        return x0 - self.halo_px, y0 - self.halo_px, x1 + self.halo_px, y1 + self.halo_px

    def tiles(
        self,
        tissue: Tissue | None = None,
        min_fraction: float = 0.0,
        roi: Area | None = None,
    ) -> list[Tile]:
        """Tiles whose core has more than `min_fraction` tissue and meets the region, row-major.

        Without a mask or a region that condition falls away. A core is trimmed to the rectangle
        around its tissue (whose mask has a margin), outward to multiples of `TRIM_PX`, in
        directions in which that saves more than `LEAST_TRIM`.
        """
        every = list(self)
        boxes = np.array([tile.core for tile in every], dtype=np.float64) * self.downsample
        kept = np.ones(len(every), bool) if roi is None else roi.meets(boxes)
        if tissue is not None:
            x0, y0, x1, y1 = boxes.T
            kept &= tissue.fraction_in(x0, y0, x1 - x0, y1 - y0) > min_fraction
        tiles = [tile for tile, keep in zip(every, kept, strict=True) if keep]
        return tiles if tissue is None else [self._trimmed(tile, tissue) for tile in tiles]

    def tiles_of(self, x_work: ArrayLike, y_work: ArrayLike) -> list[Tile]:
        """Tiles that own at least one of some points, row-major, trimmed to those as `tiles` does.

        Parameters
        ----------
        x_work, y_work : array_like of float, (N,)
            Points of the slide on the working grid, px.
        """
        x, y = np.asarray(x_work, np.float64), np.asarray(y_work, np.float64)
        rows, cols = self.shape
        # Points on the far edges belong to the last tiles.
        col = np.clip(x // self.tile_px, 0, cols - 1).astype(np.int64)
        row = np.clip(y // self.tile_px, 0, rows - 1).astype(np.int64)
        index, owner = np.unique(row * cols + col, return_inverse=True)
        low, high = (np.empty((len(index), 2)) for _ in range(2))
        for axis, values in enumerate((x, y)):
            low[:, axis], high[:, axis] = np.inf, -np.inf
            np.minimum.at(low[:, axis], owner, values)
            np.maximum.at(high[:, axis], owner, values)
        return [
            # A core is open at its end, and trimmed to whole steps: a point needs the pixel's end.
            self._cut(self.tile(*divmod(int(i), cols)), (*low[n], *(np.floor(high[n]) + 1)))
            for n, i in enumerate(index)
        ]

    def _trimmed(self, tile: Tile, tissue: Tissue) -> Tile:
        x0, y0, x1, y1 = tile.core
        box = tissue.bounds_in(*(np.array([x0, y0, x1 - x0, y1 - y0]) * self.downsample))
        if box is None:
            return tile
        left, top, right, bottom = (np.array(box) / self.downsample).tolist()
        return self._cut(tile, (left, top, right, bottom))

    def _cut(self, tile: Tile, box: tuple[float, float, float, float]) -> Tile:
        """A tile cut to a rectangle of the working grid, outward to multiples of `TRIM_PX`."""
        x0, y0, x1, y1 = tile.core
        left, top, right, bottom = (edge / TRIM_PX for edge in box)
        across = max(x0, math.floor(left) * TRIM_PX), min(x1, math.ceil(right) * TRIM_PX)
        down = max(y0, math.floor(top) * TRIM_PX), min(y1, math.ceil(bottom) * TRIM_PX)
        if across[1] - across[0] > (1 - LEAST_TRIM) * (x1 - x0):
            across = x0, x1
        if down[1] - down[0] > (1 - LEAST_TRIM) * (y1 - y0):
            down = y0, y1
        core = across[0], down[0], across[1], down[1]
        return replace(
            tile,
            core=core,
            halo=self._halo(core),
            last_row=tile.last_row and core[3] == y1,
            last_col=tile.last_col and core[2] == x1,
        )

    def shards(self, tiles: Iterable[Tile], tiles_per_shard: int = 16) -> list[Shard]:
        """Group tiles by the square block of the full grid in which they lie.

        Parameters
        ----------
        tiles : iterable of Tile
            Tiles of this grid, such as those with tissue.
        tiles_per_shard : int
            The most tiles a shard holds; its square root, rounded down, is the block's side.

        Returns
        -------
        list of Shard
            Only blocks that hold a tile, row-major.

        Raises
        ------
        ValueError
            If `tiles_per_shard` is less than 1.
        """
        if tiles_per_shard < 1:
            raise ValueError(f"a shard holds at least one tile, got {tiles_per_shard}")
        side = math.isqrt(tiles_per_shard)
        blocks: dict[tuple[int, int], list[Tile]] = {}
        for tile in sorted(tiles, key=lambda tile: tile.index):
            blocks.setdefault((tile.row // side, tile.col // side), []).append(tile)
        return [
            Shard(f"shard-{row:04d}-{col:04d}", tuple(blocks[row, col]))
            for row, col in sorted(blocks)
        ]
