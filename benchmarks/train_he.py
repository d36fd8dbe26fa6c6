"""Train the shipped H&E networks on the open data sets; see the bundles' cards.

python benchmarks/train_he.py detector --data DIR --out RUN [--steps N]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lymphinfer.nuclei.datasets import AnnotatedImage, read_folder
from lymphinfer.nuclei.stardist.network import StarDistConfig
from lymphinfer.nuclei.stardist.train import TrainConfig, Trainer

# Held out for thresholds, calibration and early looks: cut from the training parts, never the test.
CONSEP_HELD_OUT = {"train_4", "train_11", "train_18", "train_25"}
TNBC_HELD_OUT_PATIENTS = {"10", "11"}


def split(
    images: Sequence[AnnotatedImage], held_out: Callable[[str], bool]
) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    stems = [i.name.rsplit("/", 1)[1] for i in images]
    return (
        [i for i, s in zip(images, stems, strict=True) if not held_out(s)],
        [i for i, s in zip(images, stems, strict=True) if held_out(s)],
    )


def load(data: Path) -> tuple[dict[str, list[AnnotatedImage]], dict[str, list[AnnotatedImage]]]:
    """Training and held-out images by set."""
    consep = split(read_folder(data / "consep" / "train"), CONSEP_HELD_OUT.__contains__)
    tnbc = split(read_folder(data / "tnbc"), lambda s: s.split("_")[0] in TNBC_HELD_OUT_PATIENTS)
    nuinsseg = read_folder(data / "nuinsseg")
    return (
        {"consep": consep[0], "tnbc": tnbc[0], "nuinsseg": nuinsseg[:-22]},
        {"consep": consep[1], "tnbc": tnbc[1], "nuinsseg": nuinsseg[-22:]},
    )


def detector(data: Path, out: Path, steps: int) -> None:
    sets, held_out = load(data)
    config = TrainConfig(
        network=StarDistConfig(batch_norm=True, n_markers=1),
        steps=steps,
        shares={"consep": 0.55, "tnbc": 0.2, "nuinsseg": 0.25},
    )
    from safetensors.torch import save_file

    net = Trainer(config, out).fit(sets, held_out["consep"])
    save_file(net.state_dict(), out / "stardist.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["detector"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    detector(arguments.data, arguments.out, arguments.steps)


if __name__ == "__main__":
    main()
