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
from lymphinfer.markers.two_scale import TwoScaleHead
from recipes.he.crc01 import MARKERS, PARENTS, SINGLE_GATES


def calibrations(
    logits: NDArray[np.floating], labels: NDArray[np.integer], weights: NDArray[np.floating]
) -> list[Calibration]:
    """Of CD45, and of each child so that its product with the parent fits.

    Parameters
    ----------
    logits : ndarray of float, (N, 4)
    labels : ndarray of int, (N, 4)
        1, 0; negative where unknown.
    weights : ndarray of float, (N, 4)
        Of each nucleus for each marker.
    """
    from scipy.optimize import brentq, minimize

    found = [fit_calibration(logits[:, 0], labels[:, 0], weights[:, 0])]
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
    sets: Sequence[Validation], marker: int, *, least_precision: float = 0.5
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Thresholds of a marker: `balanced` by the worst F1 over the sets, the others by rates.

    The first set is the stain's: its precision and recall are stated. A marker that no threshold
    calls with `least_precision` at a recall of a third has no points.
    """
    cuts = np.linspace(0.02, 0.98, 193)
    found = [rates(s.p[:, marker], s.labels[:, marker], s.weights, cuts) for s in sets]
    f1 = np.min([2 * a * b / np.maximum(a + b, 1e-9) for a, b in found], axis=0)
    precision, recall = found[0]
    lines = []
    balanced = int(np.argmax(f1))
    able = (precision >= least_precision) & (recall >= 1 / 3)
    if not able.any():
        return {}, [f"no threshold has precision {least_precision} and recall .33"]
    if not able[balanced]:
        balanced = int(np.flatnonzero(able)[np.argmax(f1[able])])
    worst_precision = np.min([a for a, _ in found], axis=0)
    worst_recall = np.min([b for _, b in found], axis=0)
    goal = min(0.9, 0.5 * (1 + float(worst_precision[balanced])))
    higher = np.flatnonzero((np.arange(len(cuts)) > balanced) & (worst_precision >= goal))
    higher = higher[recall[higher] >= 0.15]
    precise = (
        int(higher[0])
        if len(higher)
        else balanced
        + int(np.argmax(np.where(recall[balanced:] >= 0.15, worst_precision[balanced:], -1)))
    )
    lower = np.flatnonzero((np.arange(len(cuts)) < balanced) & (worst_recall >= 0.85))
    sensitive = int(lower[-1]) if len(lower) else int(np.flatnonzero(cuts < cuts[balanced] / 2)[-1])
    points = {}
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
    found: Sequence[Calibration],
    far: NDArray[np.float32],
    labels: NDArray[np.integer],
) -> None:
    """Let the value for a missing near scale give the stain's frequencies on held-out columns."""
    target = torch.from_numpy(np.asarray(labels, np.float32))
    x = torch.from_numpy(far)
    scale = torch.tensor([c.scale for c in found], dtype=torch.float32)
    offset = torch.tensor([c.offset for c in found], dtype=torch.float32)
    missing = head.without_near
    optimizer = torch.optim.Adam([missing], 0.02)
    began = missing.detach().clone()
    for _ in range(150):
        chosen = torch.randperm(len(x))[:20_000]
        p = torch.sigmoid(head(None, x[chosen]) * scale + offset)
        joint = [p[:, 0]]
        for child, parent in PARENTS.items():
            joint.append(joint[MARKERS.index(parent)] * p[:, MARKERS.index(child)])
        product = torch.stack(joint, dim=1).clamp(1e-6, 1 - 1e-6)
        loss = F.binary_cross_entropy(product, target[chosen])
        loss = loss + 1e-3 * (missing - began).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
