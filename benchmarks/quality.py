"""Quality of a bundle on the open data sets, as its card reports it.

python benchmarks/quality.py --data DIR [--bundle he-v1] [--set consep/test] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.compute import half_type, resolve_device
from lymphinfer.markers.patches import cut_patches
from lymphinfer.nuclei.datasets import AnnotatedImage, read_folder
from lymphinfer.nuclei.metrics import score_segmentation
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.nuclei.stardist.train import pool_over_instances, resample


def label_image(bundle: Bundle, pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Instances (H, W) that the bundle's detector finds in an image at the working pixel size."""
    detector = bundle.detector
    if not isinstance(detector, StarDistDetector):
        raise SystemExit(
            "this benchmark draws StarDist's polygons; the bundle has another detector"
        )
    from lymphinfer.nuclei.stardist.decode import decode

    prediction = detector.infer(pixels)
    found = decode(
        prediction.dense.prob,
        prediction.dense.dist,
        grid=detector.net.config.grid,
        prob_threshold=detector.prob_threshold,
        nms_threshold=detector.nms_threshold,
    )
    return found.label_image(pixels.shape[:2])


def cd45_of_real_nuclei(
    bundle: Bundle, pixels: NDArray[np.uint8], instances: NDArray[np.int32], n: int
) -> NDArray[np.float32]:
    """P(CD45) (N,) of the annotated nuclei, at their real centroids or over their real areas."""
    model = bundle.markers
    if model.patch_px:
        centers = np.array(ndimage.center_of_mass(instances > 0, instances, np.arange(1, n + 1)))
        known = np.isfinite(centers).all(axis=1)
        patches = cut_patches(pixels, np.nan_to_num(centers)[:, ::-1], model.patch_px)
        empty: Any = None
        logits = model.logits(patches, empty)
        logits[~known] = np.nan
    else:
        detector = bundle.detector
        assert isinstance(detector, StarDistDetector)
        dense = detector.infer(pixels).dense
        grid = detector.net.config.grid
        assert dense.marker_logit is not None
        logits = pool_over_instances(dense.marker_logit, instances[::grid, ::grid], n)
    return model.head_outputs(logits)[:, 0]


def interval(
    images: list[tuple[NDArray[Any], NDArray[Any]]], resamples: int = 500, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the AUROC, drawing images with replacement."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        chosen = [images[i] for i in rng.integers(0, len(images), len(images))]
        y = np.concatenate([c[0] for c in chosen])
        if len(np.unique(y)) == 2:
            values.append(roc_auc_score(y, np.concatenate([c[1] for c in chosen])))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def measure(bundle: Bundle, images: list[AnnotatedImage]) -> dict[str, Any]:
    """Segmentation scores, and CD45 scores where classes are annotated."""
    truth, found, labelled = [], [], []
    for item in images:
        pixels, instances = resample(item, bundle.manifest.mpp)
        truth.append(instances)
        found.append(label_image(bundle, pixels))
        probability = cd45_of_real_nuclei(bundle, pixels, instances, item.n_nuclei)
        known = (item.leukocyte[1:] >= 0) & np.isfinite(probability)
        if known.any():
            labelled.append((item.leukocyte[1:][known], probability[known]))
    result: dict[str, Any] = {
        "images": len(images),
        "nuclei": sum(i.n_nuclei for i in images),
        "found": int(sum(f.max(initial=0) for f in found)),
        **asdict(score_segmentation(truth, found)),
    }
    if labelled:
        y = np.concatenate([a for a, _ in labelled])
        p = np.concatenate([b for _, b in labelled])
        result["cd45"] = {
            "nuclei": len(y),
            "positive": int(y.sum()),
            "auroc": float(roc_auc_score(y, p)),
            "auroc_interval": interval(labelled),
            "average_precision": float(average_precision_score(y, p)),
            "balanced_accuracy": float(
                balanced_accuracy_score(y, p >= bundle.manifest.markers[0].threshold)
            ),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with consep/ and others")
    parser.add_argument("--bundle", default="he-v1")
    parser.add_argument("--set", default="consep/test")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    bundle = load_bundle(
        arguments.bundle, device=device, autocast=half_type(device, arguments.precision)
    )
    result = measure(bundle, read_folder(arguments.data / arguments.set))
    table = Table(title=f"{bundle.manifest.name} on {arguments.set}")
    table.add_column("measure")
    table.add_column("value", justify="right")
    cd45 = result.pop("cd45", None)
    rows = {**result, **{f"CD45 {k}": v for k, v in (cd45 or {}).items()}}
    for name, value in rows.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        if isinstance(value, tuple):
            shown = "-".join(f"{v:.3f}" for v in value)
        table.add_row(name, shown)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({**result, "cd45": cd45}, indent=1) + "\n")


if __name__ == "__main__":
    main()
