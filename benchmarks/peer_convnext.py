"""The paper's way: one ConvNeXt-Base patch of 112 px at 0.325 µm/px a nucleus, torch, float32.

python benchmarks/peer_convnext.py SLIDE NUCLEI.csv OUT [--first 64]

NUCLEI.csv has the columns x and y, level-0 pixels. Patches are read by OpenSlide, resized, and
classified in batches of 32; OUT/probabilities.csv has one row a nucleus. The weights are random:
they do not change the time. Needs torch, timm and openslide-python, and nothing of LymphInfer.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from peer import PeerRun

MPP, PATCH_PX, BATCH = 0.325, 112, 32
MARKERS = ("CD45", "CD3e", "CD4", "CD8a")


def classify(slide: Path, nuclei: Path, out: Path, first: int) -> None:
    """The measured run, of the first nuclei alone."""
    told = PeerRun(out)
    import timm
    import torch
    from openslide import OpenSlide
    from PIL import Image
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    net = timm.create_model("convnext_base", num_classes=len(MARKERS)).eval()
    mean, deviation = (
        torch.tensor(x)[:, None, None] for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    told.ready()
    with nuclei.open(newline="") as file:
        points = [(float(row["x"]), float(row["y"])) for row in csv.DictReader(file)][:first]
    with (
        OpenSlide(slide) as file,
        (out / "probabilities.csv").open("w", newline="") as table,
        torch.inference_mode(),
    ):
        write = csv.writer(table)
        write.writerow(("x", "y", *MARKERS))
        side = round(PATCH_PX * MPP / float(file.properties["openslide.mpp-x"]))
        for start in range(0, len(points), BATCH):
            some = points[start : start + BATCH]
            patches = [
                file.read_region((round(x - side / 2), round(y - side / 2)), 0, (side, side))
                .convert("RGB")
                .resize((PATCH_PX, PATCH_PX), Image.Resampling.BILINEAR)
                for x, y in some
            ]
            pixels = torch.from_numpy(np.stack([np.asarray(p) for p in patches]))
            batch = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / deviation
            for point, values in zip(some, net(batch).sigmoid().tolist(), strict=True):
                write.writerow((*point, *(f"{v:.4f}" for v in values)))
    told.done(len(points))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path)
    parser.add_argument("nuclei", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=64, help="nuclei")
    options = parser.parse_args()
    classify(options.slide, options.nuclei, options.out, options.first)


if __name__ == "__main__":
    main()
