"""Quality of a bundle on each of the open data sets."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from looking import (
    logits_at_points,
    logits_of_instances,
    look,
)
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from lymphinfer.bundles.loading import Bundle
from lymphinfer.markers.calibration import Calibration, expected_calibration_error
from lymphinfer.nuclei.datasets import AnnotatedImage, read_annotated
from lymphinfer.nuclei.metrics import (
    DetectionCounts,
    count_detections,
    pair_centroids,
    score_segmentation,
)
from lymphinfer.training.detectors.stardist import resample
from recipes.he.brca_m2c import LYMPHOCYTE, read_all
from recipes.he.open_sets import NUINSSEG_HELD_OUT, NUINSSEG_MPP

# HoVer-Net's evaluation pairs centroids within 12 px at 0.25 µm/px.
PAIRING_UM = 3.0
STIL, NUCLS_MPP = 2, 0.25
NUINSSEG_LYMPHOID = range(655, 665, 3)  # mouse spleen and thymus, held out
Labelled = list[tuple[NDArray[Any], NDArray[Any]]]


def interval(
    images: Labelled,
    score: Callable[[NDArray[Any], NDArray[Any]], float],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval, drawing images with replacement."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        chosen = [images[i] for i in rng.integers(0, len(images), len(images))]
        y = np.concatenate([c[0] for c in chosen])
        if len(np.unique(y)) == 2:
            values.append(score(y, np.concatenate([c[1] for c in chosen])))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def classification(images: Labelled, threshold: float) -> dict[str, Any]:
    """AUROC, average precision and balanced accuracy with intervals; images: labels, P(CD45)."""
    y = np.concatenate([a for a, _ in images])
    p = np.concatenate([b for _, b in images])

    def balanced(y: NDArray[Any], p: NDArray[Any]) -> float:
        return float(balanced_accuracy_score(y, p >= threshold))

    result: dict[str, Any] = {"nuclei": len(y), "positive": int(y.sum())}
    for name, score in (
        ("auroc", roc_auc_score),
        ("average_precision", average_precision_score),
        ("balanced_accuracy", balanced),
    ):
        result[name] = float(score(y, p))
        result[f"{name}_interval"] = interval(images, score, 200)
    return result


def called_from(bundle: Bundle, point: str) -> float:
    """Threshold of the root marker at an operating point."""
    at = bundle.manifest.calls_at(point)[0]
    if at is None:
        raise SystemExit(f"{bundle.manifest.markers[0].name} is not called at {point}")
    return at.threshold


def on_annotated(bundle: Bundle, images: Sequence[AnnotatedImage], point: str) -> dict[str, Any]:
    """Segmentation, detection and CD45 on images with outlines and classes."""
    spec, threshold = bundle.manifest.markers[0], called_from(bundle, point)
    calibrated = Calibration(spec.scale, spec.offset)
    truth, found, counts = [], [], DetectionCounts()
    real: Labelled = []
    own: Labelled = []
    raw: list[NDArray[np.float32]] = []
    for item in images:
        pixels, instances = resample(item, bundle.manifest.mpp)
        seen = look(bundle, pixels)
        truth.append(instances)
        found.append(seen.labels)
        label = item.leukocyte[1:]
        logits = logits_of_instances(bundle, pixels, instances, item.n_nuclei, seen)
        known = (label >= 0) & np.isfinite(logits)
        real.append((label[known], calibrated(logits[known])))
        raw.append(logits[known])
        ids = np.arange(1, item.n_nuclei + 1)
        centers = np.array(ndimage.center_of_mass(instances > 0, instances, ids))[:, ::-1] + 0.5
        present = np.flatnonzero(np.isfinite(centers).all(axis=1))
        pairs = pair_centroids(centers[present], seen.centers, PAIRING_UM / bundle.manifest.mpp)
        probability = calibrated(seen.cd45_logit)
        own.append((label[present][pairs.truth], probability[pairs.predicted]))
        counts += count_detections(pairs, label[present] == 1, probability >= threshold)
    y = np.concatenate([a for a, _ in real])
    before = Calibration()(np.concatenate(raw))
    after = np.concatenate([b for _, b in real])
    return {
        "images": len(images),
        "nuclei": sum(i.n_nuclei for i in images),
        "found": int(sum(f.max(initial=0) for f in found)),
        **asdict(score_segmentation(truth, found)),
        "f1_centroids": counts.f1_detection,
        "f1_inflammatory": counts.f1_class,
        "cd45": classification(real, threshold),
        "cd45_own_detections": classification(own, threshold),
        "calibration": {
            "expected_error_before": expected_calibration_error(before, y),
            "expected_error_after": expected_calibration_error(after, y),
            "curve": reliability(after, y),
        },
    }


def reliability(
    probability: NDArray[np.floating], labels: NDArray[np.integer], bins: int = 10
) -> list[dict[str, float]]:
    """Mean probability and observed frequency in bins of equal width."""
    which = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        {
            "from": b / bins,
            "nuclei": int((which == b).sum()),
            "mean_probability": float(probability[which == b].mean()),
            "observed": float(labels[which == b].mean()),
        }
        for b in range(bins)
        if (which == b).any()
    ]


def on_nucls(bundle: Bundle, folder: Path, point: str) -> dict[str, Any]:
    """sTIL against the other annotated points (breast, another laboratory)."""
    spec, threshold = bundle.manifest.markers[0], called_from(bundle, point)
    calibrated = Calibration(spec.scale, spec.offset)
    at_points: Labelled = []
    own: Labelled = []
    zoom = NUCLS_MPP / bundle.manifest.mpp
    for path in sorted(folder.glob("*.png")):
        picture = Image.open(path).convert("RGB")
        size = round(picture.width * zoom), round(picture.height * zoom)
        pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
        with path.with_suffix(".csv").open() as stream:
            rows = np.array([[int(v) for v in row] for row in csv.reader(stream) if row])
        points, label = (rows[:, :2] + 0.5) * zoom, (rows[:, 2] == STIL).astype(np.int8)
        seen = look(bundle, pixels)
        at_points.append((label, calibrated(logits_at_points(bundle, pixels, points, seen))))
        pairs = pair_centroids(points, seen.centers, PAIRING_UM / bundle.manifest.mpp)
        own.append((label[pairs.truth], calibrated(seen.cd45_logit[pairs.predicted])))
    return {
        "points": classification(at_points, threshold),
        "own_detections": classification(own, threshold),
    }


def on_brca_m2c(bundle: Bundle, folder: Path, point: str) -> dict[str, Any]:
    """Lymphocytes against epithelial and stromal dots (breast, many hospitals): ranks and calls."""
    spec, threshold = bundle.manifest.markers[0], called_from(bundle, point)
    calibrated = Calibration(spec.scale, spec.offset)
    at_points: Labelled = []
    own: Labelled = []
    calls: list[NDArray[np.int64]] = []
    for item in read_all(folder):
        here = item.at(bundle.manifest.mpp)
        label = (here.labels == LYMPHOCYTE).astype(np.int8)
        seen = look(bundle, here.image)
        at_points.append(
            (label, calibrated(logits_at_points(bundle, here.image, here.points, seen)))
        )
        probability = calibrated(seen.cd45_logit)
        pairs = pair_centroids(here.points, seen.centers, PAIRING_UM / bundle.manifest.mpp)
        own.append((label[pairs.truth], probability[pairs.predicted]))
        called = probability >= threshold
        right = called[pairs.predicted] & (label[pairs.truth] == 1)
        calls.append(
            np.array([right.sum(), called[pairs.predicted].sum(), called.sum(),
                      label[pairs.truth].sum(), label.sum()])
        )  # fmt: skip
    return {
        "images": len(calls),
        "points": classification(at_points, threshold),
        "own_detections": classification(own, threshold),
        "calls": {"threshold": threshold, **call_rates(calls)},
    }


def call_rates(images: Sequence[NDArray[np.int64]], resamples: int = 1000) -> dict[str, Any]:
    """Precision and recall of calls, with 95 % bootstrap intervals over images.

    Of each image: right calls, calls on dotted nuclei, all calls, lymphocytes that were found, and
    all that are dotted. ``precision`` is among dotted nuclei and ``recall`` among found ones.
    ``precision_of_all_calls`` takes a call on what has no dot as wrong, which it need not be, and
    ``recall_of_all_dots`` a lymphocyte that the detector missed as not called.
    """
    rates = {
        "precision": 1,
        "recall": 3,
        "precision_of_all_calls": 2,
        "recall_of_all_dots": 4,
    }
    counts = np.stack(images)
    rng = np.random.default_rng(0)
    drawn = counts[rng.integers(0, len(counts), (resamples, len(counts)))].sum(axis=1)
    result: dict[str, Any] = {"called": int(counts[:, 2].sum())}
    for name, among in rates.items():
        total = int(counts[:, among].sum())
        result[name] = float(counts[:, 0].sum() / total) if total else None
        usable = drawn[drawn[:, among] > 0]
        if len(usable):
            low, high = np.quantile(usable[:, 0] / usable[:, among], [0.025, 0.975])
            result[f"{name}_interval"] = (float(low), float(high))
    return result


def on_nuinsseg(bundle: Bundle, folder: Path, point: str) -> dict[str, Any]:
    """Nuclei of held-out mouse organs, and the share of them that is called CD45, by organ."""
    spec, threshold = bundle.manifest.markers[0], called_from(bundle, point)
    calibrated = Calibration(spec.scale, spec.offset)
    truth, found = [], []
    probabilities: dict[bool, list[NDArray[np.floating]]] = {True: [], False: []}
    for path in sorted(folder.glob("*.jpg")):
        if int(path.stem) not in NUINSSEG_HELD_OUT:
            continue
        pixels, instances = resample(read_annotated(path, mpp=NUINSSEG_MPP), bundle.manifest.mpp)
        seen = look(bundle, pixels)
        truth.append(instances)
        found.append(seen.labels)
        probabilities[int(path.stem) in NUINSSEG_LYMPHOID].append(calibrated(seen.cd45_logit))
    called = {k: float((np.concatenate(v) >= threshold).mean()) for k, v in probabilities.items()}
    score = score_segmentation(truth, found)
    return {
        "images": len(truth),
        "f1": score.f1,
        "pq": score.pq,
        "called_in_spleen_and_thymus": called[True],
        "called_in_liver_and_muscle": called[False],
    }
