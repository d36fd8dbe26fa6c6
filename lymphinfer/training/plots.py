"""ROC, precision-recall and calibration plots of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lymphinfer.cells.files import atomic_write
from lymphinfer.training import metrics
from lymphinfer.training.scorer import Predictions, Scorer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 2000


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure that needs no display.

    Raises
    ------
    DataError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        from lymphinfer.errors import DataError

        raise DataError("plots need matplotlib: pip install 'lymphinfer[train]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


def _color(rgb: tuple[int, int, int]) -> tuple[float, ...]:
    # The panel's colours are made for tissue; on white the light ones need some weight.
    return tuple(0.85 * v / 255 for v in rgb)


def _thin(x: Any, y: Any) -> tuple[Any, Any]:
    if len(x) <= MOST_POINTS:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).astype(int))
    return x[keep], y[keep]


def _draw_roc(axes: Axes, labels: Any, scores: Any, **style: Any) -> str:
    axes.plot(*_thin(*metrics.roc_curve(labels, scores)), **style)
    return f"AUROC {metrics.auroc(labels, scores):.3f}"


def _draw_precision_recall(axes: Axes, labels: Any, scores: Any, **style: Any) -> str:
    axes.plot(*_thin(*metrics.precision_recall_curve(labels, scores)), **style)
    return f"AP {metrics.average_precision(labels, scores):.3f}"


def _draw_calibration(axes: Axes, labels: Any, scores: Any, **style: Any) -> str:
    mean, frequency, count = metrics.reliability(labels, scores)
    shown = count > 0
    axes.plot(mean[shown], frequency[shown], marker="o", markersize=3, **style)
    known = labels >= 0
    error = metrics.expected_calibration_error(scores[known], labels[known])
    return f"ECE {error:.3f}"


_Draw = Callable[..., str]
_PLOTS: tuple[tuple[str, str, str, _Draw, bool], ...] = (
    ("roc.png", "false positive rate", "true positive rate", _draw_roc, True),
    ("precision_recall.png", "recall", "precision", _draw_precision_recall, False),
    ("calibration.png", "mean probability", "frequency", _draw_calibration, True),
)


def plot_evaluation(out: Path, scorer: Scorer, predictions: Predictions) -> list[Path]:
    """Draw the three plots, a line a marker; markers with one class only are named in the legend.

    Parameters
    ----------
    out : Path
        Folder for ``roc.png``, ``precision_recall.png`` and ``calibration.png``.
    scorer : Scorer
    predictions : Predictions

    Returns
    -------
    list of Path
    """
    written = []
    for file, x_label, y_label, draw, diagonal in _PLOTS:
        figure = new_figure(4.6, 4.4)
        axes = figure.add_subplot()
        if diagonal:
            axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
        for i, marker in enumerate(scorer.panel.markers):
            labels = predictions.stores.labels[:, i]
            style = {"color": _color(marker.color), "linewidth": 1.6}
            reason = metrics.why_undefined(labels)
            if reason:
                axes.plot([], [], label=f"{marker.name}: {reason}", **style)
                continue
            value = draw(axes, labels, predictions.final[:, i], **style)
            axes.lines[-1].set_label(f"{marker.name}: {value}")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x_label, ylabel=y_label)
        axes.set_title(scorer.name)
        axes.set_aspect("equal")
        axes.legend(fontsize=8, frameon=False)
        save_figure(figure, out / file)
        written.append(out / file)
    return written
