r"""Calibrate, choose operating points, and write he-v2.

python -m recipes.he.bundle --slide DIR --data DIR --near RUN --far RUN_A --out RUN \
    --weights weights [--start he-v1-fast]

Everything is decided on nuclei that were not trained on: the C01 tiles, each told by a head that
had not seen it and a far network that had not seen its column; validation columns of the slide;
held-out training images of CoNSeP and BRCA-M2C. Nothing is decided on a test set. Writes
``validation.json`` beside the run, for the card.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import nn

from lymphinfer.bundles.evidence import Evidence, MarkerSpec, OperatingPoint
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.markers.calibration import Calibration
from lymphinfer.markers.far_scale import FarNet, fold_batch_norm
from lymphinfer.nuclei.stardist.network import build_network
from recipes.he.crc01 import MARKERS, PARENTS, SINGLE_GATES, hard_labels, read_slide
from recipes.he.far_logits import FarRun, read_run
from recipes.he.head import HeadTrainee, begin, read_rows
from recipes.he.near import Reader, reader_of
from recipes.he.points import (
    Validation,
    calibrations,
    operating_points,
    real_frequency,
    settle_alone,
    single_gate_labels,
)

VERSION = "0.3.5"
FREQUENCY = {"CD45": 0.192, "CD3e": 0.090, "CD4": 0.058, "CD8a": 0.050}
"""Positive fractions published for the slide."""
SOURCE = "its own stain on ORION CRC01 (colorectal, one section); cross-validated on 48 tiles of it"


def far_for_bundle(run: FarRun) -> FarNet:
    """The far network without batch normalisation, its logits calibrated."""
    net = fold_batch_norm(run.net.cpu())
    last = net.tell[2]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(torch.from_numpy(run.scale)[:, None])
        last.bias.mul_(torch.from_numpy(run.scale)).add_(torch.from_numpy(run.offset))
    return net


def detector_with(net: Reader, trainee: HeadTrainee) -> Reader:
    """The same detector, whose marker head reads what the two-scale head has learned to read."""
    full = build_network(replace(net.config, marker_features=True))
    assert isinstance(full, Reader)
    full.load_state_dict(net.state_dict())
    layers = full.readers
    weights = trainee.first.weight.detach().split([m.in_channels for m in layers], dim=1)
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight[..., None, None])
        assert layers[0].bias is not None
        layers[0].bias.copy_(trainee.first.bias.detach())
    return full.eval()


def probabilities(logits: NDArray[np.floating], found: list[Calibration]) -> NDArray[np.float64]:
    """Calibrated marginals, (N, 4)."""
    p = np.stack([c(logits[:, i]) for i, c in enumerate(found)], axis=1).astype(np.float64)
    for child, parent in PARENTS.items():
        p[:, MARKERS.index(child)] *= p[:, MARKERS.index(parent)]
    return p


def auroc_interval(
    y: NDArray[np.integer], p: NDArray[np.floating], group: NDArray[Any]
) -> tuple[float, float, float]:
    """AUROC and its 95 % interval, drawing groups with replacement."""
    known = y >= 0
    y, p, group = y[known], p[known], group[known]
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    values = []
    for _ in range(500):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if len(np.unique(y[drawn])) == 2:
            values.append(roc_auc_score(y[drawn], p[drawn]))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(roc_auc_score(y, p)), float(low), float(high)


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--near", type=Path, required=True)
    parser.add_argument("--far", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--start", default="he-v1-fast")
    arguments = parser.parse_args()
    slide = read_slide(arguments.slide)
    run = read_run(arguments.far, slide, "cpu")
    rows = read_rows(arguments.near, arguments.out)
    with np.load(arguments.out / "out_of_fold.npz") as data:
        logits = data["logits"]
    three_range = rows.labels.numpy().astype(np.int8)
    group = rows.group
    chosen = {
        name: np.flatnonzero(np.char.startswith(group, f"{name}/") & np.isfinite(logits[:, 0]))
        for name in ("c01", "consep", "brca")
    }
    with np.load(arguments.near / "c01.npz") as data:
        near = {k: data[k] for k in ("labels", "image", "copy", "center_um")}
    all_c01 = np.flatnonzero(np.char.startswith(group, "c01/"))
    gated = single_gate_labels(arguments.data, near)[np.searchsorted(all_c01, chosen["c01"])]
    tiles = logits[chosen["c01"]]
    weights = np.stack(
        [real_frequency(gated[:, i], FREQUENCY[m]) for i, m in enumerate(MARKERS)], axis=1
    )
    # CD45 by both scales on the tiles; children, whom the far scale tells, on whole columns.
    root = calibrations(tiles, gated, weights)[0]
    trainee = begin(arguments.near)
    trainee.load_state_dict(load_file(arguments.out / "head.safetensors"))
    head = trainee.head.eval()
    with np.load(arguments.far / "held_out.npz") as data:
        index, alone = data["index"], run(data["logits"])
    slide_gated = np.stack([slide.values[m][index] >= SINGLE_GATES[m] for m in MARKERS], axis=1)
    settle_alone(head, root, alone, slide_gated[:, 0])
    with torch.inference_mode():
        alone_logits = head(None, torch.from_numpy(alone)).numpy()
    every = np.ones(slide_gated.shape)
    found = calibrations(alone_logits, slide_gated.astype(np.int8), every, root)
    far_alone = probabilities(alone_logits, found)
    stain = probabilities(tiles, found)
    known = hard_labels(slide, MARKERS)[index]

    seen = json.loads((arguments.out / "far_c01.json").read_text())
    cv_far = "and a far network that had not seen its column"
    if seen["unseen"] < seen["images"]:
        cv_far = (
            f"with the shipped far network, which had not seen the columns of {seen['unseen']} of "
            f"the {seen['images']} tiles, and had those of the others"
        )
    report: dict[str, Any] = {
        "cv_far": cv_far,
        "tiles": json.loads((arguments.out / "scores.json").read_text()),
        "columns": list(run.held_out),
        "markers": {},
    }
    specs = []
    for i, name in enumerate(MARKERS):
        here = three_range[chosen["c01"], i]
        share = float((known[:, i] == 1).sum() / (known[:, i] >= 0).sum())
        sets = [
            Validation("columns, far alone", far_alone, known, np.ones(len(known))),
            Validation("tiles", stain, three_range[chosen["c01"]], real_frequency(here, share)),
        ]
        if i == 0:
            for other in ("consep", "brca"):
                rows_of = chosen[other]
                p = probabilities(logits[rows_of], found)
                sets.append(Validation(other, p, three_range[rows_of], np.ones(len(rows_of))))
        points, lines = operating_points(sets, i, elsewhere=("consep", "brca"))
        auroc, low, high = auroc_interval(
            three_range[chosen["c01"], i], stain[:, i], group[chosen["c01"]]
        )
        specs.append(
            MarkerSpec(
                name,
                Evidence.STAIN,
                SOURCE,
                points={k: OperatingPoint(**v) for k, v in points.items()},
                conditional=name in PARENTS,
                patients=1,
                scale=round(found[i].scale, 5),
                offset=round(found[i].offset, 5),
                auroc=round(auroc, 3),
                auroc_interval=(round(low, 3), round(high, 3)),
            )
        )
        report["markers"][name] = {
            "auroc": [auroc, low, high],
            "points": points,
            "decided": lines,
            "expected_over_observed_far_alone": float(
                far_alone[:, i].mean() / slide_gated[:, i].mean()
            ),
            "expected_over_observed_tiles": float(
                (stain[:, i] * weights[:, i]).sum() / ((gated[:, i] == 1) * weights[:, i]).sum()
            ),
            "scale": found[i].scale,
            "offset": found[i].offset,
        }
        print(name, json.dumps(report["markers"][name], indent=1), flush=True)
    (arguments.out / "validation.json").write_text(json.dumps(report, indent=1) + "\n")
    write(arguments.weights / "he-v2", arguments.start, trainee, run, specs)


def write(
    folder: Path, start: str, trainee: HeadTrainee, run: FarRun, specs: list[MarkerSpec]
) -> None:
    """Write the bundle."""
    base = load_bundle(start)
    net = detector_with(reader_of(base), trainee)
    far = far_for_bundle(run)
    # How it is computed in bytes is found anew: `recipes.he.int8`.
    detector = {k: v for k, v in base.manifest.detector.items() if k != "int8"}
    detector["network"] = net.config.to_dict()
    write_bundle(
        folder,
        modules={
            "stardist.safetensors": net,
            "far.safetensors": far,
            "head.safetensors": trainee.head,
        },
        header={
            "name": folder.name,
            "version": VERSION,
            "summary": "StarDist nuclei; four markers read near (0.325 µm/px) and far (1.3 µm/px), "
            "learned on the markers' own stains on one slide of one patient, CD45 also on the "
            "morphology of several laboratories",
            "licence": "Apache-2.0",
            "panel": "t-cell",
            "mpp": base.manifest.mpp,
            "hierarchy": "conditional",
        },
        detector=detector,
        classifier={
            "kind": "two-scale",
            "file": "head.safetensors",
            "head": trainee.head.config.to_dict(),
            "near": {k: detector[k] for k in ("file", "mpp", "network")},
            "far": {"file": "far.safetensors", "network": far.config.to_dict()},
        },
        markers=specs,
    )


if __name__ == "__main__":
    main()
