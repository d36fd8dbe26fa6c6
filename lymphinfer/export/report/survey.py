"""What a report needs of the nuclei, gathered in one pass: maps, histograms, examples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lymphinfer.cells.table import read_calls, read_ids
from lymphinfer.export.results import Result
from lymphinfer.panel import OTHER, Panel

F64 = NDArray[np.float64]

LONGEST_MAP_BINS = 480
FINEST_BIN_UM = 10.0
SMOOTHING_UM = 30.0
HISTOGRAM_BINS = 50
BAND_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
EXAMPLES = 8


@dataclass
class Survey:
    """Maps, histograms and examples of a slide's nuclei.

    Attributes
    ----------
    panel : Panel
    bin_um : float
        Side of a map's bin, µm.
    bin_px : float
        The same in level-0 px.
    nuclei : ndarray of float64, (rows, columns)
        Nuclei in each bin; bin (0, 0) begins at level-0 (0, 0).
    expected, called : dict of str to ndarray of float64, (rows, columns)
        By marker: sum of probabilities, and nuclei with the marker in their call's lineage.
    histograms : dict of str to ndarray of int64, (HISTOGRAM_BINS,)
        By marker: nuclei by probability, 0 to 1.
    examples : dict of (str, int) to pyarrow.Table
        By marker and band of `BAND_EDGES`: up to `EXAMPLES` nuclei, a random choice that is the
        same every time.
    """

    panel: Panel
    bin_um: float
    bin_px: float
    nuclei: F64
    expected: dict[str, F64]
    called: dict[str, F64]
    histograms: dict[str, NDArray[np.int64]]
    examples: dict[tuple[str, int], pa.Table] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """The marker that all others imply."""
        return self.panel.names[0]

    def density(self, counts: F64) -> F64:
        """Nuclei per mm² of slide area, smoothed by a Gaussian; for a map of this survey."""
        from scipy import ndimage

        sigma = max(SMOOTHING_UM / self.bin_um, 1.5)
        smooth = ndimage.gaussian_filter(counts, sigma, mode="nearest")
        return np.asarray(smooth / (self.bin_um / 1000) ** 2)


def survey(result: Result) -> Survey:
    """Look at all nuclei of a slide once; memory holds the maps and one table.

    Parameters
    ----------
    result : Result

    Returns
    -------
    Survey

    Raises
    ------
    ResultError
        If the parts cannot be read.
    """
    panel = result.panel
    width_um, height_um = (n * result.mpp for n in result.dimensions)
    bin_um = max(FINEST_BIN_UM, max(width_um, height_um) / LONGEST_MAP_BINS)
    shape = max(1, math.ceil(height_um / bin_um)), max(1, math.ceil(width_um / bin_um))
    found = Survey(
        panel,
        bin_um,
        bin_um / result.mpp,
        np.zeros(shape),
        {name: np.zeros(shape) for name in panel.names},
        {name: np.zeros(shape) for name in panel.names},
        {name: np.zeros(HISTOGRAM_BINS, np.int64) for name in panel.names},
    )
    learned = [name for name in panel.names if result.is_learned(name)]
    for table in result.tables():
        _add(found, table, learned)
    return found


def _add(found: Survey, table: pa.Table, learned: list[str]) -> None:
    panel, shape = found.panel, found.nuclei.shape
    column = np.clip(table.column("x").to_numpy() // found.bin_px, 0, shape[1] - 1)
    row = np.clip(table.column("y").to_numpy() // found.bin_px, 0, shape[0] - 1)
    place = (row * shape[1] + column).astype(np.int64)
    n = shape[0] * shape[1]
    found.nuclei += np.bincount(place, minlength=n).reshape(shape)
    calls = read_calls(table, panel)
    for marker in panel.markers:
        name = marker.name
        value = table.column(f"p_{marker.key}").to_numpy().astype(np.float64)
        known = np.isfinite(value)
        found.expected[name] += np.bincount(
            place, weights=np.where(known, value, 0), minlength=n
        ).reshape(shape)
        carries = [call != OTHER and name in panel.lineage(call) for call in panel.calls]
        positive = np.array(carries)[calls]
        found.called[name] += np.bincount(place[positive], minlength=n).reshape(shape)
        counts, _ = np.histogram(value[known], HISTOGRAM_BINS, (0, 1))
        found.histograms[name] += counts
        if name in learned:
            _add_examples(found, table, name, np.where(known, value, -1))


def _add_examples(found: Survey, table: pa.Table, name: str, value: F64) -> None:
    band = np.searchsorted(BAND_EDGES[1:-1], value, side="right")
    band[value < 0] = -1
    keys = _keys(table)
    for number in range(len(BAND_EDGES) - 1):
        rows = np.flatnonzero(band == number)
        if not len(rows):
            continue
        first = rows[np.argsort(keys[rows], kind="stable")[:EXAMPLES]]
        chosen = table.take(first)
        before = found.examples.get((name, number))
        if before is not None:
            chosen = pa.concat_tables([before, chosen])
            chosen = chosen.take(np.argsort(_keys(chosen), kind="stable")[:EXAMPLES])
        found.examples[name, number] = chosen


def _keys(table: pa.Table) -> NDArray[np.uint64]:
    """A number of each nucleus that has nothing to do with its place: from its uuid5."""
    ids = np.ascontiguousarray(read_ids(table)[:, 8:])
    return ids.view(np.uint64).ravel()
