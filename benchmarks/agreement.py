"""Same nuclei, same probabilities? Each engine against torch in float32, and with each other.

python benchmarks/agreement.py --data DIR [--bundle he-v1-fast]

DIR holds consep/test. Engines find their own nuclei; those within 1 µm of each other are compared.
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality import look
from rich.console import Console
from rich.table import Table

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.engine import Engine
from lymphinfer.markers.calibration import Calibration
from lymphinfer.nuclei.datasets import read_folder
from lymphinfer.nuclei.metrics import pair_centroids
from lymphinfer.training.detectors.stardist import resample

ENGINES = {
    "torch, float32": Engine("cpu", "fp32", "torch"),
    "torch, bfloat16": Engine("cpu", "bfloat16", "torch"),
    "OpenVINO, float32": Engine("cpu", "fp32", "openvino"),
    "OpenVINO, bfloat16": Engine("cpu", "bfloat16", "openvino"),
}
PAIRS = (
    ("torch, float32", "OpenVINO, float32"),
    ("torch, float32", "torch, bfloat16"),
    ("torch, float32", "OpenVINO, bfloat16"),
    ("torch, bfloat16", "OpenVINO, bfloat16"),
)
SAME_UM, SAME_P = 1.0, 0.02
Found = tuple[NDArray[np.floating], NDArray[np.floating]]


def nuclei(name: str, engine: str, images: list[NDArray[np.uint8]]) -> list[Found]:
    """Centroids (N, 2), working px, and P(CD45) (N,) that an engine gives for each image."""
    bundle = load_bundle(name, engine=ENGINES[engine])
    spec = bundle.manifest.markers[0]
    seen = (look(bundle, pixels) for pixels in images)
    return [(s.centers, Calibration(spec.scale, spec.offset)(s.cd45_logit)) for s in seen]


def differences(
    one: list[Found], other: list[Found], radius_px: float
) -> tuple[float, NDArray[np.floating]]:
    """Share of all nuclei that both have, and the differences of their probabilities."""
    delta = []
    for (centers, p), (centers_2, p_2) in zip(one, other, strict=True):
        pairs = pair_centroids(centers, centers_2, radius_px)
        delta.append(np.abs(p[pairs.truth] - p_2[pairs.predicted]))
    total = sum(len(p) for _, p in chain(one, other))
    paired = np.concatenate(delta)
    return 2 * len(paired) / max(total, 1), paired


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with consep/")
    parser.add_argument("--bundle", default="he-v1-fast")
    arguments = parser.parse_args()
    mpp = load_bundle(arguments.bundle).manifest.mpp
    images = [resample(i, mpp)[0] for i in read_folder(arguments.data / "consep" / "test")]
    found = {engine: nuclei(arguments.bundle, engine, images) for engine in ENGINES}
    table = Table(title=f"{arguments.bundle}: CoNSeP test, {len(images)} images")
    for name in ("engines", "nuclei", "in both", f"|Δp| <= {SAME_P}", "99.9 % within", "largest"):
        table.add_column(name, justify="left" if name == "engines" else "right")
    for one, other in PAIRS:
        shared, delta = differences(found[one], found[other], SAME_UM / mpp)
        table.add_row(
            f"{one} | {other}",
            f"{len(delta):,}",
            f"{shared:.2%}",
            f"{(delta <= SAME_P).mean():.2%}",
            f"{np.quantile(delta, 0.999):.4f}",
            f"{delta.max():.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
