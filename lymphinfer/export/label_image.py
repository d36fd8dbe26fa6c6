"""Label image: a tiled, pyramidal OME-TIFF whose pixels are the nuclei's labels.

A pixel has the label of the nucleus in whose outline its centre lies, 0 for none, and the greater
label where outlines overlap. Coarser levels ask the same question of their own pixel centres, so a
label is never a mean of two. Tiles are drawn one by one from the parts: memory does not grow with
the slide.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.outlines import Rings, bounds
from lymphinfer.cells.parts import open_parquet
from lymphinfer.cells.table import read_rings
from lymphinfer.errors import ResultError
from lymphinfer.export.results import Result
from lymphinfer.slides.grid import grid_dimensions

TILE_PX = 512
_SMALLEST_LEVEL_PX = 1024
# A block holds at most a row group; some 4 MB each.
_KEPT_BLOCKS = 48

Labels = NDArray[np.uint32]
Box = tuple[float, float, float, float]


def write_labels(path: Path, result: Result, mpp: float | None = None) -> Path:
    """Write a slide's nuclei as a label image.

    Parameters
    ----------
    path : Path
    result : Result
    mpp : float, optional
        Pixel size of the image, µm/px; by default the slide's own.

    Returns
    -------
    Path

    Raises
    ------
    ResultError
        A pixel size that is finer than half the slide's or coarser than 10 µm/px, parts that
        cannot be read, or a file that cannot be written.
    """
    from tifffile import TiffWriter

    mpp = result.mpp if mpp is None else mpp
    if not result.mpp / 2 <= mpp <= 10:
        raise ResultError(
            f"--mpp {mpp:g}: a label image of {result.name} can have {result.mpp / 2:g} to 10 µm/px"
        )
    blocks = _Blocks(result)
    levels = _levels(result, mpp)
    with atomic_write(path) as file, TiffWriter(file, bigtiff=True, ome=True) as tif:
        for i, (level_mpp, (width, height)) in enumerate(levels):
            metadata: dict[str, Any] = {}
            if i == 0:
                metadata = {
                    "axes": "YX",
                    "Name": f"nuclei of {result.name}",
                    "PhysicalSizeX": level_mpp,
                    "PhysicalSizeXUnit": "µm",
                    "PhysicalSizeY": level_mpp,
                    "PhysicalSizeYUnit": "µm",
                }
            tif.write(
                _tiles(blocks, result.mpp / level_mpp, (width, height), whole=i == 0),
                shape=(height, width),
                dtype=np.uint32,
                tile=(TILE_PX, TILE_PX),
                photometric="minisblack",
                compression="zlib",
                compressionargs={"level": 1},
                subifds=len(levels) - 1 if i == 0 else 0,
                subfiletype=1 if i else 0,
                resolution=(1e4 / level_mpp, 1e4 / level_mpp),
                resolutionunit="CENTIMETER",
                metadata=metadata if i == 0 else None,
            )
    return path


def draw_labels(out: Labels, rings: Rings, labels: Labels, *, keep_small: bool = True) -> None:
    """Draw nuclei into an image, in their order.

    Parameters
    ----------
    out : ndarray of uint32, (H, W)
        Drawn into. Pixel (i, j) has its centre at x = j + 0.5, y = i + 0.5.
    rings : Rings
        N outlines in the image's pixels; may reach beyond it.
    labels : ndarray of uint32, (N,)
        Value of each.
    keep_small : bool
        Let a nucleus without a pixel centre inside take the pixel under its middle, where free.
    """
    n = len(rings)
    if n == 0:
        return
    height, width = out.shape
    owner = np.repeat(np.arange(n), rings.counts)
    # Pixel centres become whole numbers; a row crosses the edges that start at or above it and
    # end below it, so every row of a ring has an even number of crossings.
    here = rings.coords - 0.5
    there = here[rings.following]
    first = np.ceil(np.minimum(here[:, 1], there[:, 1])).clip(0, height).astype(np.int64)
    last = np.ceil(np.maximum(here[:, 1], there[:, 1])).clip(0, height).astype(np.int64)
    edge, step = _runs(last - first)
    row = first[edge] + step
    slope = (there[edge] - here[edge]).T
    x = here[edge, 0] + (row - here[edge, 1]) * slope[0] / slope[1]
    order = np.lexsort((x, row, owner[edge]))
    starts, ends = order[::2], order[1::2]
    left = np.ceil(x[starts]).clip(0, width).astype(np.int64)
    right = np.ceil(x[ends]).clip(0, width).astype(np.int64)
    span, step = _runs(right - left)
    nucleus = owner[edge[starts]][span]
    # Of several values for a pixel the last one stays, and they come in the nuclei's order.
    out[row[starts][span], left[span] + step] = labels[nucleus]
    if keep_small:
        middle = np.floor((bounds(rings)[:, :2] + bounds(rings)[:, 2:]) / 2).astype(np.int64)
        small = np.bincount(nucleus, minlength=n) == 0
        small &= (middle >= 0).all(axis=1) & (middle < (width, height)).all(axis=1)
        for i in np.flatnonzero(small).tolist():
            if out[middle[i, 1], middle[i, 0]] == 0:
                out[middle[i, 1], middle[i, 0]] = labels[i]


def _runs(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For runs of these lengths on end: each element's run, and its place in it."""
    run = np.repeat(np.arange(len(lengths)), lengths)
    return run, np.arange(len(run)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _levels(result: Result, mpp: float) -> list[tuple[float, tuple[int, int]]]:
    """(µm/px, (width, height)) of each level, halved until it fits `_SMALLEST_LEVEL_PX`."""
    levels = [(mpp, grid_dimensions(result.dimensions, result.mpp, mpp))]
    while max(levels[-1][1]) > _SMALLEST_LEVEL_PX:
        mpp *= 2
        levels.append((mpp, grid_dimensions(result.dimensions, result.mpp, mpp)))
    return levels


def _tiles(
    blocks: _Blocks, scale: float, size: tuple[int, int], *, whole: bool
) -> Iterator[Labels]:
    """Tiles of a level, row-major; `scale`: its px per level-0 px."""
    width, height = size
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            tile = np.zeros((TILE_PX, TILE_PX), np.uint32)
            box = (x / scale, y / scale, (x + TILE_PX) / scale, (y + TILE_PX) / scale)
            for rings, labels in blocks.touching(box):
                moved = Rings(rings.coords * scale - (x, y), rings.offsets)
                draw_labels(tile, moved, labels, keep_small=whole)
            yield tile


@dataclass(frozen=True)
class _Block:
    """Outlines of the nuclei of one row group, in hundredths of a level-0 px."""

    points: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float64]

    @classmethod
    def of(cls, table: pa.Table) -> _Block:
        rings = read_rings(table)
        boxes = bounds(rings) if len(rings) else np.empty((0, 4))
        return cls(rings.hundredths.astype(np.int32), rings.offsets, boxes)


class _Blocks:
    """Nuclei of a slide by place; the blocks used last are kept in memory."""

    def __init__(self, result: Result):
        self._sources = result.row_groups()
        self._kept: OrderedDict[int, _Block] = OrderedDict()
        self._boxes: list[Box] = []
        self._firsts: list[int] = []
        first = 0
        for table in result.tables():
            boxes = _Block.of(table).boxes
            low, high = boxes[:, :2].min(0, initial=np.inf), boxes[:, 2:].max(0, initial=-np.inf)
            self._boxes.append((*low.tolist(), *high.tolist()))
            self._firsts.append(first)
            first += table.num_rows

    def touching(self, box: Box) -> Iterator[tuple[Rings, Labels]]:
        """Outlines whose bounding boxes touch a box (level-0 px), and their labels, ascending."""
        for number, (x0, y0, x1, y1) in enumerate(self._boxes):
            if x1 < box[0] or x0 > box[2] or y1 < box[1] or y0 > box[3]:
                continue
            block = self._block(number)
            near = (block.boxes[:, 2:] >= box[:2]).all(1) & (block.boxes[:, :2] <= box[2:]).all(1)
            rows = np.flatnonzero(near)
            if len(rows):
                rings = Rings(block.points / 100, block.offsets).take(rows)
                yield rings, (self._firsts[number] + 1 + rows).astype(np.uint32)

    def _block(self, number: int) -> _Block:
        block = self._kept.pop(number, None)
        if block is None:
            path, group = self._sources[number]
            with open_parquet(path) as file:
                block = _Block.of(file.read_row_group(group, columns=["polygon"]))
        self._kept[number] = block
        if len(self._kept) > _KEPT_BLOCKS:
            self._kept.popitem(last=False)
        return block
