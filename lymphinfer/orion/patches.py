"""Cut the sampled cells' patches from a slide's pyramid into a patch store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lymphinfer.markers.patches import cut_patches
from lymphinfer.orion.patch_store import PatchStore, StoreCells, StoreInfo
from lymphinfer.orion.patch_writer import PatchWriter
from lymphinfer.slides import Slide
from lymphinfer.threads import in_order

__all__ = ["PatchStore", "PatchWriter", "StoreCells", "StoreInfo", "cut_store", "tile_order"]

TILE_PX = 1024
"""Side of the tiles that are read at once, px at the patches' pixel size."""

Progress = Callable[[int, int], None]
_Tile = tuple[int, int]


def tile_order(
    x_work: NDArray[np.float64], y_work: NDArray[np.float64], tile_px: int = TILE_PX
) -> NDArray[np.intp]:
    """Order cells by tile, row by row, and by y and x within a tile.

    Parameters
    ----------
    x_work, y_work : ndarray of float64, (N,)
        Centroids, px at the patches' pixel size.
    tile_px : int
        Side of a tile.

    Returns
    -------
    ndarray of intp, (N,)
        The permutation.
    """
    return np.lexsort((x_work, y_work, x_work // tile_px, y_work // tile_px))


def to_working(level0: NDArray[np.float64], mpp_level0: float, mpp: float) -> NDArray[np.float64]:
    """Level-0 px to px at `mpp`, pixel centres at whole numbers in both."""
    return (level0 + 0.5) * (mpp_level0 / mpp) - 0.5


def cut_store(
    slide: Slide,
    path: Path,
    info: StoreInfo,
    cells: StoreCells,
    *,
    tile_px: int = TILE_PX,
    threads: int = 2,
    progress: Progress | None = None,
) -> PatchStore:
    """Cut a patch around each cell and store it; goes on where an earlier run was stopped.

    Every tile is read once, only as far as its cells need, at the patches' pixel size. Beyond the
    slide's edge patches are white.

    Parameters
    ----------
    slide : Slide
        H&E, open.
    path : Path
        The ``.zarr`` folder.
    info : StoreInfo
    cells : StoreCells
        In any order; the store has them in `tile_order`.
    tile_px : int
        Side of a tile, px at ``info.mpp``.
    threads : int
        Tiles that are read at the same time.
    progress : callable, optional
        Called with the patches done and the patches in all.

    Returns
    -------
    PatchStore
        The finished store.

    Raises
    ------
    SlideError
        The slide's data cannot be decoded.
    ResultError
        The store cannot be written.
    """
    x = to_working(cells.x, slide.mpp, info.mpp)
    y = to_working(cells.y, slide.mpp, info.mpp)
    order = tile_order(x, y, tile_px)
    cells, centers = cells.take(order), np.stack([x[order], y[order]], axis=1)
    writer = PatchWriter(path, info, cells)
    if not writer.complete:
        for patches in _cut(slide, info, centers, writer.rows_done, tile_px, threads):
            writer.append(patches)
            if progress is not None:
                progress(writer.rows_done, len(cells))
        writer.finish()
    if progress is not None:
        progress(len(cells), len(cells))
    return PatchStore(path)


def _cut(
    slide: Slide,
    info: StoreInfo,
    centers: NDArray[np.float64],
    first: int,
    tile_px: int,
    threads: int,
) -> Iterator[NDArray[np.uint8]]:
    """Patches of the rows from `first` on, a tile at a time; some tiles are read ahead."""
    tiles = centers // tile_px
    starts = np.flatnonzero((np.diff(tiles, axis=0, prepend=np.nan) != 0).any(axis=1))
    bounds = pairwise([*starts.tolist(), len(centers)])
    runs = [slice(max(start, first), end) for start, end in bounds if end > first]

    def read(run: slice) -> NDArray[np.uint8]:
        nearest = np.rint(centers[run])
        margin = info.patch_px // 2 + 1
        x0, y0 = (nearest.min(axis=0) - margin).astype(int).tolist()
        x1, y1 = (nearest.max(axis=0) + margin + 1).astype(int).tolist()
        region = slide.read_region(x0, y0, x1 - x0, y1 - y0, info.mpp)
        return cut_patches(region, nearest - (x0, y0), info.patch_px)

    yield from in_order(read, runs, threads)
