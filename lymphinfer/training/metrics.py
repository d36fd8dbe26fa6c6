"""How well scores tell positive from negative cells: pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

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
    n_positive, n_negative = int(y.sum()), int((~y).sum())
    if not n_positive or not n_negative:
        return float("nan")
    rank_sum = float(rankdata(s)[y].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


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
    if y.all() or not y.any():
        return float("nan")
    called = s >= threshold
    return float((called[y].mean() + (~called[~y]).mean()) / 2)


def _counts_by_threshold(
    labels: Int, scores: Float, weights: Float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Descending distinct scores, and the (weighted) true and false positives at each."""
    y, s = _known(labels, scores)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)[labels >= 0]
    order = np.argsort(-s, kind="stable")
    y, s, w = y[order], s[order], w[order]
    last = np.r_[np.flatnonzero(np.diff(s)), len(s) - 1] if len(s) else np.empty(0, np.intp)
    return s[last], np.cumsum(w * y)[last], np.cumsum(w * ~y)[last]


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
    thresholds, tp, fp = _counts_by_threshold(labels, scores, weights)
    best = int(np.argmax(tp / tp[-1] - fp / fp[-1]))
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
    _, tp, fp = _counts_by_threshold(labels, scores)
    return float(np.sum(np.diff(tp, prepend=0) * tp / (tp + fp)) / tp[-1])


def roc_curve(labels: Int, scores: Float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates from (0, 0) to (1, 1), one point a distinct score."""
    _, tp, fp = _counts_by_threshold(labels, scores)
    return np.r_[0, fp] / max(fp[-1], 1), np.r_[0, tp] / max(tp[-1], 1)


def precision_recall_curve(
    labels: Int, scores: Float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision, one point a distinct score, from the highest down."""
    _, tp, fp = _counts_by_threshold(labels, scores)
    return tp / max(tp[-1], 1), tp / (tp + fp)


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
