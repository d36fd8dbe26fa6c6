"""One slide of ORION's true size in its layout: a mosaic of one periodic piece of made tissue.

Written tile by tile: memory holds the piece (some GB), and a few numbers for each cell. Every copy
of the piece has its own CellIDs, and its table's means differ by 5 % of their signal. The IF's
tiles recur, so that each of them is stored once and pointed to from all its places, which TIFF
allows: all of the image's tiles are there to be read, in a hundredth of the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pyarrow as pa
import tifffile
from numpy.typing import NDArray
from pyarrow import csv
from scipy.ndimage import map_coordinates
from true_size_piece import Piece, make_piece

from lymphinfer.cells.files import atomic_write
from lymphinfer.simulate import panel19
from lymphinfer.simulate.cell_table import COLUMNS
from lymphinfer.simulate.cohort_slide import write_markers
from lymphinfer.simulate.design import MPP, plan_cohort
from lymphinfer.simulate.layout import island
from lymphinfer.simulate.ome import halved, write_ome_levels
from lymphinfer.simulate.texture import upsample

CRC01_PX = (78_417, 57_360)
CRC01_CELLS = 1_620_375
TILE_PX = 512
_COARSE_PX = 64
_SPREAD = 0.05
_JPEG_QUALITY = 75
_DARK = 200

Tiles = Iterator[Any]


@dataclass(frozen=True)
class Ground:
    """What of a slide is tissue.

    Attributes
    ----------
    size_px : tuple of int
        (width, height).
    shape : ndarray of float32
        0 glass to 1 tissue, a value for 64 x 64 px.
    """

    size_px: tuple[int, int]
    shape: NDArray[np.float32]

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the pyramid's levels, each half of the one before."""
        width, height = self.size_px
        found = [(height, width)]
        while max(found[-1]) > TILE_PX:
            found.append((found[-1][0] // 2, found[-1][1] // 2))
        return found

    def tiles(self, level: int) -> Iterator[tuple[int, int, float, float]]:
        """Row and column of each tile of a level, px; least and most of tissue in it, 0-1."""
        height, width = self.sizes()[level]
        reach = (TILE_PX << level) // _COARSE_PX
        for y in range(0, height, TILE_PX):
            for x in range(0, width, TILE_PX):
                row, column = ((v << level) // _COARSE_PX for v in (y, x))
                part = self.shape[max(row - 1, 0) : row + reach + 1,
                                  max(column - 1, 0) : column + reach + 1]  # fmt: skip
                yield y, x, float(part.min(initial=1)), float(part.max(initial=0))

    def alpha(self, level: int, y: int, x: int) -> NDArray[np.float32]:
        """Share of tissue in every pixel of a tile, (512, 512)."""
        rows, columns = ((np.arange(v, v + TILE_PX) << level) for v in (y, x))
        if (1 << level) < _COARSE_PX:
            factor = _COARSE_PX >> level
            return upsample(self.shape, factor, y, x, TILE_PX, TILE_PX)
        last = np.array(self.shape.shape) - 1
        return self.shape[
            np.ix_(
                np.minimum(rows // _COARSE_PX, last[0]), np.minimum(columns // _COARSE_PX, last[1])
            )
        ]


@dataclass(frozen=True)
class Placed:
    """The cells of a slide, by CellID.

    Attributes
    ----------
    cell : ndarray of int32, (N,)
        Which of the piece's, from 0.
    row, column : ndarray of int16, (N,)
        Which copy.
    """

    cell: NDArray[np.int32]
    row: NDArray[np.int16]
    column: NDArray[np.int16]


def place(
    piece: Piece, size_px: tuple[int, int], cells: int, rng: np.random.Generator
) -> tuple[Ground, Placed]:
    """Find the tissue that holds the wanted number of cells.

    Raises
    ------
    SystemExit
        The slide has no room for them.
    """
    width, height = size_px
    field = island(rng, (-(-height // _COARSE_PX), -(-width // _COARSE_PX)))
    rows, columns = -(-height // piece.px), -(-width // piece.px)
    row, column, cell = (
        index.ravel() for index in np.indices((rows, columns, len(piece.table["CellID"])), np.int32)
    )
    y = piece.table["Y_centroid"][cell] + row * piece.px
    x = piece.table["X_centroid"][cell] + column * piece.px
    inside = (y > 16) & (x > 16) & (y < height - 16) & (x < width - 16)
    row, column, cell, y, x = (v[inside] for v in (row, column, cell, y, x))
    if len(cell) < cells:
        raise SystemExit(f"{width} x {height} px hold {len(cell):,} made cells, not {cells:,}")
    coarse = np.stack([y, x]) / _COARSE_PX - 0.5
    depth = map_coordinates(field, coarse, order=1, mode="nearest")
    edge = np.partition(depth, len(depth) - cells)[len(depth) - cells]
    kept = np.flatnonzero(depth >= edge)[:cells]
    order = kept[np.lexsort((x[kept], y[kept]))]
    shape = np.clip((field - edge) * np.float32(min(field.shape) / 2 * 0.7), 0, 1)
    placed = Placed(
        cell[order], row[order].astype(np.int16), column[order].astype(np.int16)
    )  # fmt: skip
    return Ground(size_px, shape.astype(np.float32)), placed


def make_slide(
    folder: Path,
    *,
    size_px: tuple[int, int] = CRC01_PX,
    cells: int = CRC01_CELLS,
    seed: int = 0,
    piece_px: int = 4096,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Path]:
    """Make a slide's five files.

    Parameters
    ----------
    folder : Path
        Such as ``cohort/data/CRC01``; made if missing.
    size_px : tuple of int
        (width, height) of level 0 at 0.325 µm/px.
    cells : int
        Rows of its table.
    seed : int
    piece_px : int
        Side of the piece that recurs; a multiple of 512 that is a power of 2.
    say : callable
        Told what is done.

    Returns
    -------
    dict of str to Path
        By kind.
    """
    plan = plan_cohort(3)[0]
    paths = {kind: folder / name for kind, name in plan.files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    piece = make_piece(seed, piece_px)
    rng = np.random.default_rng(seed)
    ground, placed = place(piece, size_px, cells, rng)
    say(f"piece of {piece_px} px with {len(piece.table['CellID']):,} cells")
    _write_table(paths["cells"], piece, placed, rng)
    write_markers(paths["markers"], header=True)
    say(f"table of {cells:,} cells")
    shapes = ground.sizes()
    _write(
        paths["he"],
        [_he_tiles(piece.rgb, piece.white, ground, level) for level in range(len(shapes))],
        [(*shape, 3) for shape in shapes], np.uint8, "YXS", "jpeg", _JPEG_QUALITY,
    )  # fmt: skip
    say("H&E")
    ids = _ids(piece, ground, placed)
    _write(
        paths["mask"],
        [_mask_tiles(piece, ids, ground, level) for level in range(len(shapes))],
        shapes, np.int32, "YX", "zlib", 1,
    )  # fmt: skip
    say("mask")
    _write_fluorescence(paths["if"], piece, ground)
    say("IF")
    return paths


def link_patients(slide: dict[str, Path], others: int) -> None:
    """Let other patients have the same slide: a training needs at least two."""
    for plan in plan_cohort(3)[1 : 1 + others]:
        folder = slide["he"].parents[1] / plan.folder
        folder.mkdir()
        for kind, name in plan.files.items():
            os.link(slide[kind], folder / name)


def _write(
    path: Path, levels: list[Tiles], shapes: list[Any], dtype: Any, axes: str, kind: str, level: int
) -> None:
    write_ome_levels(
        path, levels, shapes, dtype, axes, MPP, compression=kind, level=level, tile_px=TILE_PX
    )


def _write_table(path: Path, piece: Piece, placed: Placed, rng: np.random.Generator) -> None:
    """As the authors' tables are: all digits of every number."""
    whole = {"CellID": pa.int64(), "Area": pa.int64()}
    schema = pa.schema([(name, whole.get(name, pa.float64())) for name in COLUMNS])
    shift = {"X_centroid": placed.column, "Y_centroid": placed.row}
    with atomic_write(path) as file, csv.CSVWriter(
        file, schema, write_options=csv.WriteOptions(quoting_style="none")
    ) as writer:  # fmt: skip
        for first in range(0, len(placed.cell), 100_000):
            part = slice(first, first + 100_000)
            cell = placed.cell[part]
            columns: dict[str, NDArray[Any]] = {}
            for name in COLUMNS:
                values = piece.table[name][cell]
                if name in shift:
                    values = values + shift[name][part].astype(np.float64) * piece.px
                elif name in panel19.CHANNEL_NAMES:
                    values = _DARK + (values - _DARK) * rng.normal(1, _SPREAD, len(values))
                columns[name] = values.astype(np.int64) if name in whole else values
            columns["CellID"] = np.arange(first + 1, first + 1 + len(cell))
            writer.write_table(pa.table(columns, schema))


def _he_tiles(rgb: NDArray[np.uint8], white: Any, ground: Ground, level: int) -> Iterator[bytes]:
    """Tiles of a level of the H&E: the piece, faded to glass where the tissue ends."""
    for _ in range(level):
        rgb = halved(rgb, 0, 1)
    blank = _jpeg(np.broadcast_to(white, (TILE_PX, TILE_PX, 3)))
    whole: dict[tuple[int, int], bytes] = {}
    for y, x, least, most in ground.tiles(level):
        corner = y % len(rgb), x % len(rgb)
        if most <= 0:
            yield blank
        elif least < 1 or corner not in whole:
            rows, columns = (np.arange(v, v + TILE_PX) % len(rgb) for v in (y, x))
            tile = rgb[rows[:, None], columns]
            if least < 1:
                alpha = ground.alpha(level, y, x)[..., None]
                tile = np.rint(white + (tile.astype(np.float32) - white) * alpha).astype(np.uint8)
                yield _jpeg(tile)
                continue
            whole[corner] = _jpeg(tile)
            yield whole[corner]
        else:
            yield whole[corner]


def _jpeg(tile: NDArray[np.uint8]) -> bytes:
    """As tifffile has it encoded."""
    encoded: bytes = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(tile),
        level=_JPEG_QUALITY,
        colorspace="RGB",
        outcolorspace="YCBCR",
        subsampling=(2, 2),
    )
    return encoded


def _ids(piece: Piece, ground: Ground, placed: Placed) -> NDArray[np.int32]:
    """CellID by copy (one more on each side) and the piece's label; 0 for cells left out."""
    copies = (-(-v // piece.px) + 2 for v in ground.size_px[::-1])
    ids = np.zeros((*copies, len(piece.table["CellID"]) + 1), np.int32)
    ids[placed.row + 1, placed.column + 1, placed.cell + 1] = np.arange(1, len(placed.cell) + 1)
    return ids


def _mask_tiles(piece: Piece, ids: NDArray[np.int32], ground: Ground, level: int) -> Tiles:
    """Tiles of a level of the mask; lower levels take every second pixel."""
    blank = np.zeros((TILE_PX, TILE_PX), np.int32)
    last = np.array(ids.shape[:2]) - 1
    inner = TILE_PX << level < piece.px
    for y, x, _, most in ground.tiles(level):
        if most <= 0:
            yield blank
            continue
        rows, columns = (np.arange(v, v + TILE_PX) << level for v in (y, x))
        step = 1 << level
        at: Any = np.ix_(rows % piece.px, columns % piece.px)
        if inner:
            at = tuple(slice(int(v[0]) % piece.px, int(v[0]) % piece.px + len(v) * step, step)
                       for v in (rows, columns))  # fmt: skip
        over = [copies[at] for copies in piece.over]
        labels = piece.labels[at]
        if inner and not (over[0].any() or over[1].any()):
            yield ids[rows[0] // piece.px + 1, columns[0] // piece.px + 1][labels]
            continue
        down = np.clip(rows[:, None] // piece.px + 1 + over[0], 0, last[0])
        right = np.clip(columns[None, :] // piece.px + 1 + over[1], 0, last[1])
        yield ids[down, right, labels]


def _write_fluorescence(path: Path, piece: Piece, ground: Ground) -> None:
    """Write the IF: first which tile goes where, then the tiles, then the offsets of them."""
    channels, shapes = panel19.CHANNEL_NAMES, ground.sizes()
    encoded: list[bytes] = [
        imagecodecs.zlib_encode(np.full((TILE_PX, TILE_PX), _DARK, np.uint16), level=1)
    ]
    places: list[NDArray[np.intp]] = []
    counts = piece.counts
    for level in range(len(shapes)):
        if level:
            counts = np.stack([halved(plane, 0, 1) for plane in counts])
        side = max(counts.shape[1] // TILE_PX, 1)
        tiles = list(ground.tiles(level))
        for plane in counts:
            first = len(encoded)
            wide = np.tile(plane, (-(-TILE_PX // len(plane)),) * 2)
            encoded += [
                imagecodecs.zlib_encode(
                    np.ascontiguousarray(wide[r : r + TILE_PX, c : c + TILE_PX]), level=1
                )
                for r in range(0, side * TILE_PX, TILE_PX)
                for c in range(0, side * TILE_PX, TILE_PX)
            ]
            places.append(
                np.array(
                    [
                        first + (y // TILE_PX % side) * side + x // TILE_PX % side if most else 0
                        for y, x, _, most in tiles
                    ]
                )
            )
    dots = [
        iter([b"."] * sum(map(len, places[i * len(channels) : (i + 1) * len(channels)])))
        for i in range(len(shapes))
    ]
    write_ome_levels(
        path, dots, [(len(channels), *shape) for shape in shapes], np.uint16, "CYX", MPP,
        compression="zlib", level=1, channels=channels, tile_px=TILE_PX,
    )  # fmt: skip
    _point(path, encoded, places)


def _point(path: Path, encoded: list[bytes], places: list[NDArray[np.intp]]) -> None:
    """Add tiles to a file and let each place of its planes (level by level) point to one."""
    with path.open("ab") as file:
        offsets = np.cumsum([file.tell(), *map(len, encoded)])[:-1]
        file.writelines(encoded)
    sizes = np.array([len(tile) for tile in encoded])
    with tifffile.TiffFile(path, mode="r+") as tiff:
        pages = [page.aspage() for level in tiff.series[0].levels for page in level.pages]
        for page, place in zip(pages, places, strict=True):
            page.tags["TileOffsets"].overwrite(offsets[place].tolist())
            page.tags["TileByteCounts"].overwrite(sizes[place].tolist())
