r"""Images of other laboratories brought down to the far scale, with what they say of leukocytes.

python -m recipes.he.far_images --data DIR --out FILE.npz

packs BRCA-M2C and CoNSeP of DIR for a machine to which little can be carried.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lymphinfer.markers.far_scale import FAR_MPP
from recipes.he.open_sets import CONSEP_HELD_OUT

SIDE_PX = 160
"""Side of a crop."""
PARTS = ("pixels", "xy", "label", "weight")
LARGER = 1.2
"""What is read for a crop is larger by this, so that it can be scaled."""


@dataclass(frozen=True)
class OtherImage:
    """An image of another laboratory at 1.3 µm/px with leukocyte labels.

    Attributes
    ----------
    pixels : Tensor of uint8, (3, H, W)
        Mirrored beyond its edges where it is smaller than a crop.
    xy : ndarray of float32, (N, 2)
        Nuclei, px.
    label, weight : ndarray of float32, (N,)
        CD45 in [0, 1], and how much it counts.
    """

    pixels: Tensor
    xy: NDArray[np.float32]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]


def brought_down(
    image: NDArray[np.uint8], mpp: float, xy: NDArray[np.floating], *, to: float = FAR_MPP
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """An image and its points at a coarser pixel size, as a slide's pyramid would be read.

    Parameters
    ----------
    image : ndarray of uint8, (H, W, 3)
    mpp, to : float
        Pixel sizes, µm/px.
    xy : ndarray of float, (N, 2)
        Points, px, the first pixel's outer corner at (0, 0).
    """
    height, width = image.shape[:2]
    size = max(1, round(width * mpp / to)), max(1, round(height * mpp / to))
    box = (0, 0, size[0] * to / mpp, size[1] * to / mpp)
    box = (0, 0, min(box[2], width), min(box[3], height))
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box=box)
    return np.asarray(small), (np.asarray(xy) * (mpp / to)).astype(np.float32)


def source_px(side: int) -> int:
    """Side of what is read for a crop of `side` px, even."""
    return 2 * round(side * LARGER / 2)


def padded(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """An image mirrored to at least `side` px, and how far its corner has moved (x, y)."""
    lack = [max(0, side - n) for n in image.shape[:2]]
    before = [n // 2 for n in lack]
    widths = [(b, n - b) for b, n in zip(before, lack, strict=True)]
    grown = image if not any(lack) else np.pad(image, [*widths, (0, 0)], mode="symmetric")
    return grown, (before[1], before[0])


def read_others(data: Path, least: int) -> list[OtherImage]:
    """The images that the far scale learns from beside the slide.

    Parameters
    ----------
    data : Path
        Folder with ``brca-m2c`` and ``consep``, or a file that `pack_others` has written.
    least : int
        Side that an image is mirrored to, px.
    """
    if data.is_dir():
        brca = read_brca(data / "brca-m2c" / "train", least)
        return brca + read_consep(data / "consep" / "train", tuple(CONSEP_HELD_OUT), least)
    images = []
    with np.load(data) as packed:
        for i in range(int(packed["count"])):
            pixels, xy, label, weight = (packed[f"{i}_{k}"] for k in PARTS)
            images.append(framed(pixels, xy, label, weight, least))
    return images


def pack_others(data: Path, file: Path) -> None:
    """Write what `read_others` reads of a folder, at 1.3 µm/px and not mirrored."""
    images = read_others(data, 1)
    parts: dict[str, NDArray[Any]] = {"count": np.array(len(images))}
    for i, image in enumerate(images):
        pixels = image.pixels.permute(1, 2, 0).numpy()
        for key, value in zip(PARTS, (pixels, image.xy, image.label, image.weight), strict=True):
            parts[f"{i}_{key}"] = value
    np.savez_compressed(file, **parts)  # type: ignore[arg-type]


def read_brca(folder: Path, least: int = source_px(SIDE_PX)) -> list[OtherImage]:
    """BRCA-M2C, 0.5 µm/px: lymphocytes are leukocytes, epithelium is not, stroma mostly not."""
    images = []
    for file in sorted(folder.glob("*.jpg")):
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        rows = read_points(file.with_suffix(".csv"))
        xy, label = rows[:, :2] + 0.5, rows[:, 2].astype(int)
        weight = np.where(label == 3, 0.5, 1.0)
        images.append(other_image(pixels, 0.5, xy, (label == 1), weight, least))
    return images


def read_points(file: Path) -> NDArray[np.float32]:
    """Rows of ``x, y, label`` of a csv with a header."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = [[float(r[k]) for k in ("x", "y", "label")] for r in csv.DictReader(stream)]
    return np.array(rows, np.float32).reshape(-1, 3)


def read_consep(
    folder: Path, leave_out: Sequence[str] = (), least: int = source_px(SIDE_PX)
) -> list[OtherImage]:
    """CoNSeP, 0.25 µm/px: inflammatory nuclei are leukocytes; class 1, other, is unknown."""
    from scipy import ndimage

    images = []
    for file in sorted(folder.glob("*.npz")):
        if file.stem in leave_out:
            continue
        with np.load(file) as data:
            instances, ids, kind = (data[k] for k in ("inst_map", "nucleus_id", "class7"))
        with Image.open(file.with_suffix(".png")) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        middle = np.array(ndimage.center_of_mass(instances > 0, instances, ids))[:, ::-1] + 0.5
        weight = np.where(kind == 1, 0.0, np.where(kind >= 5, 0.5, 1.0))
        images.append(other_image(pixels, 0.25, middle, kind == 2, weight, least))
    return images


def other_image(
    pixels: NDArray[np.uint8],
    mpp: float,
    xy: NDArray[np.floating],
    label: NDArray[Any],
    weight: NDArray[np.floating],
    least: int = source_px(SIDE_PX),
) -> OtherImage:
    """An image of any pixel size as `OtherImage`; `xy` in its own px, sides of `least` or more."""
    small, points = brought_down(pixels, mpp, xy)
    known = np.isfinite(points).all(axis=1) & (np.asarray(weight) > 0)
    label, weight = np.asarray(label, np.float32), np.asarray(weight, np.float32)
    return framed(small, points[known], label[known], weight[known], least)


def framed(
    pixels: NDArray[np.uint8],
    xy: NDArray[np.float32],
    label: NDArray[np.float32],
    weight: NDArray[np.float32],
    least: int,
) -> OtherImage:
    """An image at the far scale, mirrored to sides of `least` px or more."""
    grown, offset = padded(pixels, least)
    tensor = torch.from_numpy(np.ascontiguousarray(grown.transpose(2, 0, 1)))
    return OtherImage(tensor, xy + np.array(offset, np.float32), label, weight)


def mean_density(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean natural optical density of red, green and blue where there is tissue."""
    density = -np.log((pixels.reshape(-1, 3).astype(np.float64) + 1) / 256)
    tissue = density[density.mean(axis=1) > 0.15]
    return np.asarray((tissue if len(tissue) else density).mean(axis=0))


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    pack_others(arguments.data, arguments.out)


if __name__ == "__main__":
    main()
