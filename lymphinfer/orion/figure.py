"""The picture of a slide's gates: a histogram a marker, in the colours of its four ranges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import CellTable
from lymphinfer.orion.gates import Gate, SlideGates
from lymphinfer.orion.labels import gate_values, usable_cells
from lymphinfer.panel import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANGE_COLORS = {
    "negative": "#0072B2",
    "uncertain": "#999999",
    "positive": "#009E73",
    "over-exposed": "#D55E00",
}
"""Okabe and Ito's palette."""

_BINS = 160
# Where 0 stands on a logarithmic axis of whole numbers: to the left of 0.5, where 1 begins.
_ZERO = 0.4


def draw_gates(cells: CellTable, gates: SlideGates, panel: Panel, title: str) -> Figure:
    """Draw the histograms of a slide's markers, as the paper's figure 2 does.

    Both axes are logarithmic: counts, and intensities from 1 on (what is below stands in the first
    bar; of whole numbers 0 has its own, at the left). Each bar has the colour of its range; a bar
    that a threshold cuts is cut in two. The legend says how many cells each range has, before
    curation.

    Parameters
    ----------
    cells : CellTable
        With the channels that the gates need.
    gates : SlideGates
        A gate for every marker of the panel.
    panel : Panel
    title : str
        The slide's name.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    DataError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            "drawing gates needs matplotlib, which is not installed. "
            "Run `pip install 'lymphinfer[orion]'`."
        ) from error
    usable = usable_cells(cells, gates.blank_max)
    columns = min(2, len(panel))
    rows = -(-len(panel) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.6 * rows), dpi=120, layout="constrained")
    figure.suptitle(f"{title}: {int(usable.sum()):,} cells")
    for i, name in enumerate(panel.names):
        axes = figure.add_subplot(rows, columns, i + 1)
        gate = gates.markers[name]
        _draw(axes, gate_values(cells, name, gate)[usable], gate, name)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; ResultError if it cannot be."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def range_counts(values: NDArray[np.floating], gate: Gate) -> dict[str, int]:
    """Count the cells of each range, by name, in rising order."""
    edges = (gate.negative_max, gate.positive_min, gate.overexposure_min)
    below = [int((values < edge).sum()) for edge in edges]
    counts = np.diff([0, *below, len(values)])
    return {name: int(n) for name, n in zip(RANGE_COLORS, counts, strict=True)}


def _between_whole(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges, log10, moved to the halves between whole numbers; bars of one number where narrow."""
    halves = np.floor(10**edges) + 0.5
    return np.unique(np.log10(np.concatenate([[10 ** edges[0]], halves, [10 ** edges[-1] + 0.5]])))


def _draw(axes: Axes, values: NDArray[np.float64], gate: Gate, name: str) -> None:
    from matplotlib.patches import Patch

    whole = bool((values == np.rint(values)).all())
    # Of whole numbers 0 has a bar of its own, and none is a gap between two.
    least = _ZERO if whole else 1.0
    shown = np.log10(np.maximum(values, least))
    thresholds = np.array([gate.negative_max, gate.positive_min, gate.overexposure_min])
    if whole:
        # Between the same two numbers, where no bar is cut.
        thresholds = np.ceil(thresholds) - 0.5
    bounds = np.log10(np.maximum(thresholds, least)).tolist()
    low, high = float(shown.min()), max(float(shown.max()), bounds[1] + 0.1) + 1e-6
    if whole:
        low = float(np.log10(_ZERO / 2)) if low < 0 else low
    inside = [bound for bound in bounds if low < bound < high]
    regular = np.linspace(low, high, _BINS + 1)
    if whole:
        regular = _between_whole(regular)
    edges = np.unique(np.concatenate([regular, inside]))
    counts, edges = np.histogram(shown, bins=edges)
    # A bar that a threshold has cut is narrower; its height is told for the full width.
    width = (high - low) / _BINS
    heights = counts * width / np.diff(edges)
    which = np.searchsorted(bounds, edges[:-1], side="right")
    numbers = range_counts(values, gate)
    for i, color in enumerate(RANGE_COLORS.values()):
        own = which == i
        axes.bar(
            10 ** edges[:-1][own],
            heights[own],
            width=10 ** edges[1:][own] - 10 ** edges[:-1][own],
            align="edge",
            color=color,
        )
    for bound in inside:
        axes.axvline(10**bound, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # Above the bars there is room for the legend.
    axes.set_ylim(0.7, 10 * max(float(heights.max()), 1.0))
    axes.set_xlabel("mean intensity" + ("" if gate.af is None else " without autofluorescence"))
    axes.set_ylabel("cells for equal widths" if whole else "cells")
    axes.set_title(name, loc="left")
    axes.set_title(gate.set_by, loc="right", fontsize=7)
    # Handles of their own: a range without cells has no bar to take the colour from.
    handles = [
        Patch(color=color, label=f"{label}: {numbers[label]:,}")
        for label, color in RANGE_COLORS.items()
    ]
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="upper right")
