r"""What the shipped detector's maps say of labelled nuclei.

python -m recipes.he.near --data DIR --out RUN [--bundle he-v1-fast] [--sets consep,brca]

For each set ``RUN/<set>.npz``: vectors that a `MarkerContext` reads at points of each nucleus, of
the image as it is and of changed copies, with labels and places. A set that is there is kept.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.compute import half_type
from lymphinfer.engine import choose_engine
from lymphinfer.markers.two_scale import near_points
from lymphinfer.nuclei.augment import Augmentation, perturb_optics, perturb_stain
from lymphinfer.nuclei.detector import polygon_centroids
from lymphinfer.nuclei.stardist.compact import CompactStarDistNet
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.nuclei.stardist.infer import to_input
from lymphinfer.nuclei.stardist.network import ResidualStarDistNet
from recipes.he.near_sets import MPP, SETS, at_mpp, labelled_nuclei, read_raw

# Changed copies of an image beside the image itself: large images are many nuclei already.
COPIES = {"consep": 4, "brca": 2, "nuinsseg": 2, "c01": 9}
POINTS = 4
Reader = ResidualStarDistNet | CompactStarDistNet
"""Networks whose maps are read."""
CHANGES = Augmentation(
    stain=0.15, stain_vectors=0.03, brightness=0.02, contrast=0.12,
    sharpen=0.8, blur=0.6, jpeg=0.25, noise=2.5, coarse=0.15,
)  # fmt: skip


@torch.inference_mode()
def maps_of(net: Reader, pixels: NDArray[np.uint8], device: str) -> tuple[Tensor, ...]:
    """What `MarkerContext` reads of a whole image, padded to the network's stride."""
    x = to_input(pixels[None], net.config.stride).to(device)
    half = half_type(torch.device(device))
    with torch.autocast(torch.device(device).type, dtype=half, enabled=half is not None):
        return net.read_around(x)


def vectors_at(
    net: Reader, maps: tuple[Tensor, ...], points: NDArray[np.floating]
) -> NDArray[np.float16]:
    """Those vectors at points (N, K, 2) in px of the network, (N, K, D)."""
    step = 2 * net.config.grid
    height, width = maps[0].shape[-2:]
    index = (np.asarray(points, np.float32) - 0.375 * step) / step + 0.5
    where = index / np.array([width, height], np.float32) * 2 - 1
    grid = torch.from_numpy(where.astype(np.float32))[None].to(maps[0].device)
    read = [
        F.grid_sample(m.float(), grid, padding_mode="border", align_corners=False)[0] for m in maps
    ]
    return torch.cat(read).permute(1, 2, 0).half().cpu().numpy()


def set_vectors(
    bundle: Bundle, net: Reader, data: Path, name: str, copies: int, device: str
) -> dict[str, NDArray[np.generic]]:
    """All of a set."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[NDArray[np.generic]]] = {}
    names = []
    for number, image in enumerate(read_raw(data, name)):
        pixels = at_mpp(image.pixels, image.mpp)
        nuclei = labelled_nuclei(bundle, image, pixels)
        names.append(image.name)
        if not len(nuclei.labels):
            continue
        points, weights = near_points(nuclei.polygons)
        for copy in range(copies + 1):
            changed = pixels
            if copy:
                changed = perturb_optics(perturb_stain(pixels, rng, CHANGES), rng, CHANGES)
            maps = maps_of(net, changed, device)
            drawn = rng.choice(len(weights), (len(points), POINTS), p=weights)
            chosen = np.take_along_axis(points, drawn[..., None], axis=1)
            found: dict[str, NDArray[np.generic]] = {
                "values": vectors_at(net, maps, chosen),
                "labels": nuclei.labels,
                "weights": nuclei.weights,
                "image": np.full(len(points), number, np.int32),
                "copy": np.full(len(points), copy, np.int32),
                # Of the image's own frame, µm.
                "center_um": (polygon_centroids(nuclei.polygons) * MPP).astype(np.float32),
            }
            for key, value in found.items():
                rows.setdefault(key, []).append(value)
        print(f"{image.name}: {len(nuclei.labels)} nuclei", flush=True)
    return {k: np.concatenate(v) for k, v in rows.items()} | {"names": np.array(names)}


def reader_of(bundle: Bundle) -> Reader:
    """The network whose maps are read."""
    detector = bundle.own_detector
    if not isinstance(detector, StarDistDetector):
        raise SystemExit(f"{bundle.manifest.name}: its detector is no StarDist")
    net = detector.net
    if not isinstance(net, Reader):
        raise SystemExit(f"{bundle.manifest.name}: its detector is no StarDist of ours")
    return net


def layers_of(net: Reader) -> dict[str, NDArray[np.float32]]:
    """Weight (C, D), bias (C,) and last weight (1, C) of the marker head with context."""
    last = net.marker[1] if isinstance(net.marker, nn.Sequential) else net.marker
    if not net.readers or not isinstance(last, nn.Conv2d):
        raise SystemExit("the detector's marker head has no context")
    bias = net.readers[0].bias
    assert bias is not None
    weight = torch.cat([m.weight[..., 0, 0] for m in net.readers], dim=1)
    found = {"weight": weight, "bias": bias, "last": last.weight[..., 0, 0]}
    return {k: v.detach().float().cpu().numpy() for k, v in found.items()}


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", default="he-v1-fast")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bundle = load_bundle(arguments.bundle, engine=choose_engine(arguments.device))
    net = reader_of(bundle)
    np.savez(arguments.out / "reader.npz", **layers_of(net))  # type: ignore[arg-type]
    for name in arguments.sets.split(","):
        file = arguments.out / f"{name}.npz"
        if file.exists():
            continue
        began = time.perf_counter()
        found = set_vectors(bundle, net, arguments.data, name, COPIES[name], arguments.device)
        part = file.with_suffix(".part.npz")
        np.savez(part, **found)  # type: ignore[arg-type]
        part.replace(file)
        print(
            f"{name}: {len(found['labels'])} rows, {time.perf_counter() - began:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()
