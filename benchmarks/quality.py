"""Quality of a bundle on the open data sets: every number of its card.

python benchmarks/quality.py --data DIR [--bundle he-v1-fast] [--operating-point balanced]
    [--json FILE] [--quick]

DIR holds consep/test, nucls, nuinsseg and brca-m2c/val; without the last three their rows are left
out. Everything goes through the bundle as `lymphinfer predict` uses it; an image of any pixel size
is brought to the bundle's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bundle_arguments import add_bundle_arguments, open_bundle
from looking import (
    Pixels,
    logits_of_instances,
    look,
    stardist_of,
)
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from process import machine
from quality_sets import (
    on_annotated,
    on_brca_m2c,
    on_nucls,
    on_nuinsseg,
)
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from lymphinfer.bundles.evidence import DEFAULT_POINT
from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.engine import Engine
from lymphinfer.markers.hierarchy import apply_hierarchy
from lymphinfer.nuclei.augment import (
    Augmentation,
    change_contrast,
    change_stain,
    perturb_optics,
)
from lymphinfer.nuclei.datasets import AnnotatedImage, read_folder
from lymphinfer.nuclei.metrics import (
    score_segmentation,
)
from lymphinfer.nuclei.stardist.infer import TorchStarDist
from lymphinfer.orion.manifest import slide_means
from lymphinfer.training.detectors.stardist import resample


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
        "precision": bundle.engine.precision,
        "runtime": bundle.engine.runtime,
        "seconds_per_mm2_in_memory": seconds_per_mm2(bundle, images[:4]),
    }
    if not quick:
        result["extremes"] = under_extremes(bundle, images)
        detector = stardist_of(bundle)
        alone = detector.engine
        whole = load_bundle(bundle.manifest.folder, engine=Engine(bundle.engine.device))
        detector.engine = TorchStarDist(
            stardist_of(whole).net, device=bundle.engine.device,
            n_views=8,
        )  # fmt: skip
        averaged = on_annotated(bundle, images, point)
        detector.engine = alone
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
    add_bundle_arguments(parser, "he-v1-fast")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    bundle = open_bundle(arguments)
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
