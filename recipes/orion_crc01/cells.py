"""Labels and samples of CRC01's nuclei by the project's own rules: gates, hierarchy, sampling.

The gates are the three-range gates of `recipes.he.crc01`, those of he-v2, one a marker for the
whole slide. A column of tiles stands in for a patient in sampling, a tile in intervals.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lymphinfer.orion.gates import Gate
from lymphinfer.orion.labels import Labels, apply_gate, curate
from lymphinfer.orion.sampling import sample_patient
from lymphinfer.panel import Panel
from lymphinfer.training.calibrate import count_labels
from recipes.he.crc01 import GATES, TILE_PX, TiledSlide
from recipes.orion_crc01.columns import TEST_COLUMNS, VAL_COLUMNS

OUT_OF_REACH_PX = 56
"""Half of the widest patch: a nucleus nearer to a held-out column would show its pixels."""
OVEREXPOSED = 256.0
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Sets:
    """Which nuclei are for what, by index into the slide's table.

    Attributes
    ----------
    train, val, test : ndarray of int64
        Training and validation drawn by the paper's rule, the test at its real distribution.
    """

    train: Index
    val: Index
    test: Index


def gate(marker: str) -> Gate:
    """The gate of a marker; a nucleus at its lower threshold is negative."""
    low, high = GATES[marker]
    return Gate(float(np.nextafter(low, np.inf)), high, OVEREXPOSED)


def labels_of(slide: TiledSlide, panel: Panel) -> Labels:
    """Labels {1, 0, -1 unknown}, (N, M), gated and curated along the panel's hierarchy."""
    gated = [apply_gate(slide.values[name], gate(name)) for name in panel.names]
    return curate(np.stack(gated, axis=1), panel)[0]


def usable(slide: TiledSlide) -> NDArray[np.bool_]:
    """Nuclei on a tile that is there, bool (N,)."""
    rows, columns = slide.there.shape
    inside = (slide.row < rows) & (slide.column < columns)
    found = np.zeros(len(slide.xy), bool)
    found[inside] = slide.there[slide.row[inside], slide.column[inside]]
    return found


def split_of(slide: TiledSlide) -> NDArray[np.str_]:
    """``train``, ``val`` or ``test`` of each nucleus; empty where it is in none."""
    column, x = slide.column, slide.xy[:, 0]
    held_out = np.isin(column, (*TEST_COLUMNS, *VAL_COLUMNS))
    near = np.zeros(len(x), bool)
    for c in (*TEST_COLUMNS, *VAL_COLUMNS):
        start = c * TILE_PX
        near |= (x >= start - OUT_OF_REACH_PX) & (x < start + TILE_PX + OUT_OF_REACH_PX)
    split = np.where(near, "", "train").astype("U5")
    split[held_out & np.isin(column, VAL_COLUMNS)] = "val"
    split[held_out & np.isin(column, TEST_COLUMNS)] = "test"
    split[~usable(slide)] = ""
    return split


def draw_sets(
    slide: TiledSlide, labels: Labels, panel: Panel, *, train: int, val: int, test: int
) -> Sets:
    """Draw the cells of every column as those of a patient are drawn.

    Parameters
    ----------
    slide : TiledSlide
    labels : ndarray of int8, (N, M)
    panel : Panel
    train, val, test : int
        Cells a column.

    Returns
    -------
    Sets
    """
    split, wanted = split_of(slide), {"train": train, "val": val, "test": test}
    drawn: dict[str, list[Index]] = {name: [] for name in wanted}
    for column in np.unique(slide.column).tolist():
        for name, number in wanted.items():
            own = np.flatnonzero((slide.column == column) & (split == name))
            if len(own):
                sample = sample_patient(
                    f"column-{column:02d}", name, [labels[own]], panel, n=number
                )
                drawn[name].append(own[sample.rows[0]])
    empty = [name for name, found in drawn.items() if not found]
    if empty:
        raise SystemExit(f"{slide.folder}: no nucleus for {', '.join(empty)}")
    return Sets(**{name: np.concatenate(found) for name, found in drawn.items()})


def population(slide: TiledSlide, labels: Labels) -> Counter[tuple[int, ...]]:
    """How often each row of labels is among all nuclei of the validation columns."""
    return count_labels(labels[split_of(slide) == "val"])


def blocks(slide: TiledSlide, index: Index) -> NDArray[np.str_]:
    """Tile of each nucleus, by which intervals are resampled."""
    pairs = zip(slide.column[index].tolist(), slide.row[index].tolist(), strict=True)
    return np.array([f"{column}_{row}" for column, row in pairs])
