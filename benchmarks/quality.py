"""Quality of a bundle on the open data sets: every number of its card.

python benchmarks/quality.py --data DIR [--bundle he-v1-fast] [--operating-point balanced]
    [--json FILE] [--quick]

DIR holds consep/test, nucls, nuinsseg and brca-m2c/val; without the last three their rows are left
out. Everything goes through the bundle as `lymphinfer predict` uses it; an image of any pixel size
is brought to the bundle's.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from process import machine
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from seeing import Seen, classify_points
from seeing import look as see
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from lymphinfer.bundles.evidence import DEFAULT_POINT, OPERATING_POINTS
from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.compute import half_type, precision_name, resolve_device
from lymphinfer.markers.calibration import Calibration, expected_calibration_error
from lymphinfer.markers.hierarchy import apply_hierarchy
from lymphinfer.markers.patches import cut_patches
from lymphinfer.markers.two_scale import NearMarkers
from lymphinfer.nuclei.augment import (
    Augmentation,
    change_contrast,
    change_stain,
    perturb_optics,
)
from lymphinfer.nuclei.datasets import AnnotatedImage, read_annotated, read_folder
from lymphinfer.nuclei.detector import Detection
from lymphinfer.nuclei.metrics import (
    DetectionCounts,
    count_detections,
    pair_centroids,
    score_segmentation,
)
from lymphinfer.nuclei.stardist.detector import StarDistDetector, TilePrediction
from lymphinfer.orion.manifest import slide_means
from lymphinfer.runtime import choose_runtime
from lymphinfer.training.detectors.stardist import pool_over_instances, resample
from recipes.he.brca_m2c import LYMPHOCYTE, read_all
from recipes.he.open_sets import NUINSSEG_HELD_OUT, NUINSSEG_MPP

# HoVer-Net's evaluation pairs centroids within 12 px at 0.25 µm/px.
PAIRING_UM = 3.0
STIL, NUCLS_MPP = 2, 0.25
NUINSSEG_LYMPHOID = range(655, 665, 3)  # mouse spleen and thymus, held out
Pixels = NDArray[np.uint8]
Labelled = list[tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True)
class Look:
    """What a bundle sees in one image.

    Attributes
    ----------
    detection : Detection
    labels : ndarray of int32, (H, W)
        The same nuclei as a label map.
    centers : ndarray of float, (M, 2)
        Their centroids, working px.
    cd45_logit : ndarray of float32, (M,)
    prediction : TilePrediction
    whole : Seen
    """

    detection: Detection
    labels: NDArray[np.int32]
    centers: NDArray[np.float64]
    cd45_logit: NDArray[np.float32]
    prediction: TilePrediction
    whole: Seen


def stardist_of(bundle: Bundle) -> StarDistDetector:
    found = bundle.own_detector
    if not isinstance(found, StarDistDetector):
        raise SystemExit(
            "this benchmark draws StarDist's polygons; the bundle has another detector"
        )
    return found


def is_two_scale(bundle: Bundle) -> bool:
    return isinstance(bundle.detector, NearMarkers)


def look(bundle: Bundle, pixels: Pixels) -> Look:
    seen = see(bundle, pixels)
    detector = stardist_of(bundle)
    prediction = seen.dense.dense if is_two_scale(bundle) else seen.dense
    found = detector.polygons(prediction.dense)
    across, down = prediction.scale
    shape = round(pixels.shape[0] * down), round(pixels.shape[1] * across)
    labels = found.label_image(shape)
    if shape != pixels.shape[:2]:
        size = pixels.shape[1::-1]
        labels = np.asarray(
            Image.fromarray(labels, mode="I").resize(size, Image.Resampling.NEAREST), np.int32
        )
    return Look(seen.detection, labels, seen.centers, seen.logits[:, 0], prediction, seen)


def logits_of_instances(
    bundle: Bundle, pixels: Pixels, instances: NDArray[np.int32], n: int, seen: Look
) -> NDArray[np.float32]:
    """CD45 logit (N,) of annotated nuclei, at their centroids or over their areas; NaN for none."""
    model = bundle.markers
    if not model.patch_px and not is_two_scale(bundle):
        grid, dense = stardist_of(bundle).net.config.grid, seen.prediction.dense.marker_logit
        assert dense is not None
        return pool_over_instances(dense[:1], instances[::grid, ::grid], n)[:, 0]
    centers = np.array(ndimage.center_of_mass(instances > 0, instances, np.arange(1, n + 1)))
    known = np.isfinite(centers).all(axis=1)
    centers = np.nan_to_num(centers)[:, ::-1]
    if is_two_scale(bundle):
        inside = points_of_instances(instances, n)
        logits = classify_points(bundle, seen.whole, inside, centers + 0.5)[:, 0]
    else:
        patches = cut_patches(pixels, centers, model.patch_px)
        logits = model.logits(patches, seen.detection)[:, 0]
    logits[~known] = np.nan
    return logits


def points_of_instances(
    instances: NDArray[np.int32], n: int, count: int = 16
) -> NDArray[np.float64]:
    """Pixels spread evenly over each label, as points (n, count, 2); zeros for a label without."""
    order = np.argsort(instances, axis=None, kind="stable")
    ids = np.arange(1, n + 1)
    first, end = (
        np.searchsorted(instances.ravel()[order], ids, side) for side in ("left", "right")
    )
    share = (np.arange(count) + 0.5) / count
    which = first[:, None] + (share * (end - first)[:, None]).astype(int)
    rows, columns = np.divmod(order[np.minimum(which, len(order) - 1)], instances.shape[1])
    points = np.stack([columns, rows], axis=-1) + 0.5
    return np.where((end > first)[:, None, None], points, 0.0)


def logits_at_points(
    bundle: Bundle, pixels: Pixels, points: NDArray[np.float64], seen: Look
) -> NDArray[np.float32]:
    """CD45 logit (N,) at points, by a patch around each or the dense head within 2.5 µm."""
    model = bundle.markers
    if model.patch_px:
        patches = cut_patches(pixels, points - 0.5, model.patch_px)
        return model.logits(patches, seen.detection)[:, 0]
    radius = 2.5 / bundle.manifest.mpp
    if is_two_scale(bundle):
        angle = np.arange(8) * np.pi / 4
        ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        around = np.concatenate([np.zeros((1, 2)), 0.45 * radius * ring, 0.85 * radius * ring])
        return classify_points(bundle, seen.whole, points[:, None] + around, points)[:, 0]
    dense, grid = seen.prediction.dense.marker_logit, stardist_of(bundle).net.config.grid
    assert dense is not None
    h, w = dense.shape[1:]
    yy, xx = np.mgrid[:h, :w] * grid
    return np.array(
        [dense[0][(xx - x) ** 2 + (yy - y) ** 2 <= radius**2].mean() for x, y in points], np.float32
    )


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


def _optics(**strengths: Any) -> Callable[[Pixels], Pixels]:
    nothing = {"blur": 0.0, "sharpen": 0.0, "jpeg": 0.0, "noise": 0.0, "coarse": 0.0}

    def change(pixels: Pixels) -> Pixels:
        return perturb_optics(pixels, np.random.default_rng(0), Augmentation(**nothing | strengths))

    return change


def _blurred(pixels: Pixels) -> Pixels:
    result: Pixels = ndimage.gaussian_filter(pixels, (1.0, 1.0, 0))
    return result


def _sharpened(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.UnsharpMask(1.0, 150, 0)))


def _scanned_at_20x(pixels: Pixels) -> Pixels:
    picture = Image.fromarray(pixels)
    small = round(picture.width * 0.65), round(picture.height * 0.65)
    picture = picture.resize(small, Image.Resampling.BOX)
    return np.asarray(picture.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))


# Two standard deviations of the training's augmentation, one thing at a time.
EXTREMES: dict[str, Callable[[Pixels], Pixels]] = {
    "haematoxylin x 0.67": lambda p: change_stain(p, concentration=(0.67, 1, 1)),
    "haematoxylin x 1.5": lambda p: change_stain(p, concentration=(1.5, 1, 1)),
    "eosin x 0.67": lambda p: change_stain(p, concentration=(1, 0.67, 1)),
    "eosin x 1.5": lambda p: change_stain(p, concentration=(1, 1.5, 1)),
    "redder (density -0.06, 0, +0.06)": lambda p: change_stain(p, offset=(-0.06, 0, 0.06)),
    "bluer (density +0.06, 0, -0.06)": lambda p: change_stain(p, offset=(0.06, 0, -0.06)),
    "high contrast (density to the power 1.5)": lambda p: change_contrast(p, 1.5),
    "low contrast (density to the power 0.67)": lambda p: change_contrast(p, 0.67),
    "blur, sigma 1 px": _blurred,
    "sharpened, unsharp mask of 1 px, 150 %": _sharpened,
    "scanned at 20x (0.5 µm/px)": _scanned_at_20x,
    "JPEG, quality 40 to 95": _optics(jpeg=1.0),
}


def under_extremes(bundle: Bundle, images: Sequence[AnnotatedImage]) -> dict[str, Any]:
    """Detection F1 (IoU 0.5) and CD45 AUROC of real nuclei under changed stain and optics."""
    result = {}
    for name, change in EXTREMES.items():
        truth, found = [], []
        labels: list[NDArray[Any]] = []
        logits: list[NDArray[Any]] = []
        for item in images:
            pixels, instances = resample(item, bundle.manifest.mpp)
            pixels = np.ascontiguousarray(change(pixels))
            seen = look(bundle, pixels)
            truth.append(instances)
            found.append(seen.labels)
            logit = logits_of_instances(bundle, pixels, instances, item.n_nuclei, seen)
            known = (item.leukocyte[1:] >= 0) & np.isfinite(logit)
            labels.append(item.leukocyte[1:][known])
            logits.append(logit[known])
        result[name] = {
            "f1": score_segmentation(truth, found).f1,
            "auroc": float(roc_auc_score(np.concatenate(labels), np.concatenate(logits))),
        }
    return result


def base_rates(bundle: Bundle, images: Sequence[AnnotatedImage]) -> dict[str, Any]:
    """Expected share of nuclei per base-rate marker against the published per-slide fractions."""
    manifest = bundle.manifest
    parts = []
    for item in images:
        seen = look(bundle, resample(item, manifest.mpp)[0])
        heads = bundle.markers.head_outputs(seen.whole.logits)
        parts.append(
            apply_hierarchy(
                heads,
                manifest.panel.parent_indices,
                manifest.hierarchy,
                conditional_heads=[m.is_conditional for m in manifest.markers],
            )
        )
    probability = np.concatenate(parts)
    result = {}
    for i, spec in enumerate(manifest.markers):
        published = [m.fractions[spec.name] for m in slide_means().values()]
        low, high = np.quantile(published, [0.05, 0.95])
        result[spec.name] = {
            "evidence": spec.evidence.value,
            "expected_share_of_nuclei": float(probability[:, i].mean()),
            "orion_median": float(np.median(published)),
            "orion_5_95": [float(low), float(high)],
        }
    return result


def seconds_per_mm2(bundle: Bundle, images: Sequence[AnnotatedImage]) -> float:
    """Detection and classification alone, on images in memory."""
    pixels = [resample(i, bundle.manifest.mpp)[0] for i in images]
    look(bundle, pixels[0])
    began = time.perf_counter()
    for p in pixels:
        look(bundle, p)
    area = sum(p.shape[0] * p.shape[1] for p in pixels) * (bundle.manifest.mpp / 1000) ** 2
    return (time.perf_counter() - began) / area


def measure(
    bundle: Bundle, data: Path, *, quick: bool, point: str = DEFAULT_POINT
) -> dict[str, Any]:
    """Every number of the card; `quick` leaves out the changed stains and test-time averaging."""
    images = read_folder(data / "consep" / "test")
    result: dict[str, Any] = {"consep_test": on_annotated(bundle, images, point)}
    if (data / "nucls").is_dir():
        result["nucls"] = on_nucls(bundle, data / "nucls", point)
    if (data / "nuinsseg").is_dir():
        result["nuinsseg_held_out"] = on_nuinsseg(bundle, data / "nuinsseg", point)
    if (data / "brca-m2c" / "val").is_dir():
        result["brca_m2c_val"] = on_brca_m2c(bundle, data / "brca-m2c" / "val", point)
    result["base_rates"] = base_rates(bundle, images)
    result["measured_on"] = {
        "machine": machine(),
        "precision": precision_name(bundle.markers.autocast),
        "runtime": bundle.runtime,
        "seconds_per_mm2_in_memory": seconds_per_mm2(bundle, images[:4]),
    }
    if not quick:
        result["extremes"] = under_extremes(bundle, images)
        detector = stardist_of(bundle)
        detector.n_views = 8
        averaged = on_annotated(bundle, images, point)
        detector.n_views = 1
        result["consep_test_8_views"] = {
            k: v for k, v in averaged.items() if k not in ("calibration",)
        }
    return result


def flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Rows (name, value) of nested results, lists of numbers as intervals, tables left out."""
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += flatten(value, f"{prefix}{name} · ")
        elif isinstance(value, float):
            rows.append((prefix + name, f"{value:.3f}"))
        elif isinstance(value, (list, tuple)):
            if all(isinstance(v, float) for v in value):
                rows.append((prefix + name, " to ".join(f"{v:.3f}" for v in value)))
        else:
            rows.append((prefix + name, str(value)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with consep/ and others")
    parser.add_argument("--bundle", default="he-v1-fast")
    parser.add_argument("--operating-point", default=DEFAULT_POINT, choices=OPERATING_POINTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    bundle = load_bundle(
        arguments.bundle,
        device=device,
        autocast=half_type(device, arguments.precision),
        runtime=choose_runtime(device, arguments.runtime),
    )
    began = time.perf_counter()
    point = arguments.operating_point
    result = measure(bundle, arguments.data, quick=arguments.quick, point=point)
    result["operating_point"] = bundle.manifest.calling(point)
    table = Table(title=f"{bundle.manifest.name} {bundle.manifest.version}")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in flatten(result):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(f"{time.perf_counter() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
