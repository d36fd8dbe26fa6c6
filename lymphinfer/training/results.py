"""What an evaluation came to, and its files: predictions, metrics, plots."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lymphinfer.cells.files import atomic_write
from lymphinfer.training.intervals import MarkerMetrics
from lymphinfer.training.plots import plot_evaluation
from lymphinfer.training.scorer import Predictions, Scorer

PREDICTIONS, METRICS_JSON, METRICS_MD = "predictions.parquet", "metrics.json", "metrics.md"


@dataclass(frozen=True)
class Evaluation:
    """What a scorer reaches on some stores.

    Attributes
    ----------
    name : str
        Of the bundle or run.
    markers : tuple of MarkerMetrics
        In panel order.
    by_slide : dict of str to dict of str to float
        AUROC by slide and marker; NaN where a class is missing there.
    by_batch : dict of str to dict of str to float
        The same by ORION's staining batch; empty for patients that are not ORION's.
    best_possible : dict of str to float
        AUROC by marker that no reader of the H&E can exceed; known of simulated cells alone.
    """

    name: str
    markers: tuple[MarkerMetrics, ...]
    by_slide: dict[str, dict[str, float]]
    best_possible: dict[str, float] = field(default_factory=dict)
    by_batch: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for NaN."""
        return {
            "name": self.name,
            "markers": [m.to_dict() for m in self.markers],
            "best_possible_auroc": self.best_possible,
            "auroc_by_slide": _plain(self.by_slide),
            "auroc_by_batch": _plain(self.by_batch),
        }


def write_predictions(path: Path, scorer: Scorer, predictions: Predictions) -> None:
    """Write a row a cell: place, labels (null where unknown), raw and final probabilities."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stores = predictions.stores
    columns: dict[str, Any] = {
        "slide": pa.array(stores.slides).dictionary_encode(),
        "patient": pa.array(stores.patients).dictionary_encode(),
        "cell_id": stores.cell_id,
        "x": stores.x,
        "y": stores.y,
    }
    for i, marker in enumerate(scorer.panel.markers):
        label = stores.labels[:, i]
        columns[f"label_{marker.key}"] = pa.array(label, mask=label < 0)
        columns[f"raw_{marker.key}"] = predictions.raw[:, i]
        columns[f"p_{marker.key}"] = predictions.final[:, i]
    with atomic_write(path) as file:
        pq.write_table(pa.table(columns), file)


def metrics_table(evaluation: Evaluation) -> str:
    """Metrics as a Markdown table."""
    lines = [
        "| marker | positive / negative | AUROC | balanced accuracy at 0.5, as trained "
        "| balanced accuracy at the threshold | average precision | calibration error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for m in evaluation.markers:
        chosen = str(m.balanced_accuracy_chosen)
        if not np.isnan(m.threshold):
            chosen += f" at {m.threshold:.3g}"
        lines.append(
            f"| {m.marker} | {m.n_positive:,} / {m.n_negative:,} | {m.auroc} "
            f"| {m.balanced_accuracy} | {chosen} | {m.average_precision} "
            f"| {m.calibration_error} |"
        )
    if evaluation.best_possible:
        best = ", ".join(f"{k} {v:.3f}" for k, v in evaluation.best_possible.items())
        lines += ["", f"Best possible AUROC on these cells, from the simulation's truth: {best}."]
    return "\n".join(lines) + "\n"


def _plain(groups: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    return {
        group: {k: (None if np.isnan(v) else v) for k, v in row.items()}
        for group, row in groups.items()
    }


def slide_table(evaluation: Evaluation) -> str:
    """AUROC of every slide, and of every staining batch, as a Markdown table."""
    names = [m.marker for m in evaluation.markers]
    lines = ["| slide | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for slide, row in {**evaluation.by_slide, **evaluation.by_batch}.items():
        cells = ["-" if np.isnan(row[n]) else f"{row[n]:.3f}" for n in names]
        lines.append(f"| {slide} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_evaluation(
    out: Path, scorer: Scorer, predictions: Predictions, evaluation: Evaluation, *, command: str
) -> None:
    """Write predictions, metrics and plots into a folder.

    Parameters
    ----------
    out : Path
    scorer : Scorer
    predictions : Predictions
    evaluation : Evaluation
    command : str
        What made it, named beside the numbers.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / PREDICTIONS, scorer, predictions)
    n_patients = len(np.unique(predictions.stores.patients))
    text = (
        f"# {evaluation.name}\n\n{len(predictions.stores):,} cells of {n_patients} patients; "
        "intervals: 95 %, by resampling patients.\n\n"
        f"{metrics_table(evaluation)}\n## AUROC by slide\n\n{slide_table(evaluation)}\n"
        f"Made by `{command}`.\n"
    )
    with atomic_write(out / METRICS_MD) as file:
        file.write(text.encode())
    plot_evaluation(out, scorer, predictions)
    # Last, so that its presence says that the rest is there.
    with atomic_write(out / METRICS_JSON) as file:
        document = {**evaluation.to_dict(), "command": command}
        file.write(json.dumps(document, indent=1).encode())
