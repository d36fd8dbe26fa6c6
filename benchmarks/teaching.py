"""What `lymphinfer teach` gains on another laboratory's images: BRCA-M2C, tested on its val.

    python benchmarks/teaching.py ../shared/data/brca-m2c --from he-v1-fast --nuclei 300
    python benchmarks/teaching.py ../shared/data/brca-m2c --consep ../shared/data

Draws nuclei evenly over the images of ``train`` and their classes as points of QuPath, teaches a
bundle with them by the command's own functions, and compares calls and ranks of the base and of the
taught bundle at every dot of ``val``, from which neither has learned. Beside them stands how well
``val`` could be called at most: at the threshold that its own labels choose.

``--half SEED`` tests on images of ``train`` instead: half of its patients teach, all dots of the
others are tested. That is where settings of teaching were chosen.

``--consep`` shows a second base: the same features, and a last layer learned on the training images
of CoNSeP alone, called from 0.5.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from lymphinfer.bundles.evidence import DEFAULT_POINT
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.engine import choose_engine
from lymphinfer.teaching.learning import _auroc, _balanced, teach_marker
from lymphinfer.teaching.naming import listed
from lymphinfer.teaching.teach import (
    Learned,
    TeachOptions,
    look,
    probabilities,
    summary_lines,
    teach_markers,
)
from lymphinfer.teaching.teachable import Teachable, teachable
from lymphinfer.teaching.writing import write_taught
from recipes.he.brca_m2c import MPP, read_all
from recipes.he.near_sets import read_raw

NAMES = {1: "Lymphocyte", 2: "Tumor", 3: "Stroma"}


def write_features(path: Path, points: NDArray[np.floating], names: Sequence[str]) -> None:
    """Write points with a class, as QuPath exports them."""
    features = [
        {"type": "Feature",
         "geometry": {"type": "Point", "coordinates": point.tolist()},
         "properties": {"objectType": "annotation", "classification": {"name": name}}}
        for point, name in zip(points, names, strict=True)
    ]  # fmt: skip
    path.write_text(json.dumps(features))


def write_points(folder: Path, images: Path, each: int | None, seed: int = 0) -> int:
    """A file of points an image: `each` nuclei of it, half of them lymphocytes, or all."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    total = 0
    for image in read_all(images):
        rows = np.arange(len(image.labels))
        if each is not None:
            kinds = [np.flatnonzero(image.labels == 1), np.flatnonzero(image.labels != 1)]
            half = [rng.permutation(kind)[: each - each // 2 * i] for i, kind in enumerate(kinds)]
            half[0] = half[0][: each // 2] if len(kinds[1]) >= each - each // 2 else half[0]
            rows = np.concatenate([half[0], rng.permutation(kinds[1])])[:each]
        names = [NAMES[int(label)] for label in image.labels[rows]]
        write_features(folder / f"{image.name}.geojson", image.points[rows], names)
        total += len(rows)
    return total


@dataclass(frozen=True)
class Row:
    """What one layer says of the tested nuclei."""

    name: str
    probability: NDArray[np.floating]
    threshold: float

    def line(self, labels: NDArray[np.int8]) -> str:
        """Numbers for people."""
        p = self.probability
        called = (p >= self.threshold).astype(float)
        recall, specificity = called[labels == 1].mean(), 1 - called[labels == 0].mean()
        best = max(_balanced(labels, (p >= cut).astype(float)) for cut in np.unique(p.round(3)))
        return (
            f"  {self.name}: balanced accuracy {_balanced(labels, called):.3f} (at the best "
            f"threshold for these {best:.3f}), AUROC {_auroc(labels, p):.3f}, recall {recall:.3f}, "
            f"specificity {specificity:.3f}, expected {p.mean():.1%}"
        )


def halves(images: Sequence[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """Images of half of the patients, drawn, and those of the others."""
    of = ["-".join(path.name.split("-")[:3]) for path in images]
    patients = np.random.default_rng(seed).permutation(np.unique(of))
    first = set(patients[: len(patients) // 2].tolist())
    return (
        [path for path, patient in zip(images, of, strict=True) if patient in first],
        [path for path, patient in zip(images, of, strict=True) if patient not in first],
    )


def linked(folder: Path, images: Sequence[Path]) -> Path:
    """A folder of these images and their dots."""
    folder.mkdir(parents=True)
    for path in images:
        for file in (path, path.with_suffix(".csv")):
            (folder / file.name).symlink_to(file.resolve())
    return folder


def together(found: Learned) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Features of all named nuclei, and whether they are CD45."""
    features = np.concatenate([seen.features for seen in found.seen])
    return features, np.concatenate(found.labels)[:, 0]


def learn_consep(data: Path, work: Path, layer: Teachable) -> tuple[NDArray[np.float64], float]:
    """Weights and bias of a last layer that has seen CoNSeP's training images alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score

    work.mkdir(parents=True)
    for image in read_raw(data, "consep"):
        if len(image.points):
            names = ["Lymphocyte" if label else "Other" for label in image.labels[:, 0]]
            write_features(work / f"{Path(image.name).name}.geojson", image.points, names)
    found = look(data / "consep" / "train", work, layer, TeachOptions(mpp=0.25, device="cpu"))
    features, labels = together(found)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = (features - mean) / deviation
    folds = list(GroupKFold(5).split(scaled, labels, found.groups))

    def score(c: float) -> float:
        model = LogisticRegression(C=c, max_iter=1000)
        return float(
            cross_val_score(model, scaled, labels, cv=folds, scoring="neg_log_loss").mean()
        )

    chosen = max((1e-4, 1e-3, 1e-2, 1e-1), key=score)
    model = LogisticRegression(C=chosen, max_iter=1000).fit(scaled, labels)
    weights = model.coef_[0] / deviation
    print(
        f"a layer of CoNSeP alone: {len(labels):,} nuclei, {labels.mean():.1%} inflammatory, "
        f"C {chosen:g}"
    )
    return weights, float(model.intercept_[0] - weights @ mean)


def taught_from(
    weights: NDArray[np.float64], bias: float, found: Learned, val: NDArray[np.float32]
) -> list[Row]:
    """What that layer says of ``val``, and what it says once it is taught."""
    features, labels = together(found)
    around = np.concatenate([seen.around for seen in found.seen])

    def say(given: NDArray[np.float32]) -> NDArray[np.float32]:
        return (given @ weights + bias).astype(np.float32)

    made = teach_marker(
        "CD45", features, say(features), labels, found.groups, now=expit(say(features)),
        threshold=0.5, around=(around, say(around)),
    )  # fmt: skip
    for line in summary_lines([made]):
        print(f"  {line}")
    p = made.calibration(made.change(val, say(val)))
    return [
        Row("CoNSeP alone", expit(say(val)), 0.5),
        Row("CoNSeP alone, taught", p, made.points[DEFAULT_POINT].threshold),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--from", dest="base", default="he-v1-fast")
    parser.add_argument("--nuclei", type=int, default=300)
    parser.add_argument("--images", type=int, help="train images that they are drawn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", type=int, metavar="SEED", help="test on patients of train")
    parser.add_argument("--consep", type=Path, help="folder of consep/train, for a second base")
    parser.add_argument("--keep", type=Path, help="folder for the bundle and the points")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        work = asked.keep or Path(made)
        images = sorted((asked.data / "train").glob("*.jpg"))[: asked.images]
        tested = sorted((asked.data / "val").glob("*.jpg"))
        if asked.half is not None:
            images, tested = halves(images, asked.half)
        chosen, test = linked(work / "images", images), linked(work / "tested", tested)
        named = write_points(
            work / "points", chosen, max(1, asked.nuclei // len(images)), asked.seed
        )
        write_points(work / "all", test, None)
        options = TeachOptions(base=asked.base, mpp=MPP, device="cpu")
        began, cpu = time.perf_counter(), time.process_time()
        base = teachable(
            load_bundle(asked.base, engine=choose_engine("cpu", "fp32"), trainable=False)
        )
        found = look(chosen, work / "points", base, options)
        taught, _ = teach_markers(found, base)
        write_taught(
            work / "mine", base, taught, counts=listed(found.calls), slides=len(found.slides),
            by=found.grouped_by, notes=found.notes, command="benchmarks/teaching.py",
        )  # fmt: skip
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(
            f"{named} nuclei of {len(images)} images; {torch.get_num_threads()} threads, load "
            f"{os.getloadavg()[0]:.1f}: {seconds:.1f} s, {cpu:.1f} core-seconds"
        )
        for line in (*summary_lines(taught), *found.notes):
            print(" ", line)
        seen = look(test, work / "all", base, options)
        features, labels = together(seen)
        rows = []
        for name, layer in ((asked.base, base), ("taught", teachable(load_bundle(work / "mine")))):
            at = layer.bundle.manifest.calls_at()[0]
            assert at is not None
            p = probabilities(layer, layer.logits(features))[:, 0]
            rows.append(Row(name, p, at.threshold))
        if asked.consep is not None:
            head = learn_consep(asked.consep, work / "consep", base)
            rows += taught_from(*head, found, features)
        print(
            f"tested: {len(labels):,} nuclei of {len(seen.slides)} images, "
            f"{labels.mean():.1%} lymphocytes"
        )
        for row in rows:
            print(row.line(labels))


if __name__ == "__main__":
    main()
