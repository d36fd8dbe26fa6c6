"""What the near scale learns from: images at 0.325 µm/px, our own nuclei, and their labels.

The labels of the open sets are given to the nuclei that the shipped detector finds, since those are
the nuclei that a user gets.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lymphinfer.bundles.loading import Bundle
from lymphinfer.nuclei.detector import polygon_centroids
from lymphinfer.nuclei.metrics import pair_centroids
from recipes.he.crc01 import GATES, MARKERS, PARENTS
from recipes.he.far_images import read_points
from recipes.he.open_sets import (
    EPITHELIUM_LEFT_OF,
    LYMPHOID,
    NO_LEUKOCYTES,
    NUINSSEG_HELD_OUT,
    NUINSSEG_MPP,
)

MPP = 0.325
PAIRING_UM = 3.0
SETS = ("consep", "brca", "nuinsseg", "c01")


@dataclass(frozen=True)
class RawImage:
    """An image as it is published, with labelled points.

    Attributes
    ----------
    name : str
        ``set/stem``.
    pixels : ndarray of uint8, (H, W, 3)
    mpp : float
    points : ndarray of float, (N, 2)
        Labelled nuclei (x, y), px, the corner at (0, 0); none where the label is the image's.
    labels : ndarray of int8, (N, 4)
        Of the markers: 1, 0, -1 unknown.
    weights : ndarray of float32, (N,)
    whole : int8 or None
        CD45 of all its nuclei, where the organ says it.
    place : tuple of float, or None
        Corner (x, y) on the slide at 1.3 µm/px, where it is a piece of one.
    """

    name: str
    pixels: NDArray[np.uint8]
    mpp: float
    points: NDArray[np.float64]
    labels: NDArray[np.int8]
    weights: NDArray[np.float32]
    whole: int | None = None
    whole_left_of: int | None = None
    place: tuple[float, float] | None = None


def cd45_only(cd45: NDArray[Any]) -> NDArray[np.int8]:
    """Labels of all markers where only CD45 is known: a negative nucleus is negative for all."""
    labels = np.full((len(cd45), len(MARKERS)), -1, np.int8)
    labels[:, 0] = cd45
    labels[np.asarray(cd45) == 0] = 0
    return labels


def read_raw(data: Path, name: str) -> Iterator[RawImage]:
    """Images of a set of `SETS`, training parts only."""
    yield from {"consep": _consep, "brca": _brca, "nuinsseg": _nuinsseg, "c01": _c01}[name](data)


def _picture(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _consep(data: Path) -> Iterator[RawImage]:
    for file in sorted((data / "consep" / "train").glob("*.npz")):
        with np.load(file) as arrays:
            instances, ids, kind = (arrays[k] for k in ("inst_map", "nucleus_id", "class7"))
        xy = np.array(ndimage.center_of_mass(instances > 0, instances, ids))[:, ::-1] + 0.5
        known = (kind != 1) & np.isfinite(xy).all(axis=1)
        weight = np.where(kind >= 5, 0.5, 1.0).astype(np.float32)
        yield RawImage(
            f"consep/{file.stem}", _picture(file.with_suffix(".png")), 0.25,
            xy[known], cd45_only((kind == 2).astype(np.int8))[known], weight[known],
        )  # fmt: skip


def _brca(data: Path) -> Iterator[RawImage]:
    for file in sorted((data / "brca-m2c" / "train").glob("*.jpg")):
        rows = read_points(file.with_suffix(".csv"))
        weight = np.where(rows[:, 2] == 3, 0.5, 1.0).astype(np.float32)
        yield RawImage(
            f"brca/{file.stem}", _picture(file), 0.5,
            rows[:, :2].astype(np.float64) + 0.5,
            cd45_only((rows[:, 2] == 1).astype(np.int8)), weight,
        )  # fmt: skip


def _nuinsseg(data: Path) -> Iterator[RawImage]:
    nothing = np.empty((0, 2)), np.empty((0, len(MARKERS)), np.int8), np.empty(0, np.float32)
    for file in sorted((data / "nuinsseg").glob("*.jpg")):
        number = int(file.stem)
        if number in NUINSSEG_HELD_OUT or number not in LYMPHOID | NO_LEUKOCYTES:
            continue
        yield RawImage(
            f"nuinsseg/{number}", _picture(file), NUINSSEG_MPP, *nothing,
            whole=int(number in LYMPHOID), whole_left_of=EPITHELIUM_LEFT_OF.get(number),
        )  # fmt: skip


def _c01(data: Path) -> Iterator[RawImage]:
    folder = data / "orion-c01-tiles"
    for file, place in read_placement(folder):
        points, values = read_tile(file.with_suffix(".csv"))
        yield RawImage(
            f"c01/{file.stem}", _picture(file), 0.5, points, gated(values),
            np.ones(len(points), np.float32), place=place,
        )  # fmt: skip


def read_placement(folder: Path) -> Iterator[tuple[Path, tuple[float, float]]]:
    """Tiles of a folder like orion-c01-tiles, with the corner of each on the 1.3 µm/px slide."""
    with (folder / "placement.csv").open(encoding="utf-8-sig", newline="") as stream:
        for row in csv.DictReader(stream):
            yield folder / f"{row['tile']}.png", (float(row["x_level2"]), float(row["y_level2"]))


def read_tile(file: Path) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float32]]]:
    """Nuclei (x, y) of a tile, px, and the intensity of each channel, 0-255."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = [n.removeprefix("i_") for n in (rows[0] if rows else {}) if n.startswith("i_")]
    points = np.array([[float(r["x"]), float(r["y"])] for r in rows]).reshape(-1, 2)
    values = {n: np.array([float(r[f"i_{n}"]) for r in rows], np.float32) for n in names}
    return points, values


def gated(
    values: Mapping[str, NDArray[np.float32]], gates: Mapping[str, tuple[float, float]] = GATES
) -> NDArray[np.int8]:
    """Labels {1, 0, -1 unknown} by three ranges, (N, 4); a child without its parent is unknown."""
    labels = np.full((len(next(iter(values.values()))), len(MARKERS)), -1, np.int8)
    for i, name in enumerate(MARKERS):
        low, high = gates[name]
        labels[values[name] <= low, i] = 0
        labels[values[name] >= high, i] = 1
    for child, parent in PARENTS.items():
        c, p = MARKERS.index(child), MARKERS.index(parent)
        labels[(labels[:, c] == 1) & (labels[:, p] == 0), c] = -1
    return labels


def at_mpp(pixels: NDArray[np.uint8], mpp: float, to: float = MPP) -> NDArray[np.uint8]:
    """An image at another pixel size, as a slide is read."""
    height, width = pixels.shape[:2]
    size = (
        max(1, int(np.ceil(width * mpp / to - 1e-6))),
        max(1, int(np.ceil(height * mpp / to - 1e-6))),
    )
    box = 0, 0, min(size[0] * to / mpp, width), min(size[1] * to / mpp, height)
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=box))


@dataclass(frozen=True)
class Nuclei:
    """Our nuclei of an image at `MPP` that have a label.

    Attributes
    ----------
    polygons : ndarray of float32, (N, V, 2)
        Outlines, px at `MPP`.
    labels, weights
        As in `RawImage`.
    """

    polygons: NDArray[np.float32]
    labels: NDArray[np.int8]
    weights: NDArray[np.float32]


def labelled_nuclei(bundle: Bundle, image: RawImage, pixels: NDArray[np.uint8]) -> Nuclei:
    """Detect, and give each nucleus the label of the annotated point that it pairs with."""
    found = bundle.detector.decode(bundle.detector.infer(pixels))
    centers = polygon_centroids(found.polygons)
    if image.whole is not None:
        limit = image.whole_left_of or image.pixels.shape[1]
        inside = np.flatnonzero(centers[:, 0] < limit * image.mpp / MPP)
        labels = cd45_only(np.full(len(inside), image.whole, np.int8))
        return Nuclei(found.polygons[inside], labels, np.full(len(inside), 1.0, np.float32))
    pairs = pair_centroids(image.points * (image.mpp / MPP), centers, PAIRING_UM / MPP)
    return Nuclei(
        found.polygons[pairs.predicted], image.labels[pairs.truth], image.weights[pairs.truth]
    )
