"""StarDist's own `predict_instances_big` with TensorFlow: from the slide's file to GeoJSON.

python benchmarks/peer_stardist.py prepare SLIDE LABELS.npz MODEL
python benchmarks/peer_stardist.py run SLIDE MODEL OUT
python benchmarks/peer_stardist.py network SLIDE MODEL OUT

`prepare` makes a model folder with the architecture of 2D_versatile_he (grid 2, 32 rays, U-Net of
depth 3 and 32 filters, 128 features): random weights, output layers as `readout.py` says, for
normalized distance to the border and the 32 distances, and the probability threshold at which
StarDist finds as many nuclei in SLIDE's middle as there are in LABELS (NMS 0.3, as published).
`run` is what a user writes; `network` the network alone, on tiles. All at 0.5 µm/px. Needs
stardist, tensorflow, openslide-python and psutil, and nothing of LymphInfer.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer import PeerRun
from readout import fit, nearest_count, read_labels, whole_nuclei

MPP = 0.5
BLOCK_PX, OVERLAP_PX, TILE_PX = 4096, 128, 1024
PREPARE_PX = 512
NMS = 0.3
LOGIT = 8.0


def pixels_at(slide: Path) -> tuple[NDArray[np.uint8], float]:
    """The whole slide at `MPP` (H, W, 3), and level-0 pixels a pixel, read in strips."""
    from openslide import OpenSlide
    from PIL import Image

    with OpenSlide(slide) as file:
        factor = MPP / float(file.properties["openslide.mpp-x"])
        width, height = (int(n / factor) for n in file.dimensions)
        level = file.get_best_level_for_downsample(factor + 0.01)
        shrink = file.level_downsamples[level]
        image = np.empty((height, width, 3), np.uint8)
        for y in range(0, height, TILE_PX):
            rows = min(TILE_PX, height - y)
            size = (round(width * factor / shrink), round(rows * factor / shrink))
            strip = file.read_region((0, round(y * factor)), level, size).convert("RGB")
            image[y : y + rows] = np.asarray(strip.resize((width, rows), Image.Resampling.BOX))
    return image, factor


def bytes_to_unit() -> Any:
    """The normalizer: values of a byte to [0, 1], as StarDist's example of large images has it."""
    from csbdeep.data import Normalizer

    class ByUnit(Normalizer):  # type: ignore[misc]
        def before(self, x: Any, axes: str) -> Any:
            return x.astype(np.float32) / 255

        def after(self, mean: Any, scale: Any, axes: str) -> Any:
            return mean, scale

        @property
        def do_after(self) -> bool:
            return False

    return ByUnit()


def prepare(slide: Path, labels: NDArray[np.int32], out: Path) -> int:
    """Write the model's folder; returns how many nuclei it finds where it was fitted.

    Parameters
    ----------
    slide : Path
    labels : ndarray of int32, (H, W)
        Nuclei of all of level 0.
    out : Path
        The model's folder, made where it is missing.
    """
    from stardist.geometry import star_dist
    from stardist.models import Config2D, StarDist2D
    from stardist.utils import edt_prob
    from tensorflow import keras

    keras.utils.set_random_seed(0)
    config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=3, axes="YXC", use_gpu=False)
    model = StarDist2D(config, name=out.name, basedir=str(out.parent))
    for layer in model.keras_model.layers:
        if layer.get_weights():
            kernel, bias = layer.get_weights()
            spread = (2 / np.prod(kernel.shape[:3])) ** 0.5
            values = np.random.default_rng(len(layer.name)).normal(0, spread, kernel.shape)
            layer.set_weights([values.astype(np.float32), np.zeros_like(bias)])

    image, factor = pixels_at(slide)
    rows = (np.arange(image.shape[0]) * factor).astype(int)
    columns = (np.arange(image.shape[1]) * factor).astype(int)
    labels = labels[np.ix_(rows, columns)]
    middle = tuple(
        slice((n - size) // 2, (n - size) // 2 + size)
        for n, size in ((n, min(n, PREPARE_PX) // 16 * 16) for n in image.shape[:2])
    )
    image, seen = image[middle], labels[middle]

    read = keras.Model(
        model.keras_model.inputs, model.keras_model.get_layer("features").output
    ).predict(image[None].astype(np.float32) / 255, verbose=0)[0]
    read = read.reshape(-1, read.shape[-1])
    border = edt_prob(seen)[::2, ::2].reshape(-1, 1)
    rays = star_dist(seen, 32, grid=(2, 2)).reshape(-1, 32)
    inside = rays.min(axis=1) > 0
    weights, bias = fit(read, border)
    _set(model, "prob", LOGIT * weights, LOGIT * (bias - 0.5))
    _set(model, "dist", *fit(read[inside], rays[inside]))

    def count(level: float) -> int:
        found, _ = model.predict_instances(
            image, normalizer=bytes_to_unit(), prob_thresh=level, nms_thresh=NMS
        )
        return whole_nuclei(found, slice(None), slice(None))

    wanted = whole_nuclei(seen, slice(None), slice(None))
    fitted = 1 / (1 + np.exp(-LOGIT * (read @ weights + bias - 0.5)))
    share = float((seen > 0).mean())
    levels = np.quantile(fitted, 1 - share * np.geomspace(0.1, 1.0, 8))
    level, found = nearest_count(count, [float(v) for v in levels], wanted)
    out.mkdir(parents=True, exist_ok=True)
    model.keras_model.save_weights(str(out / "weights_best.weights.h5"))
    (out / "thresholds.json").write_text(json.dumps({"prob": level, "nms": NMS}))
    return found


def _set(model: Any, layer: str, weights: Any, bias: Any) -> None:
    model.keras_model.get_layer(layer).set_weights([weights[None, None], bias])


def load(folder: Path) -> Any:
    from stardist.models import StarDist2D

    return StarDist2D(None, name=folder.name, basedir=str(folder.parent))


def segment(slide: Path, folder: Path, out: Path) -> None:
    """The measured run."""
    told = PeerRun(out)
    model = load(folder)
    told.ready()
    image, factor = pixels_at(slide)
    block = min(BLOCK_PX, *image.shape[:2])
    overlap = min(OVERLAP_PX, block // 8 * 2)
    tiles = -(-block // TILE_PX)
    _, found = model.predict_instances_big(
        image, axes="YXC", block_size=block, min_overlap=overlap, context=overlap,
        labels_out=False, show_progress=False, normalizer=bytes_to_unit(),
        n_tiles=(tiles, tiles, 1),
    )  # fmt: skip
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*polygon, polygon[0]]]},
            "properties": {"objectType": "detection", "measurements": {"probability": float(p)}},
        }
        for polygon, p in zip(
            (found["coord"].transpose(0, 2, 1)[..., ::-1] * factor).round(2).tolist(),
            found["prob"], strict=True,
        )
    ]  # fmt: skip
    with (out / "nuclei.geojson").open("w") as file:
        json.dump({"type": "FeatureCollection", "features": features}, file)
    told.done(len(features))


def network(slide: Path, folder: Path, out: Path) -> None:
    """The measured run of the network alone: tiles without overlap, after one to warm up."""
    told = PeerRun(out)
    model = load(folder)
    image, _ = pixels_at(slide)
    side = min(TILE_PX, *(n // 16 * 16 for n in image.shape[:2]))
    tiles = [
        image[None, y : y + side, x : x + side].astype(np.float32) / 255
        for y in range(0, image.shape[0] - side + 1, side)
        for x in range(0, image.shape[1] - side + 1, side)
    ]
    model.keras_model.predict(tiles[0], verbose=0)
    told.ready()
    began = time.perf_counter()
    for tile in tiles:
        model.keras_model.predict(tile, verbose=0)
    print(f"{time.perf_counter() - began:.1f} s, {len(tiles)} tiles of {side} px")
    told.done(None, len(tiles) * (side * MPP / 1000) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("prepare", "run", "network"))
    parser.add_argument("slide", type=Path)
    parser.add_argument("given", type=Path, help="LABELS.npz or the model's folder")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    if options.step == "prepare":
        prepare(options.slide, read_labels(options.given), options.out)
    else:
        step = segment if options.step == "run" else network
        step(options.slide, options.given, options.out)


if __name__ == "__main__":
    main()
