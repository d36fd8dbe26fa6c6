"""A marker's last layer learned again: logistic regression, cross-validated, calibrated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.bundles.evidence import DEFAULT_POINT, OperatingPoint
from lymphinfer.markers.calibration import Calibration, fit_calibration
from lymphinfer.teaching.teachable import Change

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Labels = NDArray[np.int8]

FEWEST = 20
"""Nuclei of each class that a marker is taught with, at least."""
FEWEST_GROUPS = 3
STRENGTHS = (0.0, 1e-3, 1e-2)
"""Inverse regularisation of the features' weights; 0 learns none, only what the logit is worth.

With 300 nuclei of BRCA-M2C 0.1 fits them as they were drawn, and calls other patients' worse.
"""
FOLDS = 5
_DRAWS = 500
_POPULATION = 200


@dataclass(frozen=True)
class Quality:
    """Of the same held-out nuclei.

    Attributes
    ----------
    auroc, balanced_accuracy : tuple of float
        Value, and both ends of its 95 % interval between groups.
    """

    auroc: tuple[float, float, float]
    balanced_accuracy: tuple[float, float, float]


@dataclass(frozen=True)
class Taught:
    """What a marker has learned.

    Attributes
    ----------
    marker : str
    change : Change
        Of its logit.
    calibration : Calibration
        Of the new logit.
    points : dict of str to OperatingPoint
    strength : float
        One of `STRENGTHS`.
    positives, negatives, groups : int
    share : float
        Share of positives that the calibration is for.
    share_known : bool
        Whether that share was estimated around the nuclei; else it is that of the labels.
    before, after : Quality
        On nuclei that the layer had not learned from.
    gain : tuple of float
        Balanced accuracy after less before, and its interval.
    """

    marker: str
    change: Change
    calibration: Calibration
    points: dict[str, OperatingPoint]
    strength: float
    positives: int
    negatives: int
    groups: int
    share: float
    share_known: bool
    before: Quality
    after: Quality
    gain: tuple[float, float, float]


def too_little(labels: Labels, groups: NDArray[Any]) -> str:
    """Why a marker cannot be taught; empty where it can.

    Parameters
    ----------
    labels : ndarray of int8, (N,)
        1, 0; negative where unknown.
    groups : ndarray, (N,)
    """
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    if min(positives, negatives) < FEWEST:
        return f"{positives} with it and {negatives} without; {FEWEST} of each are needed"
    known = labels >= 0
    several = min(len(np.unique(groups[known & (labels == label)])) for label in (0, 1))
    if several < FEWEST_GROUPS:
        return (
            f"they lie in {several} places, and what was learned in some must be tested in "
            f"others: {FEWEST_GROUPS} are needed, 250 µm apart or on other slides"
        )
    return ""


def teach_marker(
    marker: str,
    features: F32,
    logits: F32,
    labels: Labels,
    groups: NDArray[Any],
    *,
    now: F32,
    threshold: float,
    above: F32 | None = None,
    around: tuple[F32, F32] | None = None,
    seed: int = 0,
) -> Taught:
    """Learn a marker's last layer again.

    Parameters
    ----------
    marker : str
    features : ndarray of float32, (N, F)
    logits : ndarray of float32, (N,)
        Of the layer as it is.
    labels : ndarray of int8, (N,)
        1 or 0.
    groups : ndarray, (N,)
        Nuclei of one group stand on one side of every split.
    now : ndarray of float32, (N,)
        Probabilities of the bundle as it is.
    threshold : float
        From where it calls.
    above : ndarray of float32, (N,), optional
        Final probabilities of the parent, by which those of a conditional marker are multiplied.
    around : tuple of ndarray, (P, F) and (P,), optional
        Features and logits of all nuclei around, from which the real share of positives is
        estimated.
    seed : int

    Returns
    -------
    Taught
    """
    times = np.ones(len(labels)) if above is None else np.asarray(above, np.float64)
    held_out, score, called = (np.empty(len(labels)) for _ in range(3))
    for train, test in _folds(labels, groups, FOLDS, seed):
        part = (features[train], logits[train], labels[train], groups[train])
        chosen = _strength(*part, seed)
        layer = _Layer.fit(*part[:3], chosen)
        held_out[test] = layer(features[test], logits[test])
        # Calibrated and cut as the bundle is, by what the fold has not told.
        inner = _cross(*part, chosen, seed)
        settled = _settled(inner, part[2], layer, times[train], around)
        score[test] = settled.calibration(held_out[test]) * times[test]
        called[test] = score[test] >= settled.points[DEFAULT_POINT].threshold
    strength = _strength(features, logits, labels, groups, seed)
    layer = _Layer.fit(features, logits, labels, strength)
    settled = _settled(held_out, labels, layer, times, around)
    was = (now >= threshold).astype(float)
    draws = _draws(groups, seed)
    after = Quality(
        _interval(_auroc, labels, score, draws), _interval(_balanced, labels, called, draws)
    )
    before = Quality(
        _interval(_auroc, labels, now, draws), _interval(_balanced, labels, was, draws)
    )
    both = np.stack([called, was], axis=1)
    return Taught(
        marker, layer.change, settled.calibration, settled.points, strength,
        int((labels == 1).sum()), int((labels == 0).sum()), len(np.unique(groups)),
        settled.share, settled.known, before, after, _interval(_gain, labels, both, draws),
    )  # fmt: skip


@dataclass(frozen=True)
class _Settled:
    calibration: Calibration
    points: dict[str, OperatingPoint]
    share: float
    known: bool


def _settled(
    held_out: F64, labels: Labels, layer: _Layer, above: F64, around: tuple[F32, F32] | None
) -> _Settled:
    """Calibration and points by held-out logits, at the share of positives around the nuclei."""
    own = float((labels == 1).mean())
    share, known = own, False
    if around is not None and len(around[0]) >= _POPULATION:
        plain = fit_calibration(held_out, labels)
        share, known = estimated_share(plain(layer(*around)), own), True
    weights = np.where(labels == 1, share / own, (1 - share) / (1 - own))
    calibration = fit_calibration(held_out, labels, weights)
    points = operating_points(calibration(held_out) * above, labels, weights)
    return _Settled(calibration, points, share, known)


@dataclass(frozen=True)
class _Layer:
    """A logistic regression on the logit and on features, as a `Change` of the logit."""

    change: Change

    def __call__(self, features: F32, logits: F32) -> F64:
        return self.change(features, logits)

    @classmethod
    def fit(cls, features: F32, logits: F32, labels: Labels, strength: float) -> _Layer:
        from sklearn.linear_model import LogisticRegression

        mean = features.mean(axis=0, dtype=np.float64)
        deviation = np.maximum(features.std(axis=0, dtype=np.float64), 1e-6)
        logit = np.asarray(logits, np.float64)
        middle, spread = logit.mean(), max(float(logit.std()), 1e-6)
        # The logit, which is worth more than any one feature, is hardly held back: C is 1 for it.
        columns = [((logit - middle) / spread)[:, None]]
        if strength:
            columns.append((features - mean) / deviation * math.sqrt(strength))
        model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000)
        model.fit(np.concatenate(columns, axis=1), labels)
        weights = model.coef_[0]
        keep = weights[0] / spread
        own = weights[1:] * math.sqrt(strength) / deviation if strength else np.zeros(len(mean))
        bias = float(model.intercept_[0]) - keep * middle - float(own @ mean)
        return cls(Change(float(keep), own, bias))


def _folds(
    labels: Labels, groups: NDArray[Any], count: int, seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    count = max(2, min(count, len(np.unique(groups))))
    split = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(
        labels, labels, groups
    )
    return [(a, b) for a, b in split if len(np.unique(labels[a])) == 2 and len(b)] or [
        (np.arange(len(labels)), np.arange(len(labels)))
    ]


def _cross(
    features: F32, logits: F32, labels: Labels, groups: NDArray[Any], strength: float, seed: int
) -> F64:
    """Logits of nuclei by layers that have not learned from them."""
    found = np.zeros(len(labels))
    for train, test in _folds(labels, groups, 3, seed):
        layer = _Layer.fit(features[train], logits[train], labels[train], strength)
        found[test] = layer(features[test], logits[test])
    return found


def _strength(features: F32, logits: F32, labels: Labels, groups: NDArray[Any], seed: int) -> float:
    """The least strength within a standard error of the best (Breiman et al. 1984, section 3.4.3).

    Of strengths the best has the least held-out log loss; the error is that of the difference
    between groups.
    """
    weights = _even(labels)

    def losses(strength: float) -> F64:
        z = _cross(features, logits, labels, groups, strength, seed)
        return weights * np.logaddexp(0, np.where(labels == 1, -z, z))

    found = [losses(strength) for strength in STRENGTHS]
    best = min(found, key=lambda each: float(each.mean()))
    _, member = np.unique(groups, return_inverse=True)

    def is_as_good(each: F64) -> bool:
        worse = each - best
        between = np.bincount(member.ravel(), worse).std() * math.sqrt(member.max() + 1)
        return float(worse.sum()) <= float(between)

    return next(s for s, each in zip(STRENGTHS, found, strict=True) if is_as_good(each))


def _even(labels: Labels) -> F64:
    positive: float = float((labels == 1).mean())
    return np.where(labels == 1, 0.5 / max(positive, 1e-9), 0.5 / max(1 - positive, 1e-9))


def estimated_share(probabilities: NDArray[np.floating], share: float) -> float:
    """Real share of positives among nuclei, by expectation maximisation (Saerens et al. 2002).

    Parameters
    ----------
    probabilities : ndarray of float, (P,)
        Calibrated for nuclei of which `share` are positive.
    share : float

    Returns
    -------
    float
        Within .01 and .99.
    """
    p = np.clip(np.asarray(probabilities, np.float64), 1e-6, 1 - 1e-6)
    odds = p / (1 - p) * (1 - share) / share
    found = share
    for _ in range(200):
        posterior = odds * found / (odds * found + 1 - found)
        new = float(np.clip(posterior.mean(), 0.01, 0.99))
        if abs(new - found) < 1e-5:
            break
        found = new
    return found


def operating_points(
    probabilities: NDArray[np.floating], labels: Labels, weights: F64
) -> dict[str, OperatingPoint]:
    """Thresholds with the precision and recall that they have.

    ``balanced`` has the highest lesser of precision and recall, ``precise`` half of what is missing
    to a precision of 1 at a recall of .1 or more, ``sensitive`` a recall of .85.

    Parameters
    ----------
    probabilities : ndarray of float, (N,)
        Of held-out nuclei.
    labels : ndarray of int8, (N,)
        1 or 0.
    weights : ndarray of float, (N,)
        That bring positives to their real share.
    """
    cuts = np.linspace(0.02, 0.98, 193)
    called = probabilities[None, :] >= cuts[:, None]
    true = (called * weights * (labels == 1)).sum(axis=1)
    precision = true / np.maximum((called * weights).sum(axis=1), 1e-12)
    recall = true / (weights * (labels == 1)).sum()
    balanced = int(np.argmax(np.minimum(precision, recall)))
    place = np.arange(len(cuts))
    higher = np.flatnonzero((place >= balanced) & (recall >= 0.1))
    goal = (1 + precision[balanced]) / 2
    reaching = higher[precision[higher] >= goal]
    precise = reaching[0] if len(reaching) else higher[np.argmax(precision[higher])]
    lower = np.flatnonzero((place <= balanced) & (recall >= 0.85))
    sensitive = lower[-1] if len(lower) else 0
    return {
        name: OperatingPoint(
            round(float(cuts[i]), 3), round(float(precision[i]), 3), round(float(recall[i]), 3)
        )
        for name, i in (("precise", precise), ("balanced", balanced), ("sensitive", sensitive))
    }


def _balanced(labels: Labels, called: NDArray[np.floating]) -> float:
    return float(called[labels == 1].mean() - called[labels == 0].mean() + 1) / 2


def _gain(labels: Labels, both: NDArray[np.floating]) -> float:
    return _balanced(labels, both[:, 0]) - _balanced(labels, both[:, 1])


def _auroc(labels: Labels, scores: NDArray[np.floating]) -> float:
    from scipy.stats import rankdata

    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    above = rankdata(scores)[labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def _draws(groups: NDArray[Any], seed: int) -> list[NDArray[np.intp]]:
    """Nuclei of groups drawn with replacement, again and again."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    return [
        np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        for _ in range(_DRAWS)
    ]


def _interval(
    measure: Any, labels: Labels, values: NDArray[Any], draws: list[NDArray[np.intp]]
) -> tuple[float, float, float]:
    """A measure, and the 2.5th and 97.5th percentile of it over draws."""
    found = [
        measure(labels[rows], values[rows]) for rows in draws if len(np.unique(labels[rows])) == 2
    ]
    low, high = np.percentile(found, (2.5, 97.5)) if found else (math.nan, math.nan)
    return float(measure(labels, values)), float(low), float(high)
