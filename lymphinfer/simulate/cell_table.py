"""ORION's cell table, measured on the simulated images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from lymphinfer.simulate.panel19 import CHANNEL_NAMES

_MORPHOLOGY = {
    "X_centroid": "centroid-1",
    "Y_centroid": "centroid-0",
    "Area": "area",
    "MajorAxisLength": "axis_major_length",
    "MinorAxisLength": "axis_minor_length",
    "Eccentricity": "eccentricity",
    "Solidity": "solidity",
    "Extent": "extent",
    "Orientation": "orientation",
}
COLUMNS: tuple[str, ...] = ("CellID", *CHANNEL_NAMES, *_MORPHOLOGY)
"""The 29 columns, in ORION's order."""


def measure_cells(
    mask: NDArray[np.int32], image: NDArray[np.uint16]
) -> dict[str, NDArray[np.float64]]:
    """Measure every cell of a mask.

    Parameters
    ----------
    mask : ndarray of int32, (height, width)
        Labels 1..n without gaps, 0 elsewhere.
    image : ndarray of uint16, (19, height, width)
        Immunofluorescence.

    Returns
    -------
    dict of str to ndarray of float64, (cells,)
        By column, keys as `COLUMNS`.
    """
    flat = mask.ravel()
    cells = int(mask.max(initial=0))
    area = np.bincount(flat, minlength=cells + 1)[1:]
    table: dict[str, NDArray[np.float64]] = {"CellID": np.arange(1, cells + 1, dtype=np.float64)}
    for name, channel in zip(CHANNEL_NAMES, image, strict=True):
        total = np.bincount(flat, weights=channel.ravel(), minlength=cells + 1)[1:]
        table[name] = total / np.maximum(area, 1)
    properties = ("label", "centroid", *(p for p in _MORPHOLOGY.values() if "centroid" not in p))
    measure: Callable[..., dict[str, Any]] = regionprops_table
    found = measure(mask, properties=properties)
    for column, source in _MORPHOLOGY.items():
        table[column] = np.asarray(found[source], dtype=np.float64)
    return table


def write_table(path: Path, table: dict[str, NDArray[np.float64]]) -> None:
    """Write a cell table as ORION's CSV.

    Parameters
    ----------
    path : Path
        The file.
    table : dict of str to ndarray of float64, (cells,)
        As `measure_cells` returns it.
    """
    whole = {"CellID", "Area"}
    formats = ["%d" if name in whole else "%.6g" for name in COLUMNS]
    # A coordinate needs its decimals also beyond pixel 10,000.
    formats = [
        "%.3f" if n.endswith("_centroid") else f for n, f in zip(COLUMNS, formats, strict=True)
    ]
    values = np.column_stack([table[name] for name in COLUMNS])
    header = ",".join(COLUMNS)
    np.savetxt(path, values, fmt=formats, delimiter=",", header=header, comments="")
