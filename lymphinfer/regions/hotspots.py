"""Hot spots by a stated statistic: Getis and Ord's Gi* on squares of the tissue."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from lymphinfer.regions.grid import Grid

F64 = NDArray[np.float64]

LEAST_SHARE = 0.25
"""Squares with less tissue say too little."""
FEWEST_SQUARES = 30
RATE = 0.05
STATEMENT = (
    "Getis-Ord Gi* of the expected density in squares and their eight neighbours; hot where z > 0 "
    "and the false discovery rate (Benjamini-Hochberg, two-sided) is below 0.05"
)


def gi_star(values: F64, known: NDArray[np.bool_]) -> F64:
    """Gi* of each square with itself and its eight neighbours, as a z score.

    Ord and Getis, Local spatial autocorrelation statistics (1995): the
    standardised Gi*, with weights of 1 and 0.

    Parameters
    ----------
    values : ndarray of float64, shape (rows, columns)
    known : ndarray of bool, same shape
        Squares that count; the others are neither values nor neighbours.

    Returns
    -------
    ndarray of float64, same shape
        NaN where not known, 0 where all values are equal.
    """
    from scipy.ndimage import convolve

    around = np.ones((3, 3))
    n = int(known.sum())
    x = np.where(known, values, 0.0)
    weights = convolve(known.astype(np.float64), around, mode="constant")
    sums = convolve(x, around, mode="constant")
    mean = x.sum() / n
    variance = (x**2).sum() / n - mean**2
    scale = np.sqrt(max(variance, 0) * np.clip(n * weights - weights**2, 0, None) / (n - 1))
    z = np.divide(sums - mean * weights, scale, out=np.zeros_like(x), where=scale > 1e-12)
    return np.where(known, z, np.nan)


def hot_spots(expected: F64, shares: F64, grid: Grid, mpp: float) -> dict[str, Any]:
    """Find the areas of a slide that are denser than chance would have them.

    Parameters
    ----------
    expected : ndarray of float64, flat
        Expected cells of each square.
    shares : ndarray of float64, flat
        Share of each square that is tissue.
    grid : Grid
    mpp : float
        Level-0 pixel size, µm/px.

    Returns
    -------
    dict
        ``statistic``, ``squares`` that count, and ``spots``, the highest z first: ``squares``,
        ``tissue_mm2``, ``expected``, ``expected_per_mm2``, ``z``, ``x`` and ``y`` (middle, level-0
        px) and ``geometry``, a Polygon or MultiPolygon; ``refused`` where there is too little.
    """
    from scipy.ndimage import label
    from scipy.stats import false_discovery_control, norm

    square_mm2 = (grid.side_px * mpp / 1000) ** 2
    mm2 = (shares * square_mm2).reshape(grid.shape)
    known = mm2 >= LEAST_SHARE * square_mm2
    found = {"statistic": STATEMENT, "squares": int(known.sum()), "spots": []}
    if known.sum() < FEWEST_SQUARES:
        return found | {"refused": f"fewer than {FEWEST_SQUARES} squares of tissue"}
    cells = expected.reshape(grid.shape)
    density = np.divide(cells, mm2, out=np.zeros_like(cells), where=known)
    z = gi_star(density, known)
    rates = np.ones(grid.shape)
    rates[known] = false_discovery_control(2 * norm.sf(np.abs(z[known])))
    numbers, count = label((z > 0) & (rates < RATE), np.ones((3, 3)))
    spots = []
    for number in range(1, count + 1):
        rows, columns = np.nonzero(numbers == number)
        tissue = float(mm2[rows, columns].sum())
        sum_ = float(cells[rows, columns].sum())
        spots.append(
            {
                "squares": len(rows),
                "tissue_mm2": tissue,
                "expected": sum_,
                "expected_per_mm2": sum_ / tissue,
                "z": float(z[rows, columns].max()),
                "x": float((columns.mean() + 0.5) * grid.side_px),
                "y": float((rows.mean() + 0.5) * grid.side_px),
                "geometry": _squares(rows, columns, grid.side_px),
            }
        )
    return found | {"spots": sorted(spots, key=lambda spot: -float(spot["z"]))}


def _squares(rows: NDArray[Any], columns: NDArray[Any], side: float) -> BaseGeometry:
    x, y = columns * side, rows * side
    return shapely.union_all(shapely.box(x, y, x + side, y + side))
