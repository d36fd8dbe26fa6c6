"""Immune hot spots: the windows of a slide with most leukocytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lymphinfer.export.report.survey import Survey

WINDOW_UM = 500.0
MOST = 5


@dataclass(frozen=True)
class HotSpot:
    """A square window of a slide.

    Attributes
    ----------
    x, y, side : float
        Corner and side, level-0 px.
    side_um : float
    nuclei : int
    expected : float
        Sum of the root marker's probabilities in it.
    called : int
        Nuclei called positive for it.
    """

    x: float
    y: float
    side: float
    side_um: float
    nuclei: int
    expected: float
    called: int

    @property
    def area_mm2(self) -> float:
        """Area, mm²."""
        return (self.side_um / 1000) ** 2


def hot_spots(
    survey: Survey, mean_per_mm2: float = 0.0, *, window_um: float = WINDOW_UM, most: int = MOST
) -> list[HotSpot]:
    """Find the windows with most expected cells of the root marker; none overlaps another.

    Parameters
    ----------
    survey : Survey
    mean_per_mm2 : float
        Expected density of the tissue as a whole: what is not denser is no hot spot.
    window_um : float
        Side of a window, µm; a third of the slide's shorter side where that is less. It is rounded
        to whole bins.
    most : int
        How many to find.

    Returns
    -------
    list of HotSpot
        The densest first; windows in which less than one cell is expected are none.
    """
    grid = survey.expected[survey.root]
    size = min(round(window_um / survey.bin_um), min(grid.shape) // 3)
    size = max(size, 1)
    sums = window_sums(grid, size)
    nuclei = window_sums(survey.nuclei, size)
    called = window_sums(survey.called[survey.root], size)
    spots: list[HotSpot] = []
    least = max(1.0, mean_per_mm2 * (size * survey.bin_um / 1000) ** 2)
    left = sums.copy()
    while len(spots) < most:
        row, column = (int(i) for i in np.unravel_index(int(left.argmax()), left.shape))
        if left[row, column] < least:
            break
        spots.append(
            HotSpot(
                column * survey.bin_px,
                row * survey.bin_px,
                size * survey.bin_px,
                size * survey.bin_um,
                round(nuclei[row, column]),
                float(sums[row, column]),
                round(called[row, column]),
            )
        )
        top, start = max(row - size + 1, 0), max(column - size + 1, 0)
        left[top : row + size, start : column + size] = -1
    return spots


def window_sums(grid: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Sum of each window of `size` x `size` bins that lies in a grid, by its first bin."""
    total = np.pad(grid.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums: NDArray[np.float64] = (
        total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    )
    return sums
