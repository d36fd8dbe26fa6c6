"""What the page shows of a slide's intensities: histogram, counts, examples of each range."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import AUTOFLUORESCENCE, CellTable, load_cells
from lymphinfer.orion.figure import RANGE_COLORS
from lymphinfer.orion.gates import AfCorrection, Gate, SlideGates
from lymphinfer.orion.labels import LabelCounts, gate_values, label_cells, usable_cells
from lymphinfer.orion.layout import Layout, TableFormat, orion_layout
from lymphinfer.orion.propose import proposal_channels, propose_slide
from lymphinfer.panel import Panel

RANGES = tuple(RANGE_COLORS)
"""Names of a gate's ranges, in rising order."""

BINS = 4096
# Thresholds above a slide's brightest cell must still have a place on the axis.
_AXIS_TOP = 1.25
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Histogram:
    """Cells by intensity, artefacts left out.

    Attributes
    ----------
    log_low, log_high : float
        Ends of the axis, log10 of counts; cells beyond them stand in the first and last bin.
    bins : ndarray of int64, (B,)
        Cells of equal steps of the logarithm.
    """

    log_low: float
    log_high: float
    bins: NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """A cell to look at.

    Attributes
    ----------
    row : int
        In the cell table.
    cell_id : int
    value : float
        Intensity that the gate applies to, counts.
    label : int
        After curation: 1, 0 or -1.
    """

    row: int
    cell_id: int
    value: float
    label: int


class SlideView:
    """A slide's cells, held in memory: 80 bytes a cell.

    Parameters
    ----------
    path : Path
        The cell table.
    panel : Panel
    form : TableFormat, optional
        How the table is written; as ORION's where None.
    layout : Layout, optional
        The cohort's; ORION's where None.

    Raises
    ------
    DataError
        The table cannot be used.
    """

    def __init__(
        self,
        path: Path,
        panel: Panel,
        form: TableFormat | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.panel = panel
        self._image = (layout or orion_layout()).file.image
        self.cells: CellTable = load_cells(path, proposal_channels(panel), None, form)
        # One order for all samples: a moved threshold exchanges few of the examples.
        order = np.random.default_rng(0).permutation(len(self.cells))
        self._order: NDArray[np.int32] = order.astype(np.int32)
        self._windows: dict[str, tuple[float, float]] = {}

    def counts(self, gates: SlideGates) -> tuple[LabelCounts, ...]:
        """Count what becomes of the cells, as `lymphinfer gate apply` does; one a marker."""
        return label_cells(self.cells, gates, self.panel).counts

    def usable(self, gates: SlideGates) -> NDArray[np.bool_]:
        """Cells that are no artefact, bool (N,)."""
        return usable_cells(self.cells, gates.blank_max)

    def histogram(self, gates: SlideGates, marker: str) -> Histogram:
        """Histogram of the intensities that a marker's gate applies to.

        Parameters
        ----------
        gates : SlideGates
        marker : str

        Returns
        -------
        Histogram
            `BINS` bins, from the lowest thousandth of the cells to above the brightest cell and
            the highest threshold.
        """
        gate = gates.markers[marker]
        values = np.maximum(gate_values(self.cells, marker, gate)[self.usable(gates)], 1.0)
        if not len(values):
            values = np.ones(1)
        low = min(float(np.quantile(values, 0.001)), max(gate.negative_max, 1.0))
        top = max(float(values.max()), gate.overexposure_min, low + 1) * _AXIS_TOP
        log_low, log_high = float(np.log10(low)), float(np.log10(top))
        place = (np.log10(values) - log_low) * (BINS / (log_high - log_low))
        bins = np.bincount(np.clip(place, 0, BINS - 1).astype(np.int64), minlength=BINS)
        return Histogram(log_low, log_high, bins)

    def examples(
        self, gates: SlideGates, marker: str, number: int, draw: int = 0
    ) -> dict[str, tuple[Example, ...]]:
        """Draw cells of each range of a gate, by chance but always the same.

        Parameters
        ----------
        gates : SlideGates
        marker : str
        number : int
            Cells a range; fewer where it has fewer.
        draw : int
            0 for the first cells of the chance order, 1 for the next, and so on, until a range is
            used up, where it begins anew.

        Returns
        -------
        dict of str to tuple of Example
            By range, in rising order of intensity.
        """
        gate = gates.markers[marker]
        values = gate_values(self.cells, marker, gate)
        edges = (gate.negative_max, gate.positive_min, gate.overexposure_min)
        labels = label_cells(self.cells, gates, self.panel).labels[:, self.panel.index(marker)]
        chosen = self._draw(values, self.usable(gates), edges, number, draw)
        result = {}
        for name, rows in zip(RANGES, chosen, strict=True):
            result[name] = tuple(
                Example(int(r), int(self.cells.cell_id[r]), float(values[r]), int(labels[r]))
                for r in rows[np.argsort(values[rows], kind="stable")]
            )
        return result

    def window(self, marker: str) -> tuple[float, float]:
        """Black and white of a marker's picture, raw counts; it does not depend on gates."""
        # Every picture asks for it, and of a slide's cells quantiles take longer than the picture.
        if marker not in self._windows:
            low, high = np.quantile(self.cells.intensities[marker], (0.05, 0.995))
            # Noise of a sixteen-bit camera is not to look like signal; eight bits have no such
            # room.
            least = min(50.0, self._image.saturation / 20)
            self._windows[marker] = float(low), float(max(high * 1.5 - low * 0.5, low + least))
        return self._windows[marker]

    def propose(self, gates: SlideGates, marker: str) -> Gate:
        """Propose one marker's gate anew, given the slide's other gates; see `propose_slide`."""
        keep = {name: gate for name, gate in gates.markers.items() if name != marker}
        proposed, _ = propose_slide(self.cells, self.panel, keep=keep, image=self._image)
        return proposed.markers[marker]

    def recorrected(self, gates: SlideGates, marker: str, *, corrected: bool) -> Gate:
        """Let a gate apply to raw intensities, or to those without autofluorescence.

        The thresholds move to where they leave as many cells below them as before, so that ranges
        keep their sizes. A gate without correction gets the slide's own estimate.

        Parameters
        ----------
        gates : SlideGates
        marker : str
        corrected : bool

        Returns
        -------
        Gate
            The gate itself where nothing changes.

        Raises
        ------
        DataError
            No correction can be estimated.
        """
        gate = gates.markers[marker]
        if corrected == (gate.af is not None):
            return gate
        af = self.propose(gates, marker).af if corrected else None
        if corrected and af is None:
            raise DataError(
                f"{self.cells.path}: no autofluorescence correction of {marker} by "
                f"{AUTOFLUORESCENCE} can be estimated. Keep the raw intensities."
            )
        return self._matched(gates, marker, af)

    def _matched(self, gates: SlideGates, marker: str, af: AfCorrection | None) -> Gate:
        gate, usable = gates.markers[marker], self.usable(gates)
        old = gate_values(self.cells, marker, gate)[usable]
        new = np.sort(gate_values(self.cells, marker, replace(gate, af=af))[usable])

        def place(threshold: float) -> float:
            below = int((old < threshold).sum())
            return round(float(new[below]), 1) if below < len(new) else threshold

        low = max(place(gate.negative_max), 0.1)
        high = max(place(gate.positive_min), low)
        over = max(place(gate.overexposure_min), high + 1.0)
        return replace(gate, negative_max=low, positive_min=high, overexposure_min=over, af=af)

    def _draw(
        self,
        values: NDArray[np.float64],
        usable: NDArray[np.bool_],
        edges: tuple[float, float, float],
        number: int,
        draw: int,
    ) -> list[NDArray[np.int64]]:
        """Rows of each range: the `draw`-th `number` in the chance order."""
        wanted = number * (draw + 1)
        found: list[list[int]] = [[] for _ in RANGES]
        for start in range(0, len(self._order), _CHUNK):
            rows = self._order[start : start + _CHUNK]
            rows = rows[usable[rows]]
            which = np.searchsorted(edges, values[rows], side="right")
            for i, own in enumerate(found):
                if len(own) < wanted:
                    own += rows[which == i][: wanted - len(own)].tolist()
            if all(len(own) >= wanted for own in found):
                break
        return [np.array(_turn(own, number, draw), np.int64) for own in found]


def _turn(rows: list[int], number: int, draw: int) -> list[int]:
    """Rows of one draw, from the beginning again where they are used up."""
    pages = max(1, -(-len(rows) // number))
    first = (draw % pages) * number
    return rows[first : first + number]
