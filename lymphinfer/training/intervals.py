"""95 % intervals by resampling patients: cells of one patient are not independent of each other.

Every metric here is a function of sums over patients (or over pairs of them), so the sums are taken
once and a thousand resamplings are a few matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.training import metrics

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; NaN with the reason where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reason: str = ""

    def __str__(self) -> str:
        """``0.912 (0.881-0.940)``, or ``- (no positive cell)``."""
        if math.isnan(self.value):
            return f"- ({self.reason})"
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for NaN."""
        return {
            k: (None if isinstance(v, float) and math.isnan(v) else v)
            for k, v in asdict(self).items()
        }


@dataclass(frozen=True)
class MarkerMetrics:
    """Quality of one marker's scores on one set of cells.

    Attributes
    ----------
    marker : str
    n_positive, n_negative, n_unknown, n_patients : int
    threshold : float
        Chosen on validation data; NaN where it could not be.
    auroc, average_precision, calibration_error : Estimate
    balanced_accuracy : Estimate
        At 0.5 of the head's own output, before calibration.
    balanced_accuracy_chosen : Estimate
        At `threshold` of the final probability.
    """

    marker: str
    n_positive: int
    n_negative: int
    n_unknown: int
    n_patients: int
    threshold: float
    auroc: Estimate
    balanced_accuracy: Estimate
    balanced_accuracy_chosen: Estimate
    average_precision: Estimate
    calibration_error: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {k: v.to_dict() if isinstance(v, Estimate) else v for k, v in self.__dict__.items()}
        return {**plain, "threshold": None if math.isnan(self.threshold) else self.threshold}


def draw_patients(n_patients: int, replicates: int, seed: int) -> Float:
    """How often each patient is drawn: (replicates, n_patients), rows summing to n_patients."""
    rng = np.random.default_rng(seed)
    share = np.full(n_patients, 1 / n_patients)
    return rng.multinomial(n_patients, share, size=replicates).astype(np.float64)


class PatientBootstrap:
    """Metrics of one marker with intervals from resampled patients (cluster bootstrap).

    Parameters
    ----------
    labels : ndarray of int, (N,)
        1, 0; negative where unknown (left out).
    patients : sequence, (N,)
    replicates : int
    seed : int
    """

    def __init__(
        self,
        labels: NDArray[np.integer],
        patients: Sequence[object] | NDArray[Any],
        *,
        replicates: int = 1000,
        seed: int = 0,
    ):
        self.known = np.asarray(labels) >= 0
        self.labels = np.asarray(labels)[self.known]
        names, code = np.unique(np.asarray(patients)[self.known], return_inverse=True)
        self.code: NDArray[np.intp] = code
        self.n_patients = len(names)
        self.reason = metrics.why_undefined(self.labels)
        self.draws = draw_patients(max(self.n_patients, 1), replicates, seed)
        self.positive = self._by_patient(self.labels == 1)
        self.negative = self._by_patient(self.labels == 0)

    def _by_patient(self, values: NDArray[Any]) -> Float:
        total = np.bincount(self.code, weights=values, minlength=max(self.n_patients, 1))
        return total.astype(np.float64)

    def _estimate(self, value: float, replicates: Float) -> Estimate:
        if self.reason:
            return Estimate(math.nan, reason=self.reason)
        good = replicates[np.isfinite(replicates)]
        if self.n_patients < 2 or not len(good):
            return Estimate(value, reason="one patient: no interval")
        low, high = np.percentile(good, [2.5, 97.5])
        return Estimate(value, float(low), float(high))

    def auroc(self, scores: NDArray[np.floating]) -> Estimate:
        """AUROC of scores (N,): Mann-Whitney counts of each pair of patients, summed by draws."""
        s, n = np.asarray(scores, np.float64)[self.known], self.n_patients
        positives = [s[(self.code == p) & (self.labels == 1)] for p in range(n)]
        negatives = [np.sort(s[(self.code == p) & (self.labels == 0)]) for p in range(n)]
        wins = np.zeros((max(n, 1), max(n, 1)))
        for i, own in enumerate(positives):
            for j, other in enumerate(negatives):
                below = np.searchsorted(other, own, "left") + np.searchsorted(other, own, "right")
                wins[i, j] = below.sum() / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            top = np.einsum("ri,ij,rj->r", self.draws, wins, self.draws, optimize=True)
            replicates = top / ((self.draws @ self.positive) * (self.draws @ self.negative))
            value = float(wins.sum() / (self.positive.sum() * self.negative.sum()))
        return self._estimate(value, replicates)

    def balanced_accuracy(self, scores: NDArray[np.floating], threshold: float) -> Estimate:
        """Balanced accuracy of scores (N,) at a threshold."""
        if math.isnan(threshold):
            return Estimate(math.nan, reason=self.reason or "no threshold from validation data")
        called = np.asarray(scores, np.float64)[self.known] >= threshold
        hit = self._by_patient(called & (self.labels == 1))
        rejected = self._by_patient(~called & (self.labels == 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            sensitivity = (self.draws @ hit) / (self.draws @ self.positive)
            specificity = (self.draws @ rejected) / (self.draws @ self.negative)
        value = metrics.balanced_accuracy(self.labels, called.astype(float))
        return self._estimate(value, (sensitivity + specificity) / 2)

    def average_precision(self, scores: NDArray[np.floating]) -> Estimate:
        """Average precision of scores (N,)."""
        if self.reason:
            return Estimate(math.nan, reason=self.reason)
        s = np.asarray(scores, np.float64)[self.known]
        # Recall changes only at scores that a positive cell has.
        levels = np.unique(s[self.labels == 1])[::-1]
        place = np.searchsorted(-levels, -s, "left")
        hits = np.zeros((self.n_patients, len(levels)))
        called = np.zeros((self.n_patients, len(levels) + 1))
        positive = self.labels == 1
        np.add.at(hits, (self.code[positive], place[positive]), 1)
        np.add.at(called, (self.code, place), 1)
        step, tp, all_called = hits, hits.cumsum(axis=1), called.cumsum(axis=1)[:, :-1]
        replicates = np.empty(len(self.draws))
        with np.errstate(invalid="ignore", divide="ignore"):
            for r, draw in enumerate(self.draws):
                precision = (draw @ tp) / np.maximum(draw @ all_called, 1e-12)
                replicates[r] = (draw @ step * precision).sum() / (draw @ self.positive)
        return self._estimate(metrics.average_precision(self.labels, s), replicates)

    def calibration_error(self, probabilities: NDArray[np.floating], bins: int = 15) -> Estimate:
        """Expected calibration error of probabilities (N,) in [0, 1]."""
        p = np.asarray(probabilities, np.float64)[self.known]
        if not len(p):
            return Estimate(math.nan, reason="no labelled cell")
        index = np.minimum((p * bins).astype(int), bins - 1)
        gap = np.zeros((self.n_patients, bins))
        np.add.at(gap, (self.code, index), p - self.labels)
        total = self.positive + self.negative
        replicates = np.abs(self.draws @ gap).sum(axis=1) / (self.draws @ total)
        value = metrics.expected_calibration_error(p, self.labels, bins)
        if self.reason:
            return Estimate(value, reason=self.reason)
        return self._estimate(value, replicates)


def measure(
    marker: str,
    labels: NDArray[np.integer],
    raw: NDArray[np.floating],
    final: NDArray[np.floating],
    patients: Sequence[object] | NDArray[Any],
    *,
    threshold: float,
    replicates: int = 1000,
    seed: int = 0,
) -> MarkerMetrics:
    """All metrics of one marker.

    Parameters
    ----------
    marker : str
    labels : ndarray of int, (N,)
        1, 0; negative where unknown (left out).
    raw : ndarray of float, (N,)
        The head's own probability, before calibration.
    final : ndarray of float, (N,)
        The probability that a user sees.
    patients : sequence, (N,)
    threshold : float
        Of `final`, chosen on validation data.
    replicates, seed : int
        Of the bootstrap.

    Returns
    -------
    MarkerMetrics
    """
    boot = PatientBootstrap(labels, patients, replicates=replicates, seed=seed)
    return MarkerMetrics(
        marker=marker,
        n_positive=int(boot.positive.sum()),
        n_negative=int(boot.negative.sum()),
        n_unknown=int((~boot.known).sum()),
        n_patients=boot.n_patients,
        threshold=threshold,
        auroc=boot.auroc(final),
        balanced_accuracy=boot.balanced_accuracy(raw, 0.5),
        balanced_accuracy_chosen=boot.balanced_accuracy(final, threshold),
        average_precision=boot.average_precision(final),
        calibration_error=boot.calibration_error(final),
    )
