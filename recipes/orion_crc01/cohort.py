"""A cohort of CRC01's rendered tiles: ``python -m recipes.orion_crc01.cohort --slide … --out …``.

**One patient.** Every column of tiles becomes a slide, and stands in for a patient, so that all
that is made for cohorts runs on real pixels; what comes out says nothing of other patients. Pixels
of 1.3 µm, and 8 bits in the authors' display window: most of the background is 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray
from PIL import Image

from lymphinfer.cells.files import atomic_write
from lymphinfer.orion.cohort_file import FORMAT, VERSION
from lymphinfer.orion.layout import FILE
from lymphinfer.simulate.ome import write_ome_tiff
from recipes.he.crc01 import MPP, TILE_PX, TiledSlide, read_slide, tile_names
from recipes.orion_crc01.columns import TEST_COLUMNS, VAL_COLUMNS

IMAGES = ("Hoechst", "CD45", "CD3e", "CD4", "CD8a")
"""Channels whose tiles may be at hand; of the others only the nuclei's means are."""

NUCLEUS_PX = 3.5
"""Radius of the disc over which the table's means were taken."""

SATURATION = 256.0
ABOUT = (
    "ORION's slide CRC01 (Lin et al. 2023, Nature Cancer, doi 10.1038/s43018-023-00576-1), one "
    "patient, as its authors rendered it for their viewer: 1.3 µm/px, 8 bits in their display "
    "window. Columns of tiles stand in for patients"
)


def column_name(column: int) -> str:
    """Name of a column's slide and of the patient for whom it stands."""
    return f"column-{column:02d}"


def disc_mask(xy: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Nuclei as discs, numbered from 1 in the order given; of two the nearer owns a pixel.

    Parameters
    ----------
    xy : ndarray of int64, (N, 2)
        Centres, px.
    shape : tuple of int
        (height, width).

    Returns
    -------
    ndarray of int32, (height, width)
    """
    mask = np.zeros(shape, np.int32)
    reach = int(NUCLEUS_PX)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    distance = np.hypot(dx, dy)
    number = np.arange(1, len(xy) + 1, dtype=np.int32)
    # From the rim inwards: what is nearer to its own centre is painted over what is farther.
    for i in np.argsort(-distance, kind="stable"):
        if distance[i] <= NUCLEUS_PX:
            x, y = xy[:, 0] + dx[i], xy[:, 1] + dy[i]
            inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
            mask[y[inside], x[inside]] = number[inside]
    return mask


def write_column(slide: TiledSlide, column: int, folder: Path) -> int:
    """Write a column's four files and return its number of nuclei."""
    height = slide.there.shape[0] * TILE_PX
    left = column * TILE_PX
    # The table's outermost nuclei may lie below the last tile.
    own = np.flatnonzero((slide.column == column) & (slide.xy[:, 1] < height))
    own = own[np.lexsort((slide.xy[own, 0], slide.xy[own, 1]))]
    xy = slide.xy[own].astype(np.int64) - (left, 0)
    folder.mkdir(parents=True, exist_ok=True)
    write_ome_tiff(
        folder / "he.ome.tif",
        np.ascontiguousarray(slide.he[:, left : left + TILE_PX]),
        "YXS",
        MPP,
        compression="jpeg",
        level=95,
    )
    planes = np.stack([_channel(slide.folder / name, column, height) for name in IMAGES])
    write_ome_tiff(
        folder / "if.ome.tif", planes, "CYX", MPP, compression="zlib", level=1, channels=IMAGES
    )
    write_ome_tiff(
        folder / "mask.ome.tif",
        disc_mask(xy, (height, TILE_PX)),
        "YX",
        MPP,
        compression="zlib",
        level=6,
        nearest=True,
    )
    names = list(slide.values)
    values = np.column_stack(
        [np.arange(1, len(own) + 1), *(slide.values[name][own] for name in names), xy]
    )
    header = ",".join(("CellID", *names, "X_centroid", "Y_centroid"))
    np.savetxt(folder / "cells.csv", values, fmt="%g", delimiter=",", header=header, comments="")
    return len(own)


def write_cohort(source: Path, out: Path, columns: Sequence[int] = ()) -> dict[int, int]:
    """Write the cohort: slides, ``cohort.toml`` and ``splits.toml``.

    Parameters
    ----------
    source : Path
        Tiles and table, see `recipes.he.crc01`.
    out : Path
    columns : sequence of int
        Columns of tiles; all that there are where empty.

    Returns
    -------
    dict of int to int
        Nuclei by column.
    """
    slide = read_slide(source)
    there = np.flatnonzero(slide.there.any(axis=0)).tolist()
    missing = sorted(set(columns) - set(there))
    if missing:
        raise SystemExit(f"{source}: no tiles of columns {missing}; there are {there}")
    chosen = [c for c in there if not columns or c in columns]
    nuclei = {c: write_column(slide, c, out / column_name(c)) for c in chosen}
    with atomic_write(out / FILE) as file:
        file.write(tomli_w.dumps(_cohort_file(chosen, list(slide.values))).encode())
    with atomic_write(out / "splits.toml") as file:
        file.write(tomli_w.dumps(splits(chosen)).encode())
    return nuclei


def splits(columns: Sequence[int]) -> dict[str, list[str]]:
    """Columns for training, validation and testing, never neighbouring cells at random."""
    test = [c for c in columns if c in TEST_COLUMNS]
    val = [c for c in columns if c in VAL_COLUMNS]
    train = [c for c in columns if c not in (*test, *val)]
    # Of a few columns the last ones are held out.
    if not val:
        val = [(train if len(train) > 1 else test).pop()]
    if not test and len(train) > 1:
        test = [train.pop()]
    named = {"train": train, "val": val, "test": test}
    return {split: [column_name(c) for c in own] for split, own in named.items()}


def _channel(folder: Path, column: int, height: int) -> NDArray[np.uint8]:
    """A channel's column; 0 where no tile is at hand."""
    found = np.zeros((height, TILE_PX), np.uint8)
    for own, row, file in tile_names(folder):
        if own == column:
            with Image.open(file) as image:
                found[row * TILE_PX : (row + 1) * TILE_PX] = np.asarray(image.convert("L"))
    return found


def _cohort_file(columns: Sequence[int], channels: Sequence[str]) -> dict[str, object]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "about": ABOUT,
        "one_patient": True,
        "panel": "t-cell",
        "mpp": MPP,
        # Autofluorescence is at hand, but 97 % of it fell below the display window.
        "image": {"channels": list(IMAGES), "nuclei": IMAGES[0], "saturation": SATURATION},
        "cells": {"channels": list(channels)},
        "slide": [
            {
                "name": column_name(c),
                **{
                    kind: f"{column_name(c)}/{file}"
                    for kind, file in (
                        ("he", "he.ome.tif"),
                        ("if", "if.ome.tif"),
                        ("mask", "mask.ome.tif"),
                        ("cells", "cells.csv"),
                    )
                },
            }
            for c in columns
        ],
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--slide", type=Path, required=True, help="tiles and cells.parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", default="", help="such as 4,8,16; default: all")
    args = parser.parse_args()
    columns = [int(c) for c in args.columns.split(",") if c]
    nuclei = write_cohort(args.slide, args.out, columns)
    for column, count in nuclei.items():
        print(f"{column_name(column)}: {count:,} nuclei")
    print(f"{args.out}: {sum(nuclei.values()):,} nuclei of ONE patient")


if __name__ == "__main__":
    main()
