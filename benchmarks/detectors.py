"""Detectors side by side on the open sets: F1 at IoU 0.5, PQ, and recall of BRCA-M2C's dots.

python benchmarks/detectors.py --data DIR --bundle he-v1-fast [--others BUNDLE ...] [--json FILE]
    [--sets consep_test,tnbc,tnbc_held_out,nuinsseg_held_out,nuinsseg,brca_m2c_val]

The first bundle is what the others are compared with: differences and their 95 % interval, drawing
images with replacement, the same images for both. Sets: CoNSeP's test images; TNBC, all and the
patients 10 and 11; NuInsSeg, all and the mouse organs that no network here was trained on; the dots
of BRCA-M2C's val images, found within 3 µm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bundle_arguments import add_bundle_arguments, open_bundle
from looking import stardist_of
from numpy.typing import NDArray
from process import machine
from rich.console import Console
from rich.table import Table

from lymphinfer.nuclei.datasets import AnnotatedImage, read_folder
from lymphinfer.nuclei.detector import polygon_centroids
from lymphinfer.nuclei.metrics import pair_centroids
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.training.detectors.stardist import resample
from recipes.he.brca_m2c import read_all
from recipes.he.open_sets import (
    NUINSSEG_HELD_OUT,
    NUINSSEG_MPP,
    TNBC_HELD_OUT_PATIENTS,
    organ,
    split,
)

PAIRING_UM = 3.0
Rows = NDArray[np.float64]
"""An image a row: true positives, false positives, false negatives, PQ (NaN for dots)."""
SETS = ("consep_test", "tnbc", "tnbc_held_out", "nuinsseg_held_out", "nuinsseg", "brca_m2c_val")


def annotated(data: Path, name: str) -> list[AnnotatedImage]:
    """Images of a set with outlines."""
    if name == "consep_test":
        return read_folder(data / "consep" / "test")
    if name.startswith("tnbc"):
        images = read_folder(data / "tnbc")
        held_out = split(images, lambda s: s.split("_")[0] in TNBC_HELD_OUT_PATIENTS)[1]
        return held_out if name.endswith("held_out") else images
    images = read_folder(data / "nuinsseg", mpp=NUINSSEG_MPP)
    if name.endswith("held_out"):
        images = [i for i in images if organ(i) in NUINSSEG_HELD_OUT]
    return images


def outlines(detector: StarDistDetector, mpp: float, images: list[AnnotatedImage]) -> Rows:
    """Against drawn nuclei."""
    from stardist.matching import matching

    rows = []
    for item in images:
        pixels, instances = resample(item, mpp)
        found = detector.polygons(detector.infer(np.ascontiguousarray(pixels)).dense)
        met = matching(instances, found.label_image(instances.shape), thresh=0.5, criterion="iou")
        rows.append((met.tp, met.fp, met.fn, met.panoptic_quality))
    return np.array(rows, np.float64)


def dots(detector: StarDistDetector, mpp: float, folder: Path) -> Rows:
    """Against dots."""

    def each() -> Iterator[tuple[float, ...]]:
        for item in read_all(folder):
            here = item.at(mpp)
            found = detector.decode(detector.infer(np.ascontiguousarray(here.image)))
            centers = polygon_centroids(found.polygons)
            met = len(pair_centroids(here.points, centers, PAIRING_UM / mpp).truth)
            yield met, len(centers) - met, len(here.points) - met, np.nan

    return np.array(list(each()), np.float64)


def f1(rows: Rows) -> float:
    tp, fp, fn = rows[:, :3].sum(axis=0)
    return float(2 * tp / max(1.0, 2 * tp + fp + fn))


def pq(rows: Rows) -> float:
    return float(rows[:, 3].mean())


def recall(rows: Rows) -> float:
    tp, _, fn = rows[:, :3].sum(axis=0)
    return float(tp / max(1.0, tp + fn))


def difference(
    score: Callable[[Rows], float], rows: Rows, before: Rows, resamples: int = 1000
) -> tuple[float, float, float]:
    """Of two detectors on the same images, with its 95 % interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(rows), (resamples, len(rows)))
    low, high = np.quantile([score(rows[d]) - score(before[d]) for d in drawn], [0.025, 0.975])
    return score(rows) - score(before), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    add_bundle_arguments(parser, "he-v1-fast")
    parser.add_argument("--others", nargs="*", default=[], metavar="BUNDLE")
    parser.add_argument("--sets", default=",".join(SETS))
    arguments = parser.parse_args()
    names = [arguments.bundle, *arguments.others]
    rows: dict[str, list[Rows]] = {}
    for name in names:
        bundle = open_bundle(argparse.Namespace(**vars(arguments) | {"bundle": name}))
        detector, mpp = stardist_of(bundle), bundle.manifest.mpp
        if detector.scale != 1:
            raise SystemExit(f"{name}: its detector works at another pixel size than the bundle")
        measure = partial(outlines, detector, mpp)
        for kind in arguments.sets.split(","):
            if kind.startswith("brca"):
                found = dots(detector, mpp, arguments.data / "brca-m2c" / "val")
            else:
                found = measure(annotated(arguments.data, kind))
            rows.setdefault(kind, []).append(found)
    table = Table(title=machine())
    for column in ("set", "images", "measure", *(Path(n).name for n in names)):
        table.add_column(column, justify="left" if column in ("set", "measure") else "right")
    result: dict[str, Any] = {"bundles": names, "machine": machine()}
    for kind, found_by in rows.items():
        scores = {"F1": f1, "PQ": pq}
        if kind.startswith("brca"):
            scores = {"recall of dots": recall, "F1 of dots": f1}
        for label, score in scores.items():
            first = found_by[0]
            values = [{"value": score(r)} for r in found_by]
            cells = [f"{score(first):.4f}"]
            for value, found in zip(values[1:], found_by[1:], strict=True):
                gap, low, high = difference(score, found, first)
                value |= {"difference": gap, "low": low, "high": high}
                cells.append(f"{value['value']:.4f} ({gap:+.4f}: {low:+.4f} to {high:+.4f})")
            result.setdefault(kind, {})[label] = dict(zip(names, values, strict=True))
            table.add_row(kind, str(len(first)), label, *cells)
    Console(width=140).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
