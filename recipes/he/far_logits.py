r"""Far logits of labelled nuclei, each by a network that has not seen it.

python -m recipes.he.far_logits --slide DIR --data DIR --near RUN --far RUN_A RUN_B RUN_C --out RUN

The first run is the one that ships. A nucleus of the slide gets the logits of a run that held its
column out, an image of another laboratory those of a run that did not see it, so that the head
learns how far the far scale is to be trusted. With a single run all logits are its own, and what
it has seen is counted beside them. Logits are calibrated on the columns held out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lymphinfer.compute import half_type
from lymphinfer.markers.calibration import fit_calibration
from lymphinfer.markers.far_scale import FarNet, TorchFar
from lymphinfer.markers.two_scale import FarScale
from lymphinfer.nuclei.augment import perturb_optics, perturb_stain
from lymphinfer.slides.edges import mirrored
from recipes.he.crc01 import (
    MARKERS,
    PARENTS,
    SINGLE_GATES,
    TILE_PX,
    TiledSlide,
    hard_labels,
    read_slide,
)
from recipes.he.far import OUTPUTS, features_of, load_trained
from recipes.he.far_data import CHANNELS
from recipes.he.near import CHANGES
from recipes.he.near_sets import SETS, RawImage, at_mpp, read_raw

FAR_ALONE = 60_000
"""Nuclei of the slide that the head sees by the far scale alone."""
ALONE_COLUMNS = (9, 10)
"""Where they lie, where there is one far network only."""


@dataclass(frozen=True)
class FarRun:
    """A trained far network, what it has not seen, and its logits brought to real frequencies."""

    net: FarNet
    held_out: tuple[int, ...]
    other_part: int | None
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    def __call__(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated logits, (N, outputs)."""
        return logits * self.scale + self.offset


def output_labels(slide: TiledSlide, index: NDArray[np.integer]) -> NDArray[np.int8]:
    """Labels of every output of the far network, -1 where unknown or not given the parent."""
    channels = hard_labels(slide, CHANNELS)[index]
    given = []
    for child, parent in PARENTS.items():
        c, p = CHANNELS.index(child), CHANNELS.index(parent)
        given.append(np.where(channels[:, p] == 1, channels[:, c], -1))
    return np.concatenate([channels, np.stack(given, axis=1)], axis=1).astype(np.int8)


def read_run(folder: Path, slide: TiledSlide, device: str) -> FarRun:
    """A run of `recipes.he.far`, calibrated on the columns that it held out."""
    settings = json.loads((folder / "settings.json").read_text())
    net = load_trained(folder).net.to(device).eval()
    held_out = tuple(settings["held_out"])
    kept = folder / "calibration.json"
    if not kept.exists():
        index, features = features_of(net, slide, held_out, device=device)
        logits = told(net, features)
        labels = output_labels(slide, index)
        found = [fit_calibration(logits[:, i], labels[:, i]) for i in range(len(OUTPUTS))]
        np.savez(folder / "held_out.npz", index=index, logits=logits)
        kept.write_text(json.dumps([[c.scale, c.offset] for c in found]))
    scale, offset = np.array(json.loads(kept.read_text()), np.float32).T
    return FarRun(net, held_out, settings["other_part"], scale, offset)


@torch.inference_mode()
def told(net: FarNet, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of far features."""
    where = next(net.parameters()).device
    logits: NDArray[np.float32] = net.tell(torch.from_numpy(features).to(where)).cpu().numpy()
    return logits


def far_pixels(
    image: RawImage, slide: TiledSlide, far: FarScale
) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[float, float]]:
    """Pixels around an image at the far scale, their corner, and the image's corner, far px."""
    if image.place is None:
        small = at_mpp(image.pixels, image.mpp, far.mpp)
        height, width = small.shape[:2]
        box = far.box(0, 0, width, height)
        return mirrored(small, box, (width, height)), box[:2], (0.0, 0.0)
    side = image.pixels.shape[0] * image.mpp / far.mpp
    x, y = image.place
    box = far.box(x, y, x + side, y + side)
    height, width = slide.he.shape[:2]
    part = slide.he[max(box[1], 0) : box[3], max(box[0], 0) : box[2]]
    return mirrored(part, box, (width, height)), box[:2], image.place


def far_logits(
    near: dict[str, NDArray[Any]],
    images: Sequence[RawImage],
    slide: TiledSlide,
    runs: Sequence[FarRun],
    device: str,
) -> NDArray[np.float32]:
    """Far logits of a set's nuclei, copy by copy, of a run that has not seen them."""
    rng = np.random.default_rng(1)
    found = np.full((len(near["labels"]), len(OUTPUTS)), np.nan, np.float32)
    for number, image in enumerate(images):
        run = run_for(image, number, runs)
        far = FarScale(TorchFar(run.net, device=device, autocast=half_type(device)))
        pixels, origin, corner = far_pixels(image, slide, far)
        for copy in np.unique(near["copy"]):
            rows = np.flatnonzero((near["image"] == number) & (near["copy"] == copy))
            if not len(rows):
                continue
            changed = pixels
            if copy:
                changed = perturb_optics(perturb_stain(pixels, rng, CHANGES), rng, CHANGES)
            centers = near["center_um"][rows] / far.mpp + np.array(corner, np.float32)
            found[rows] = run(far.infer(changed, origin).at(centers))
    return found


def is_unseen(image: RawImage, number: int, run: FarRun) -> bool:
    """Whether a run has seen neither the image nor its column of the slide."""
    if image.place is not None:
        return int(image.place[0] // TILE_PX) in run.held_out
    if image.name.startswith("nuinsseg/"):
        return True
    # The order of the sets in training: BRCA-M2C, then CoNSeP without its held-out images.
    return run.other_part is not None and run.other_part == number % 2


def run_for(image: RawImage, number: int, runs: Sequence[FarRun]) -> FarRun:
    """The first run that has not seen the image; the only one, where there is but one."""
    if len(runs) == 1:
        return runs[0]
    return next(run for run in runs if is_unseen(image, number, run))


def collect_logits(arguments: argparse.Namespace) -> None:
    """Far logits of every set and of nuclei that only the far scale sees."""
    slide = read_slide(arguments.slide)
    runs = [read_run(folder, slide, arguments.device) for folder in arguments.far]
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        file = out / f"far_{name}.npy"
        if file.exists():
            continue
        with np.load(arguments.near / f"{name}.npz") as data:
            near = {k: data[k] for k in ("labels", "image", "copy", "center_um")}
        images = list(read_raw(arguments.data, name))
        np.save(file, far_logits(near, images, slide, runs, arguments.device))
        unseen = [is_unseen(i, n, run_for(i, n, runs)) for n, i in enumerate(images)]
        note = {"images": len(images), "unseen": sum(unseen)}
        file.with_suffix(".json").write_text(json.dumps(note) + "\n")
        print(f"far logits of {name}: {len(near['labels'])}", flush=True)
    rng = np.random.default_rng(2)
    logits, labels = [], []
    gated = np.stack([slide.values[m] >= SINGLE_GATES[m] for m in MARKERS], axis=1)
    for folder, run in zip(arguments.far[1:], runs[1:], strict=True):
        with np.load(folder / "held_out.npz") as data:
            chosen = rng.permutation(len(data["index"]))[: FAR_ALONE // len(runs[1:])]
            logits.append(run(data["logits"][chosen]))
            labels.append(gated[data["index"][chosen]].astype(np.int8))
    if not logits:
        # Columns of its training: those that it has not seen are what everything is decided on.
        run = runs[0]
        index, features = features_of(run.net, slide, ALONE_COLUMNS, device=arguments.device)
        chosen = rng.permutation(len(index))[:FAR_ALONE]
        logits.append(run(told(run.net, features[chosen])))
        labels.append(gated[index[chosen]].astype(np.int8))
    np.savez(out / "far_alone.npz", logits=np.concatenate(logits), labels=np.concatenate(labels))


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--near", type=Path, required=True)
    parser.add_argument("--far", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    collect_logits(parser.parse_args())


if __name__ == "__main__":
    main()
