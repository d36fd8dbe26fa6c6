"""What `lymphinfer teach` gains on another laboratory's images: BRCA-M2C, tested on its val.

    python benchmarks/teaching.py ../shared/data/brca-m2c --from he-v1-fast --nuclei 300

Draws nuclei evenly over the images of ``train`` and their classes as points of QuPath, teaches a
bundle with them by the command's own function, and compares calls and ranks of the base and of the
taught bundle at every dot of ``val``, from which neither has learned.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.engine import choose_engine
from lymphinfer.teaching.learning import _auroc, _balanced
from lymphinfer.teaching.teach import TeachOptions, look, probabilities, summary_lines, teach
from lymphinfer.teaching.teachable import teachable
from recipes.he.brca_m2c import MPP, read_all

NAMES = {1: "Lymphocyte", 2: "Tumor", 3: "Stroma"}


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
        features = [
            {"type": "Feature",
             "geometry": {"type": "Point", "coordinates": image.points[i].tolist()},
             "properties": {"objectType": "annotation",
                            "classification": {"name": NAMES[int(image.labels[i])]}}}
            for i in rows
        ]  # fmt: skip
        (folder / f"{image.name}.geojson").write_text(json.dumps(features))
        total += len(rows)
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--from", dest="base", default="he-v1-fast")
    parser.add_argument("--nuclei", type=int, default=300)
    parser.add_argument("--images", type=int, help="train images that they are drawn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the bundle and the points")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        work = asked.keep or Path(made)
        train, val = asked.data / "train", asked.data / "val"
        images = sorted(train.glob("*.jpg"))[: asked.images]
        chosen = work / "images"
        chosen.mkdir(parents=True)
        for path in images:
            for file in (path, path.with_suffix(".csv")):
                (chosen / file.name).symlink_to(file.resolve())
        named = write_points(
            work / "points", chosen, max(1, asked.nuclei // len(images)), asked.seed
        )
        write_points(work / "all", val, None)
        options = TeachOptions(base=asked.base, mpp=MPP, device="cpu")
        cpu = time.process_time()
        done = teach(chosen, work / "points", work / "mine", options)
        cpu = time.process_time() - cpu
        print(
            f"{named} nuclei of {len(images)} images; {torch.get_num_threads()} threads, load "
            f"{os.getloadavg()[0]:.1f}: {done.seconds:.1f} s, {cpu:.1f} core-seconds"
        )
        for line in (*summary_lines(done.taught), *done.notes):
            print(" ", line)
        base = teachable(load_bundle(asked.base, engine=choose_engine("cpu", "fp32")))
        found = look(val, work / "all", base, options)
        features = np.concatenate([seen.features for seen in found.seen])
        labels = np.concatenate(found.labels)[:, 0]
        mine = teachable(load_bundle(work / "mine"))
        rows = []
        for name, layer in ((asked.base, base), ("taught", mine)):
            p = probabilities(layer, layer.logits(features))[:, 0]
            at = layer.bundle.manifest.calls_at()[0]
            assert at is not None
            called = (p >= at.threshold).astype(float)
            rows.append((name, _balanced(labels, called), _auroc(labels, p), p.mean()))
        print(
            f"val: {len(labels):,} nuclei of {len(found.slides)} images, "
            f"{labels.mean():.1%} lymphocytes"
        )
        for name, balanced, ranks, expected in rows:
            print(
                f"  {name}: balanced accuracy {balanced:.3f}, AUROC {ranks:.3f}, "
                f"expected {expected:.1%}"
            )


if __name__ == "__main__":
    main()
