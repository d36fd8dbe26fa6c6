"""Calibrated probabilities: a scale and an offset on each logit, fitted on held-out cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of one marker: p = sigmoid(scale · logit + offset)."""

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Probabilities in [0, 1] of logits of any shape, float32."""
        z = np.clip(self.scale * np.asarray(logits, np.float64) + self.offset, -60, 60)
        probability: NDArray[np.float32] = (1 / (1 + np.exp(-z))).astype(np.float32)
        return probability


def fit_calibration(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    weights: NDArray[np.floating] | None = None,
) -> Calibration:
    """Fit Platt scaling by maximum likelihood (Platt 1999, with his smoothed targets).

    Parameters
    ----------
    logits : ndarray of float, (N,)
    labels : ndarray of int, (N,)
        1, 0; negative where unknown (left out).
    weights : ndarray of float, (N,), optional
        Of the cells, where they were not drawn evenly.

    Returns
    -------
    Calibration
        The identity where one of the classes is missing.
    """
    from scipy.optimize import minimize

    known = np.asarray(labels) >= 0
    x, y = np.asarray(logits, np.float64)[known], np.asarray(labels)[known]
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    if not positives or not negatives:
        return Calibration()
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)[known]
    w = w / w.mean()

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = theta[0] * x + theta[1]
        error = 1 / (1 + np.exp(-z)) - target
        value = float(np.mean(w * (np.logaddexp(0, z) - target * z)))
        return value, np.array([np.mean(w * error * x), np.mean(w * error)])

    fit = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B")
    return Calibration(float(fit.x[0]), float(fit.x[1]))


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], bins: int = 15
) -> float:
    """Mean gap between confidence and frequency over bins of equal width (Guo et al. 2017).

    Parameters
    ----------
    probabilities : ndarray of float, (N,)
    labels : ndarray of int, (N,)
        1 or 0.
    bins : int

    Returns
    -------
    float
        In [0, 1]; NaN for no data.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if not len(p):
        return float("nan")
    index = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    gap = np.abs(
        np.bincount(index, weights=p, minlength=bins)
        - np.bincount(index, weights=y, minlength=bins)
    )
    return float(gap[count > 0].sum() / len(p))
