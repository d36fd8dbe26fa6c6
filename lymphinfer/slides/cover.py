"""The rectangles in which a slide's tissue is computed: few, and with little else in them.

What is computed of a tile is its core and a halo, tissue or not. Equal tiles of a grid, trimmed to
the tissue, are 557 for a microarray of 100 cores where 340 do, with 4 % fewer pixels; on large
pieces of tissue most of them have one size, for each of which a network is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lymphinfer.slides.grid import Box, Shard, Tile, TileGrid

if TYPE_CHECKING:
    from lymphinfer.slides.area import Area, Tissue

CELL_PX = 64
"""Cores begin and end on multiples of it: every detector's pixel grid fits."""
SHARD_PX = 4096
"""Side of a shard: what is lost when a process dies does not grow with large tiles."""
FAR_PX = 512
"""Margin with which a shard's surroundings are read, about; see `lymphinfer.markers.two_scale`."""
TILE_COSTS_PX, SHARD_COSTS_PX = 500_000, 500_000
"""What each costs beside its pixels, in pixels."""
SIZE_COSTS_PX = 1_000_000
"""What a size of tile costs that no other tile has: a network is compiled for each, see
`lymphinfer.runtime`."""

Cells = NDArray[np.bool_]
Size = tuple[int, int]


@dataclass(frozen=True)
class Limit:
    """What a rectangle may hold, and what it costs.

    Attributes
    ----------
    side_px : int
        Of a square of that side a rectangle may have the area, and twice the side.
    margin_px : int
        Around each, computed with it.
    costs_px : int
        What a rectangle costs beside its pixels, in pixels.
    """

    side_px: int
    margin_px: int
    costs_px: int

    def holds(self, width: NDArray[np.int64], height: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether rectangles of so many cells are allowed; a single cell always is."""
        w, h = width * CELL_PX, height * CELL_PX
        twice = 2 * self.margin_px
        within = (w + twice) * (h + twice) <= (self.side_px + twice) ** 2
        within &= np.maximum(w, h) <= 2 * self.side_px
        return within | (np.maximum(width, height) <= 1)

    def cost(self, width: NDArray[np.int64], height: NDArray[np.int64]) -> NDArray[np.float64]:
        """Pixels that rectangles of so many cells cost, cut evenly where they are too large."""
        w, h = (np.maximum(n, 1).astype(np.float64) * CELL_PX for n in (width, height))
        least = np.full(np.shape(w), np.inf)
        for across in (0.75, 1.0, 1.3, 2.0):
            nx = np.ceil(w / (across * self.side_px))
            down = np.clip(self.side_px**2 / (w / nx), CELL_PX, 2 * self.side_px)
            ny = np.ceil(h / down)
            least = np.minimum(least, nx * ny * self._one(w / nx, h / ny))
        costs = np.where(self.holds(width, height), self._one(w, h), least)
        return np.asarray(np.where(width > 0, costs, 0.0))

    def _one(self, w: NDArray[np.float64], h: NDArray[np.float64]) -> NDArray[np.float64]:
        return (w + 2 * self.margin_px) * (h + 2 * self.margin_px) + self.costs_px


def cover(cells: Cells, limit: Limit) -> list[Box]:
    """Rectangles that hold all marked cells and do not overlap.

    Each is cut in two where that costs least, as long as it is too large or the cut pays.

    Parameters
    ----------
    cells : ndarray of bool, (rows, columns)
    limit : Limit

    Returns
    -------
    list of tuple of int
        (x0, y0, x1, y1) in cells, half-open, neighbours beside each other.
    """
    found = []
    left = [(0, 0, cells.shape[1], cells.shape[0])]
    while left:
        box = _around(cells, left.pop())
        if box is None:
            continue
        parts = _cut(cells, box, limit)
        if parts is None:
            found.append(box)
        else:
            left += reversed(parts)
    return found


def _around(cells: Cells, box: Box) -> Box | None:
    """The rectangle around the marked cells of one."""
    x0, y0, x1, y1 = box
    part = cells[y0:y1, x0:x1]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not len(rows):
        return None
    return (
        x0 + int(columns[0]),
        y0 + int(rows[0]),
        x0 + int(columns[-1]) + 1,
        y0 + int(rows[-1]) + 1,
    )


def _cut(cells: Cells, box: Box, limit: Limit) -> tuple[Box, Box] | None:
    """The best two parts of a rectangle, or None where it is best left whole."""
    x0, y0, x1, y1 = box
    part = cells[y0:y1, x0:x1]
    one = np.array([x1 - x0]), np.array([y1 - y0])
    best = float(limit.cost(*one)[0]) if limit.holds(*one)[0] else np.inf
    parts = None
    for axis, marked in enumerate((part, part.T)):
        if marked.shape[1] < 2:
            continue
        costs = _costs(marked, limit)
        at = int(costs.argmin())
        if costs[at] < best:
            best, place = float(costs[at]), at + 1
            parts = (
                ((x0, y0, x0 + place, y1), (x0 + place, y0, x1, y1))
                if axis == 0
                else ((x0, y0, x1, y0 + place), (x0, y0 + place, x1, y1))
            )
    return parts


def _costs(cells: Cells, limit: Limit) -> NDArray[np.float64]:
    """What both sides cost together, cut behind each column but the last: (columns - 1,)."""
    before = _costs_up_to(cells, limit)
    behind = _costs_up_to(cells[:, ::-1], limit)[::-1]
    return before[:-1] + behind[1:]


def _costs_up_to(cells: Cells, limit: Limit) -> NDArray[np.float64]:
    """What the first 1, 2, ... columns cost, trimmed."""
    rows, columns = cells.shape
    some = cells.any(axis=0)
    top = np.where(some, cells.argmax(axis=0), rows)
    bottom = np.where(some, rows - cells[::-1].argmax(axis=0), 0)
    height = np.maximum.accumulate(bottom) - np.minimum.accumulate(top)
    places = np.arange(columns)
    first = int(some.argmax()) if some.any() else columns
    last = np.maximum.accumulate(np.where(some, places, -1))
    return limit.cost(np.maximum(last - first + 1, 0), np.maximum(height, 0))


def tissue_shards(grid: TileGrid, tissue: Tissue, roi: Area | None = None) -> tuple[Shard, ...]:
    """Shards of tiles that hold a slide's tissue.

    Parameters
    ----------
    grid : TileGrid
        Its tiles' size is the largest.
    tissue : Tissue
    roi : Area, optional
        Only tiles that meet it.

    Returns
    -------
    tuple of Shard
        Row-major.
    """
    columns, rows = (math.ceil(n / CELL_PX) for n in grid.dimensions)
    side = CELL_PX * grid.downsample
    x, y = np.meshgrid(np.arange(columns) * side, np.arange(rows) * side)
    cells = tissue.fraction_in(x, y, side, side) > 0
    return _shards(grid, cells, roi)


def point_shards(grid: TileGrid, x_work: ArrayLike, y_work: ArrayLike) -> tuple[Shard, ...]:
    """Shards of tiles that own points, the same for any order of them.

    Parameters
    ----------
    grid : TileGrid
    x_work, y_work : array_like of float, (N,)
        Points of the slide on the working grid, px.

    Returns
    -------
    tuple of Shard
        Row-major.
    """
    columns, rows = (math.ceil(n / CELL_PX) for n in grid.dimensions)
    cells = np.zeros((rows, columns), bool)
    # Points on the far edges belong to the last cells.
    column, row = (
        np.clip(np.asarray(values, np.float64) // CELL_PX, 0, count - 1).astype(np.intp)
        for values, count in ((x_work, columns), (y_work, rows))
    )
    cells[row, column] = True
    return _shards(grid, cells)


def _shards(grid: TileGrid, cells: Cells, roi: Area | None = None) -> tuple[Shard, ...]:
    """The cheaper of two layouts: rectangles cut one from the other, or a grid's, trimmed."""
    layouts = (_cut_apart(cells, grid), _on_a_grid(cells, grid.tile_px))
    most_px = (grid.tile_px + 2 * grid.halo_px) ** 2
    found = (
        _in_common_sizes(sorted(_shards_of(grid, blocks, roi), key=lambda s: s.id), most_px)
        for blocks in layouts
    )
    return min(found, key=_cost)


def _cut_apart(cells: Cells, grid: TileGrid) -> list[list[Box]]:
    """Tiles of each shard, of no certain size: few pixels are computed in vain."""
    side = max(grid.tile_px, min(SHARD_PX, 4 * grid.tile_px))
    limit = Limit(grid.tile_px, grid.halo_px, TILE_COSTS_PX)
    return [
        [_moved(box, x0, y0) for box in cover(cells[y0:y1, x0:x1], limit)]
        for x0, y0, x1, y1 in cover(cells, Limit(side, FAR_PX, SHARD_COSTS_PX))
    ]


def _on_a_grid(cells: Cells, tile_px: int) -> list[list[Box]]:
    """Tiles of each shard, most of one size: a grid that begins where the tissue does, trimmed."""
    whole = _around(cells, (0, 0, cells.shape[1], cells.shape[0]))
    if whole is None:
        return []
    x0, y0, x1, y1 = whole
    side = tile_px // CELL_PX
    many = max(1, min(4, SHARD_PX // tile_px)) * side
    found = []
    for top, left in product(range(y0, y1, many), range(x0, x1, many)):
        corners = product(range(top, min(top + many, y1), side),
                          range(left, min(left + many, x1), side))  # fmt: skip
        boxes = [_around(cells, (x, y, min(x + side, x1), min(y + side, y1))) for y, x in corners]
        found.append([box for box in boxes if box is not None])
    return [boxes for boxes in found if boxes]


def _moved(box: Box, x: int, y: int) -> Box:
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def _shards_of(
    grid: TileGrid, blocks: Sequence[Sequence[Box]], roi: Area | None
) -> Iterator[Shard]:
    for boxes in blocks:
        pixels = np.array(boxes) * CELL_PX
        if roi is not None:
            pixels = pixels[roi.meets(pixels * grid.downsample)]
        if len(pixels):
            x, y = pixels[:, :2].min(axis=0) // CELL_PX
            tiles = (grid.tile((x0, y0, x1, y1)) for x0, y0, x1, y1 in pixels.tolist())
            yield Shard(f"shard-{y:04d}-{x:04d}", tuple(tiles))


def _cost(shards: Sequence[Shard]) -> int:
    sizes = [_size(tile) for shard in shards for tile in shard.tiles]
    return sum(map(math.prod, sizes)) + SIZE_COSTS_PX * len(set(sizes))


def _in_common_sizes(shards: Sequence[Shard], most_px: int) -> tuple[Shard, ...]:
    """Let tiles of nearly the same size see as much as each other, those of a size in a row."""
    sizes = common_sizes([_size(tile) for shard in shards for tile in shard.tiles], most_px)
    found = []
    for shard in shards:
        grown = [_seeing(tile, *sizes[_size(tile)]) for tile in shard.tiles]
        found.append(replace(shard, tiles=tuple(sorted(grown, key=_size, reverse=True))))
    return tuple(found)


def _size(tile: Tile) -> Size:
    x0, y0, x1, y1 = tile.halo
    return x1 - x0, y1 - y0


def _seeing(tile: Tile, width: int, height: int) -> Tile:
    x0, y0 = tile.halo[:2]
    return replace(tile, halo=(x0, y0, x0 + width, y0 + height))


def common_sizes(sizes: Sequence[Size], most_px: int) -> dict[Size, Size]:
    """The size that each size grows to: fewer of them, where the pixels cost less than a size.

    Parameters
    ----------
    sizes : sequence of tuple of int
        Width and height of every tile, px.
    most_px : int
        A size that is not there yet has no larger area.

    Returns
    -------
    dict
        By each of `sizes`.
    """
    rows = np.array(sizes, np.int64).reshape(-1, 2)
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    number = counts.astype(np.float64)
    now = kinds.copy()
    into = np.arange(len(kinds))
    more = np.full((len(kinds), len(kinds)), np.inf)
    for i in range(len(kinds)):
        more[i] = _more_px(now, number, i, most_px)
    while len(kinds):
        i, j = sorted(map(int, np.unravel_index(int(more.argmin()), more.shape)))
        if more[i, j] >= SIZE_COSTS_PX:
            break
        now[i] = np.maximum(now[i], now[j])
        number[i] += number[j]
        number[j] = 0
        into[into == j] = i
        more[i], more[j], more[:, j] = _more_px(now, number, i, most_px), np.inf, np.inf
        more[:, i] = more[i]
    return {
        (int(w), int(h)): (int(now[k, 0]), int(now[k, 1]))
        for (w, h), k in zip(kinds, into, strict=True)
    }


def _more_px(
    sizes: NDArray[np.int64], number: NDArray[np.float64], i: int, most_px: int
) -> NDArray[np.float64]:
    """Pixels that one size costs together with each other, in the size that holds both; (N,)."""
    area = sizes.prod(axis=1)
    both = np.maximum(sizes, sizes[i]).prod(axis=1)
    more = number * (both - area) + number[i] * (both - area[i])
    allowed = (number > 0) & (both <= np.maximum(most_px, np.maximum(area, area[i])))
    allowed[i] = False
    return np.where(allowed, more, np.inf)
