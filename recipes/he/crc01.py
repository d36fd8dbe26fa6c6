"""A slide laid out like ORION's CRC01 at 1.3 µm/px: H&E tiles, IF tiles and a table of nuclei.

``DIR/he/X_Y.jpg`` and ``DIR/<channel>/X_Y.jpg`` lie at (1024 X, 1024 Y); ``DIR/cells.parquet`` has
``x``, ``y`` in px of the slide and the mean of each channel over the nucleus, 0-255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from lymphinfer.panel import TCELL_PANEL

TILE_PX = 1024
MPP = 1.3
VALIDATION_COLUMNS = (4, 8, 16)

# Up to the first a nucleus is negative, from the second on positive, between them unknown. The
# markers' by the fractions published for the slide, the others by their histograms.
GATES = {
    "CD45": (3.0, 25.0),
    "CD3e": (1.5, 15.0),
    "CD4": (0.5, 5.0),
    "CD8a": (1.5, 15.0),
    "CD20": (1.0, 20.0),
    "CD68": (1.0, 12.0),
    "CD163": (1.0, 12.0),
    "FOXP3": (0.5, 10.0),
    "Pan-CK": (3.0, 25.0),
    "CD31": (1.0, 20.0),
    "alpha-SMA": (2.0, 25.0),
    "Ki67": (2.0, 20.0),
    "CD45RO": (1.0, 10.0),
    "E-cadherin": (3.0, 25.0),
    "PD-1": (1.0, 10.0),
    "PD-L1": (1.0, 10.0),
}
# One gate a marker: where the slide's published positive fractions lie.
SINGLE_GATES = {"CD45": 18.0, "CD3e": 17.0, "CD4": 4.0, "CD8a": 23.0}
MARKERS = TCELL_PANEL.names
PARENTS = {marker.name: marker.parent for marker in TCELL_PANEL.markers if marker.parent}


@dataclass(frozen=True)
class TiledSlide:
    """The slide as arrays.

    Attributes
    ----------
    folder : Path
    he : ndarray of uint8, (H, W, 3)
        White where there is no tile.
    there : ndarray of bool, (rows, columns)
        Tiles that exist.
    xy : ndarray of float32, (N, 2)
        Nuclei (x, y), px; the centre of pixel (i, j) is (i, j).
    values : dict of str to ndarray of float32, (N,)
        Means of the channels, 0-255.
    """

    folder: Path
    he: NDArray[np.uint8]
    there: NDArray[np.bool_]
    xy: NDArray[np.float32]
    values: dict[str, NDArray[np.float32]]

    @cached_property
    def column(self) -> NDArray[np.int64]:
        """Tile column of each nucleus."""
        return (self.xy[:, 0] // TILE_PX).astype(np.int64)

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """Tile row of each nucleus."""
        return (self.xy[:, 1] // TILE_PX).astype(np.int64)


def tile_names(folder: Path) -> list[tuple[int, int, Path]]:
    """(column, row, file) of the tiles of a channel's folder."""
    found = []
    for file in sorted(folder.glob("*.jpg")):
        column, row = (int(n) for n in file.stem.split("_"))
        found.append((column, row, file))
    return found


def read_slide(folder: Path) -> TiledSlide:
    """Read the H&E and the table; some 0.7 GB for CRC01.

    Raises
    ------
    SystemExit
        The folder is not laid out so.
    """
    tiles = tile_names(folder / "he")
    if not tiles or not (folder / "cells.parquet").is_file():
        raise SystemExit(f"{folder}: expected he/X_Y.jpg and cells.parquet")
    columns, rows = max(t[0] for t in tiles) + 1, max(t[1] for t in tiles) + 1
    he = np.full((rows * TILE_PX, columns * TILE_PX, 3), 255, np.uint8)
    there = np.zeros((rows, columns), bool)
    for column, row, file in tiles:
        block = np.s_[
            row * TILE_PX : (row + 1) * TILE_PX, column * TILE_PX : (column + 1) * TILE_PX
        ]
        with Image.open(file) as image:
            he[block] = np.asarray(image.convert("RGB"))
        there[row, column] = True
    table = pq.read_table(folder / "cells.parquet")
    xy = np.stack([table[name].to_numpy() for name in ("x", "y")], axis=1).astype(np.float32)
    values = {
        name: table[name].to_numpy().astype(np.float32)
        for name in table.schema.names
        if name not in ("x", "y")
    }
    return TiledSlide(folder, he, there, xy, values)


def read_channel(folder: Path, shape: tuple[int, int], half: bool = True) -> NDArray[np.uint8]:
    """One IF channel of the whole slide, by default as means of 2 x 2 px; 0 where no tile is.

    Tiles may be of that size already.
    """
    step = 2 if half else 1
    side = TILE_PX // step
    channel = np.zeros((shape[0] // step, shape[1] // step), np.uint8)
    for column, row, file in tile_names(folder):
        with Image.open(file) as image:
            grey = image.convert("L")
            values = np.asarray(grey if grey.width == side else grey.reduce(step))
        channel[row * side : (row + 1) * side, column * side : (column + 1) * side] = values
    return channel


def hard_labels(slide: TiledSlide, names: Sequence[str]) -> NDArray[np.int8]:
    """Labels {1, 0, -1 unknown} by the three ranges of `GATES`, (N, len(names)).

    A child that is positive where its parent is negative is unknown.
    """
    labels = np.full((len(slide.xy), len(names)), -1, np.int8)
    for i, name in enumerate(names):
        low, high = GATES[name]
        labels[slide.values[name] <= low, i] = 0
        labels[slide.values[name] >= high, i] = 1
    for child, parent in PARENTS.items():
        if child in names and parent in names:
            c, p = list(names).index(child), list(names).index(parent)
            labels[(labels[:, c] == 1) & (labels[:, p] == 0), c] = -1
    return labels


def soft_labels(slide: TiledSlide, names: Sequence[str]) -> NDArray[np.float32]:
    """Labels in [0, 1]: 0 and 1 as `hard_labels`, rising with the logarithm between the gates."""
    soft = np.empty((len(slide.xy), len(names)), np.float32)
    for i, name in enumerate(names):
        low, high = (np.log1p(gate) for gate in GATES[name])
        soft[:, i] = np.clip((np.log1p(slide.values[name]) - low) / (high - low), 0, 1)
    return soft
