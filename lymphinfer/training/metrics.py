"""How well scores tell positive from negative cells: pure functions of arrays.

scikit-learn's numbers, of the cells whose label is known; NaN where a class is missing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from lymphinfer.markers.calibration import expected_calibration_error

__all__ = [
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "best_threshold",
    "expected_calibration_error",
    "precision_recall_curve",
    "reliability",
    "roc_curve",
    "why_undefined",
]

Float = NDArray[np.floating]
Int = NDArray[np.integer]


def why_undefined(labels: Int) -> str:
    """Why a metric of these labels (1, 0; negative unknown) is NaN; empty where it is not."""
    positive, negative = int((labels == 1).sum()), int((labels == 0).sum())
    if positive and negative:
        return ""
    if not positive and not negative:
        return "no labelled cell"
    return "no positive cell" if not positive else "no negative cell"


def _known(labels: Int, scores: Float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    keep = np.asarray(labels) >= 0
    return np.asarray(labels)[keep] == 1, np.asarray(scores, np.float64)[keep]


def _both(y: NDArray[np.bool_]) -> bool:
    return bool(y.any()) and not bool(y.all())


def auroc(labels: Int, scores: Float) -> float:
    """Area under the ROC curve: the Mann-Whitney statistic, ties counting one half.

    Parameters
    ----------
    labels : ndarray of int, (N,)
        1, 0; negative where unknown (left out).
    scores : ndarray of float, (N,)
        Higher for positive.

    Returns
    -------
    float
        NaN where a class is missing (`why_undefined`).

    Examples
    --------
    >>> auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    y, s = _known(labels, scores)
    return float(sk.roc_auc_score(y, s)) if _both(y) else float("nan")


def balanced_accuracy(labels: Int, scores: Float, threshold: float = 0.5) -> float:
    """Mean of sensitivity and specificity, a score at or above the threshold being positive.

    Parameters
    ----------
    labels : ndarray of int, (N,)
        1, 0; negative where unknown (left out).
    scores : ndarray of float, (N,)
    threshold : float

    Returns
    -------
    float
        NaN where a class is missing.
    """
    y, s = _known(labels, scores)
    return float(sk.balanced_accuracy_score(y, s >= threshold)) if _both(y) else float("nan")


def best_threshold(labels: Int, scores: Float, weights: Float | None = None) -> float:
    """Threshold of the highest balanced accuracy (Youden 1950), for validation data.

    Parameters
    ----------
    labels : ndarray of int, (N,)
        1, 0; negative where unknown (left out).
    scores : ndarray of float, (N,)
    weights : ndarray of float, (N,), optional
        Of the cells, where they were not drawn evenly.

    Returns
    -------
    float
        Half way between the two scores that it parts; NaN where a class is missing.
    """
    if why_undefined(labels):
        return float("nan")
    y, s = _known(labels, scores)
    w = None if weights is None else np.asarray(weights, np.float64)[np.asarray(labels) >= 0]
    fpr, tpr, thresholds = sk.roc_curve(y, s, sample_weight=w, drop_intermediate=False)
    # The first point is (0, 0): above every score.
    best = 1 + int(np.argmax((tpr - fpr)[1:]))
    below = thresholds[min(best + 1, len(thresholds) - 1)]
    return float((thresholds[best] + below) / 2)


def average_precision(labels: Int, scores: Float) -> float:
    """Area under the precision-recall curve as a sum of steps, not trapezoids.

    Parameters
    ----------
    labels : ndarray of int, (N,)
        1, 0; negative where unknown (left out).
    scores : ndarray of float, (N,)

    Returns
    -------
    float
        NaN where a class is missing.
    """
    if why_undefined(labels):
        return float("nan")
    return float(sk.average_precision_score(*_known(labels, scores)))


def roc_curve(labels: Int, scores: Float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates from (0, 0) to (1, 1), one point a distinct score."""
    fpr, tpr, _ = sk.roc_curve(*_known(labels, scores), drop_intermediate=False)
    return fpr, tpr


def precision_recall_curve(
    labels: Int, scores: Float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision, one point a distinct score, from the highest down."""
    precision, recall, _ = sk.precision_recall_curve(*_known(labels, scores))
    # The last point, recall 0, is of no score.
    return recall[-2::-1], precision[-2::-1]


def reliability(
    labels: Int, probabilities: Float, bins: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean probability, frequency of positives and number of cells in bins of equal width.

    Parameters
    ----------
    labels : ndarray of int, (N,)
        1, 0; negative where unknown (left out).
    probabilities : ndarray of float, (N,)
        In [0, 1].
    bins : int

    Returns
    -------
    tuple of ndarray, each (bins,)
        NaN in the first two where a bin is empty.
    """
    y, p = _known(labels, probabilities)
    index = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, weights=p, minlength=bins) / count
        frequency = np.bincount(index, weights=y, minlength=bins) / count
    return mean, frequency, count
