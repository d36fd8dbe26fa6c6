"""Calibration at the stain's real frequencies, and from where on a nucleus is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from lymphinfer.markers.calibration import Calibration, fit_calibration
from lymphinfer.markers.two_scale_head import TwoScaleHead
from recipes.he.crc01 import MARKERS, PARENTS, SINGLE_GATES


def calibrations(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    weights: NDArray[np.floating],
    root: Calibration | None = None,
) -> list[Calibration]:
    """Of CD45, and of each child so that its product with the parent fits.

    Parameters
    ----------
    logits : ndarray of float, (N, 4)
    labels : ndarray of int, (N, 4)
        1, 0; negative where unknown.
    weights : ndarray of float, (N, 4)
        Of each nucleus for each marker.
    root : Calibration, optional
        Of CD45, where it is known already.
    """
    from scipy.optimize import brentq, minimize

    found = [root or fit_calibration(logits[:, 0], labels[:, 0], weights[:, 0])]
    p = [found[0](logits[:, 0])]
    for child, parent in PARENTS.items():
        c = MARKERS.index(child)
        known = labels[:, c] >= 0
        x, y, w = logits[known, c], labels[known, c], weights[known, c]
        above = p[MARKERS.index(parent)][known]

        def loss(
            theta: NDArray[np.float64],
            x: NDArray[Any] = x,
            y: NDArray[Any] = y,
            w: NDArray[Any] = w,
            above: NDArray[Any] = above,
        ) -> float:
            product = np.clip(above / (1 + np.exp(-(theta[0] * x + theta[1]))), 1e-6, 1 - 1e-6)
            each = y * np.log(product) + (1 - y) * np.log(1 - product)
            # A slope far from 1 is noise of a few nuclei.
            return float(-(w * each).sum() / w.sum() + 0.02 * (theta[0] - 1) ** 2)

        slope = float(minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x[0])

        def surplus(offset: float, slope: float = slope) -> float:
            product = above * Calibration(slope, offset)(x)  # noqa: B023 - called at once
            return float((w * (product - y)).sum())  # noqa: B023

        # The expected number is that of the labels, where the parent leaves room for it.
        ends = (-15.0, 15.0)
        offset = brentq(surplus, *ends) if surplus(ends[0]) < 0 < surplus(ends[1]) else ends[1]
        found.append(Calibration(slope, float(offset)))
        p.append(found[-1](logits[:, c]) * p[MARKERS.index(parent)])
    return found


@dataclass(frozen=True)
class Validation:
    """Probabilities on nuclei that were not trained on, with the labels of single gates."""

    name: str
    p: NDArray[np.float64]
    labels: NDArray[np.int8]
    weights: NDArray[np.float64]


def single_gate_labels(data: Path, near: dict[str, NDArray[Any]]) -> NDArray[np.int8]:
    """Labels (N, 4) of the C01 rows by one gate a marker, none unknown."""
    from lymphinfer.nuclei.metrics import pair_centroids
    from recipes.he.near_sets import PAIRING_UM, read_placement, read_tile

    labels = np.full((len(near["labels"]), len(MARKERS)), -1, np.int8)
    for number, (file, _) in enumerate(read_placement(data / "orion-c01-tiles")):
        points, values = read_tile(file.with_suffix(".csv"))
        rows = np.flatnonzero(near["image"] == number)
        for copy in np.unique(near["copy"][rows]):
            here = rows[near["copy"][rows] == copy]
            pairs = pair_centroids(points * 0.5, near["center_um"][here], PAIRING_UM)
            for i, name in enumerate(MARKERS):
                gated = values[name][pairs.truth] >= SINGLE_GATES[name]
                labels[here[pairs.predicted], i] = gated
    return labels


def real_frequency(labels: NDArray[np.integer], share: float) -> NDArray[np.float64]:
    """Weights that bring positives to a share of all; 0 where unknown."""
    positive, negative = labels == 1, labels == 0
    weights = np.zeros(len(labels))
    weights[positive] = share / max(1, positive.sum())
    weights[negative] = (1 - share) / max(1, negative.sum())
    known: float = float((positive | negative).sum())
    return weights * known


def rates(
    p: NDArray[np.floating],
    y: NDArray[np.integer],
    w: NDArray[np.floating],
    cuts: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall at thresholds, weighted."""
    order = np.argsort(p)
    p, y, w = p[order], y[order], w[order]
    first = np.searchsorted(p, cuts)
    right = np.concatenate([np.cumsum((w * (y == 1))[::-1])[::-1], [0.0]])[first]
    called = np.concatenate([np.cumsum((w * (y >= 0))[::-1])[::-1], [0.0]])[first]
    return right / np.maximum(called, 1e-12), right / max((w * (y == 1)).sum(), 1e-12)


def operating_points(
    sets: Sequence[Validation],
    marker: int,
    *,
    least_precision: float = 0.5,
    elsewhere: Sequence[str] = (),
    least_elsewhere: float = 0.77,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Thresholds of a marker, decided on several sets at once.

    ``balanced`` has the highest mean over the sets of the lesser of precision and recall;
    ``precise`` halves what is missing to a precision of 1 in the first set, at a recall of .1 or
    more; ``sensitive`` has a recall of .85 in the first set. The first set is the stain's at its
    real frequency: its precision and recall are stated. A marker that no threshold calls there
    with `least_precision` at a recall of a third has no points. On the sets of other laboratories,
    named in `elsewhere`, ``balanced`` has a precision of `least_elsewhere` at least: calls that
    are wrong there are what nobody at hand can see.
    """
    cuts = np.linspace(0.02, 0.98, 193)
    found = [rates(s.p[:, marker], s.labels[:, marker], s.weights, cuts) for s in sets]
    precision, recall = found[0]
    able = (precision >= least_precision) & (recall >= 1 / 3)
    if not able.any():
        best = int(np.argmax(np.where(recall >= 1 / 3, precision, 0)))
        return {}, [
            f"no threshold has a precision of {least_precision} at a recall of a third: at most "
            f"{precision[best]:.2f} at {recall[best]:.2f}"
        ]
    for one, (there, _) in zip(sets, found, strict=True):
        if one.name in elsewhere and (able & (there >= least_elsewhere)).any():
            able &= there >= least_elsewhere
    even = np.mean([np.minimum(a, b) for a, b in found], axis=0)
    balanced = int(np.argmax(np.where(able, even, -1)))
    goal = 0.5 * (1 + float(precision[balanced]))
    higher = np.flatnonzero((np.arange(len(cuts)) >= balanced) & (recall >= 0.1))
    reaching = higher[precision[higher] >= goal]
    precise = int(reaching[0]) if len(reaching) else int(higher[np.argmax(precision[higher])])
    lower = np.flatnonzero((np.arange(len(cuts)) <= balanced) & (recall >= 0.85))
    sensitive = int(lower[-1]) if len(lower) else 0
    points, lines = {}, []
    for name, i in (("precise", precise), ("balanced", balanced), ("sensitive", sensitive)):
        points[name] = {
            "threshold": round(float(cuts[i]), 3),
            "precision": round(float(precision[i]), 3),
            "recall": round(float(recall[i]), 3),
        }
        others = ", ".join(
            f"{s.name} {a[i]:.2f} / {b[i]:.2f}" for s, (a, b) in zip(sets, found, strict=True)
        )
        lines.append(f"{name} from {cuts[i]:.3f}: precision / recall {others}")
    return points, lines


def settle_alone(
    head: TwoScaleHead,
    root: Calibration,
    far: NDArray[np.float32],
    labels: NDArray[np.integer],
) -> None:
    """Let the value for a missing near scale give CD45's frequency on held-out columns.

    Parameters
    ----------
    head : TwoScaleHead
    root : Calibration
        Of CD45.
    far : ndarray of float32, (N, outputs)
        Calibrated far logits.
    labels : ndarray of int, (N,)
        CD45 by one gate.
    """
    torch.manual_seed(0)
    target = torch.from_numpy(np.asarray(labels, np.float32))
    x = torch.from_numpy(far)
    missing = head.without_near
    began = missing.detach().clone()
    optimizer = torch.optim.Adam([missing], 0.02)
    for _ in range(200):
        chosen = torch.randperm(len(x))[:20_000]
        logit = head(None, x[chosen])[:, 0] * root.scale + root.offset
        loss = F.binary_cross_entropy_with_logits(logit, target[chosen])
        loss = loss + 1e-3 * (missing - began).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
