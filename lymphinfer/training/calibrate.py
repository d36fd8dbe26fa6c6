"""Calibration and thresholds from validation cells, at the distribution that slides really have.

Validation cells are drawn evenly over phenotypes (half positive for no marker), so a probability
fitted on them as they are would promise ten times too many rare cells. Each cell therefore counts
as many times as cells with its very labels stand for it on the validation slides.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.markers.calibration import Calibration, fit_calibration
from lymphinfer.markers.hierarchy import apply_hierarchy
from lymphinfer.panel import Panel
from lymphinfer.training.metrics import best_threshold

LabelCount = Mapping[tuple[int, ...], int]


@dataclass(frozen=True)
class Calibrated:
    """What turns logits into final probabilities and calls.

    Attributes
    ----------
    calibrations : tuple of Calibration
        One a marker, in panel order.
    thresholds : tuple of float
        Of the final probability; NaN where validation data has one class only.
    """

    calibrations: tuple[Calibration, ...]
    thresholds: tuple[float, ...]


def count_labels(labels: NDArray[np.int8]) -> Counter[tuple[int, ...]]:
    """Count cells by their row of labels, (N, M) in {1, 0, -1}."""
    rows, counts = np.unique(labels, axis=0, return_counts=True)
    return Counter(
        {tuple(int(v) for v in row): int(n) for row, n in zip(rows, counts, strict=True)}
    )


def population_weights(labels: NDArray[np.int8], population: LabelCount) -> NDArray[np.float64]:
    """How many cells of the population each sampled cell stands for.

    Parameters
    ----------
    labels : ndarray of int8, (N, M)
        Of the sampled cells.
    population : mapping of label row to int
        Numbers of cells on the slides they were drawn from (`count_labels`).

    Returns
    -------
    ndarray of float64, (N,)
        Population over sample, by label row; 1 for a row that the population does not have.

    Examples
    --------
    >>> labels = np.array([[1], [1], [0], [0]], np.int8)
    >>> population_weights(labels, {(1,): 2, (0,): 100}).tolist()
    [1.0, 1.0, 50.0, 50.0]
    """
    sampled = count_labels(labels)
    weight = {row: population.get(row, n) / n for row, n in sampled.items()}
    return np.array([weight[tuple(int(v) for v in row)] for row in labels], np.float64)


def final_probabilities(
    logits: NDArray[np.floating],
    calibrations: Sequence[Calibration],
    panel: Panel,
    hierarchy: str,
) -> NDArray[np.float32]:
    """Calibrated probabilities made coherent: (N, M) logits to (N, M) in [0, 1]."""
    heads = np.stack([c(logits[:, i]) for i, c in enumerate(calibrations)], axis=1)
    return apply_hierarchy(heads, panel.parent_indices, hierarchy)


def calibrate(
    logits: NDArray[np.floating],
    labels: NDArray[np.int8],
    panel: Panel,
    *,
    hierarchy: str,
    population: LabelCount | None = None,
) -> Calibrated:
    """Fit every head's calibration, then choose thresholds of the final probabilities.

    Parameters
    ----------
    logits : ndarray of float, (N, M)
        Of validation cells.
    labels : ndarray of int8, (N, M)
        1, 0 or -1.
    panel : Panel
    hierarchy : str
        Mode that the final probabilities go through.
    population : mapping of label row to int, optional
        Of the validation slides; None where the cells were drawn at the real distribution.

    Returns
    -------
    Calibrated
    """
    weights = None if population is None else population_weights(labels, population)
    fitted = tuple(fit_calibration(logits[:, i], labels[:, i], weights) for i in range(len(panel)))
    # A head that ranks the wrong way round on validation data must not be turned about by it.
    fitted = tuple(c if c.scale > 0 else Calibration() for c in fitted)
    final = final_probabilities(logits, fitted, panel, hierarchy)
    thresholds = tuple(
        best_threshold(labels[:, i], final[:, i], weights) for i in range(len(panel))
    )
    return Calibrated(fitted, thresholds)


def usable_threshold(threshold: float) -> float:
    """Threshold for a bundle: 0.5 where none could be chosen."""
    return 0.5 if math.isnan(threshold) else threshold


def write_calibration(path: Path, calibrated: Calibrated) -> None:
    """Write calibrations and thresholds as JSON (null for a threshold that could not be chosen)."""
    document = {
        "calibrations": [asdict(c) for c in calibrated.calibrations],
        "thresholds": [None if math.isnan(t) else t for t in calibrated.thresholds],
    }
    with atomic_write(path) as file:
        file.write(json.dumps(document, indent=1).encode())


def read_calibration(path: Path) -> Calibrated:
    """Read what `write_calibration` has written."""
    document = json.loads(path.read_text("utf-8"))
    return Calibrated(
        tuple(Calibration(**c) for c in document["calibrations"]),
        tuple(math.nan if t is None else t for t in document["thresholds"]),
    )
