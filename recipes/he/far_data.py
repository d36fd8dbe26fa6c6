"""Crops for the far scale: a slide with IF, and images of other laboratories brought down to it.

Pixels, labels and augmentation live on the training device; a step cuts its own crops.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lymphinfer.markers.far_scale import FAR_MPP, optical_density
from lymphinfer.nuclei.augment import STAIN_VECTORS
from recipes.he.crc01 import GATES, MARKERS, TILE_PX, TiledSlide, hard_labels, soft_labels

CHANNELS = (*MARKERS, *(name for name in GATES if name not in MARKERS))
SOURCE_PX = 192
"""Side of what is read for a crop; the crop itself is smaller, so that it can be scaled."""
MARGIN_PX = 8
"""Nuclei nearer to a crop's edge are not learned from: half of what says what they are is cut."""
BETWEEN = 0.3
"""Weight of a label between the gates."""


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


def padded(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """An image mirrored to at least `side` px, and how far its corner has moved (x, y)."""
    lack = [max(0, side - n) for n in image.shape[:2]]
    before = [n // 2 for n in lack]
    widths = [(b, n - b) for b, n in zip(before, lack, strict=True)]
    grown = image if not any(lack) else np.pad(image, [*widths, (0, 0)], mode="symmetric")
    return grown, (before[1], before[0])


def read_brca(folder: Path) -> list[OtherImage]:
    """BRCA-M2C, 0.5 µm/px: lymphocytes are leukocytes, epithelium is not, stroma mostly not."""
    images = []
    for file in sorted(folder.glob("*.jpg")):
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        rows = read_points(file.with_suffix(".csv"))
        xy, label = rows[:, :2] + 0.5, rows[:, 2].astype(int)
        images.append(other_image(pixels, 0.5, xy, (label == 1), np.where(label == 3, 0.5, 1.0)))
    return images


def read_points(file: Path) -> NDArray[np.float32]:
    """Rows of ``x, y, label`` of a csv with a header."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = [[float(r[k]) for k in ("x", "y", "label")] for r in csv.DictReader(stream)]
    return np.array(rows, np.float32).reshape(-1, 3)


def read_consep(folder: Path, leave_out: Sequence[str] = ()) -> list[OtherImage]:
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
        images.append(other_image(pixels, 0.25, middle, kind == 2, weight))
    return images


def other_image(
    pixels: NDArray[np.uint8],
    mpp: float,
    xy: NDArray[np.floating],
    label: NDArray[Any],
    weight: NDArray[np.floating],
) -> OtherImage:
    """An image of any pixel size as `OtherImage`; `xy` in its own px."""
    small, points = brought_down(pixels, mpp, xy)
    grown, offset = padded(small, SOURCE_PX)
    tensor = torch.from_numpy(np.ascontiguousarray(grown.transpose(2, 0, 1)))
    known = np.isfinite(points).all(axis=1) & (np.asarray(weight) > 0)
    return OtherImage(
        tensor,
        (points + np.array(offset, np.float32))[known],
        np.asarray(label, np.float32)[known],
        np.asarray(weight, np.float32)[known],
    )


def mean_density(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean natural optical density of red, green and blue where there is tissue."""
    density = -np.log((pixels.reshape(-1, 3).astype(np.float64) + 1) / 256)
    tissue = density[density.mean(axis=1) > 0.15]
    return np.asarray((tissue if len(tissue) else density).mean(axis=0))


class Batch(NamedTuple):
    """A step's crops and the nuclei in them.

    Attributes
    ----------
    x : Tensor of float32, (B, 3, S, S)
        RGB in [0, 1].
    crop, where : Tensor of int64 (N,), Tensor of float32 (N, 2)
        Crop of each nucleus and its place (x, y), px.
    label, weight : Tensor of float32, (N, len(CHANNELS))
        In [0, 1]; weight 0 where unknown.
    fluorescence : Tensor of float32, (B', 4, S / 2, S / 2)
        The markers' IF of the first B' crops, 0 to 1 by its logarithm.
    """

    x: Tensor
    crop: Tensor
    where: Tensor
    label: Tensor
    weight: Tensor
    fluorescence: Tensor


@dataclass
class FarData:
    """Draws batches.

    Parameters
    ----------
    slide : TiledSlide
    held_out : sequence of int
        Tile columns of which neither pixels nor labels are seen.
    fluorescence : ndarray of uint8, (4, H / 2, W / 2)
    others : list of OtherImage
    densities : ndarray of float, (K, 3)
        `mean_density` of images of other laboratories, whose stain crops are given.
    crops, other_crops : int
        A batch's crops of the slide and of other images.
    side_px : int
        Of a crop.
    plain : float
        Share of the crops whose stain stays as it is.
    """

    slide: TiledSlide
    held_out: Sequence[int]
    fluorescence: NDArray[np.uint8]
    others: list[OtherImage]
    densities: NDArray[np.float64]
    crops: int = 10
    other_crops: int = 2
    side_px: int = 160
    plain: float = 0.15
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        slide = self.slide
        self.rng = np.random.default_rng(self.seed)
        self.torch_rng = torch.Generator(self.device).manual_seed(self.seed)
        self.he = torch.from_numpy(slide.he).to(self.device)
        self.marker_light = torch.from_numpy(self.fluorescence).to(self.device)
        hard, soft = hard_labels(slide, CHANNELS), soft_labels(slide, CHANNELS)
        known = hard >= 0
        between = (soft > 0) & (soft < 1)
        self.label = np.where(known, hard, soft).astype(np.float32)
        self.weight = np.where(known, 1.0, np.where(between, BETWEEN, 0.0)).astype(np.float32)
        inside = ~np.isin(slide.column, self.held_out)
        self.any = np.flatnonzero(inside)
        self.positive = [np.flatnonzero(inside & (hard[:, i] == 1)) for i in range(len(MARKERS))]
        # Which nuclei lie in a rectangle: sorted by stripes of 16 rows, then by x.
        self.order = np.lexsort((slide.xy[:, 0], slide.xy[:, 1] // 16))
        self.stripe = (slide.xy[self.order, 1] // 16).astype(np.int64)
        self.gain = np.log(self.densities / mean_density(slide.he[::8, ::8]))
        self.spans = self._spans()

    def _spans(self) -> NDArray[np.int64]:
        """For each tile column the first and last px of the run of columns seen around it."""
        columns = self.slide.there.shape[1]
        there: NDArray[np.bool_] = np.asarray(self.slide.there.any(axis=0))
        seen = [c not in self.held_out and bool(there[c]) for c in range(columns)]
        spans = np.zeros((columns, 2), np.int64)
        for c in range(columns):
            if not seen[c]:
                continue
            first, last = c, c
            while first > 0 and seen[first - 1]:
                first -= 1
            while last + 1 < columns and seen[last + 1]:
                last += 1
            spans[c] = first * TILE_PX, (last + 1) * TILE_PX
        return spans

    def nuclei_in(self, x: int, y: int, side: int) -> NDArray[np.int64]:
        """Indices of the slide's nuclei in a square."""
        first, last = np.searchsorted(self.stripe, [y // 16, (y + side) // 16 + 1])
        index = self.order[first:last]
        xy = self.slide.xy[index]
        inside = (xy >= (x, y)).all(axis=1) & (xy < (x + side, y + side)).all(axis=1)
        return np.asarray(index[inside])

    def _place(self) -> tuple[int, int]:
        """Corner of a crop's source, even numbers, half of them around positive nuclei."""
        kind = int(self.rng.integers(2 * len(MARKERS)))
        among = self.positive[kind] if kind < len(MARKERS) else self.any
        index = int(among[self.rng.integers(len(among))])
        cx, cy = self.slide.xy[index]
        shift = self.rng.integers(MARGIN_PX + 16, SOURCE_PX - MARGIN_PX - 16, 2)
        low, high = self.spans[self.slide.column[index]]
        x = int(np.clip(cx - shift[0], low, high - SOURCE_PX))
        y = int(np.clip(cy - shift[1], 0, self.slide.he.shape[0] - SOURCE_PX))
        return x - x % 2, y - y % 2

    def batch(self) -> Batch:
        """Cut and change a batch."""
        pixels, light, crop, where, label, weight = [], [], [], [], [], []
        for i in range(self.crops):
            x, y = self._place()
            pixels.append(self.he[y : y + SOURCE_PX, x : x + SOURCE_PX].permute(2, 0, 1))
            half = np.s_[:, y // 2 : (y + SOURCE_PX) // 2, x // 2 : (x + SOURCE_PX) // 2]
            light.append(self.marker_light[half])
            index = self.nuclei_in(x, y, SOURCE_PX)
            crop.append(np.full(len(index), i))
            where.append(self.slide.xy[index] - (x, y) + 0.5)
            label.append(self.label[index])
            weight.append(self.weight[index])
        for i in range(self.crops, self.crops + self.other_crops if self.others else self.crops):
            image = self.others[int(self.rng.integers(len(self.others)))]
            y, x = (int(self.rng.integers(n - SOURCE_PX + 1)) for n in image.pixels.shape[1:])
            pixels.append(image.pixels[:, y : y + SOURCE_PX, x : x + SOURCE_PX].to(self.device))
            xy = image.xy - (x, y)
            index = np.flatnonzero(((xy >= 0) & (xy < SOURCE_PX)).all(axis=1))
            crop.append(np.full(len(index), i))
            where.append(xy[index])
            for rows, values in ((label, image.label), (weight, image.weight)):
                one = np.zeros((len(index), len(CHANNELS)), np.float32)
                one[:, 0] = values[index]
                rows.append(one)
        source = torch.stack(pixels).float() / 255
        turned = _turns(self.rng, len(source))
        x_, matrix = _turn(source, turned, self.side_px)
        lit, _ = _turn(torch.stack(light).float() / 255, turned[: self.crops], self.side_px // 2)
        crops = np.concatenate(crop)
        centers = (np.concatenate(where) - SOURCE_PX / 2)[:, None]
        moved = (centers @ matrix[crops])[:, 0] + self.side_px / 2
        kept = ((moved >= MARGIN_PX) & (moved < self.side_px - MARGIN_PX)).all(axis=1)
        tensors = (
            crops[kept],
            moved[kept].astype(np.float32),
            np.concatenate(label)[kept],
            np.concatenate(weight)[kept],
        )
        crop_, where_, label_, weight_ = (torch.from_numpy(t).to(self.device) for t in tensors)
        return Batch(self._change(x_), crop_, where_, label_, weight_, lit)

    def _change(self, x: Tensor) -> Tensor:
        """Stain, scanner and noise, each crop its own."""
        rng, n = self.rng, len(x)
        unit = STAIN_VECTORS / np.linalg.norm(STAIN_VECTORS, axis=1, keepdims=True)
        target = unit + rng.normal(0, 0.04, (n, 3, 3))
        target /= np.linalg.norm(target, axis=2, keepdims=True)
        concentration = np.exp(rng.normal(0, 0.22, (n, 1, 3)))
        mix = (np.linalg.inv(unit) * concentration) @ target
        gain = np.exp(rng.normal(0, 0.1, (n, 1, 3)))
        # Half of the crops get the mean density of another laboratory's image, or a part of it.
        foreign = rng.random(n) < 0.5
        drawn = self.gain[rng.integers(len(self.gain), size=n)] * rng.uniform(0, 1.1, (n, 1))
        drawn[self.crops :] *= 0
        gain = gain * np.exp(np.where(foreign[:, None], drawn, 0))[:, None]
        plain = rng.random(n) < self.plain
        mix[plain] = np.eye(3)
        gain[plain] = 1
        mix = (mix * gain).astype(np.float32)
        density = torch.einsum("bchw,bcd->bdhw", optical_density(x), torch.from_numpy(mix).to(x))
        power = np.exp(rng.normal(0, 0.12, n) * ~plain).astype(np.float32)
        density = density.clamp(min=1e-4)
        density = 0.5 * (density / 0.5) ** torch.from_numpy(power).to(x)[:, None, None, None]
        x = (torch.exp(-density) * 256 - 1) / 255
        # One blur a batch, more or less of it a crop, or its opposite: scanners sharpen.
        blurred = _blur(x, float(rng.uniform(0.4, 1.1)))
        share = rng.uniform(-0.8, 1.0, n) * (rng.random(n) < 0.5) * ~(plain & (rng.random(n) < 0.7))
        x = x + torch.from_numpy(share.astype(np.float32)).to(x)[:, None, None, None] * (
            blurred - x
        )
        noise = (rng.uniform(0, 0.02, n) * (rng.random(n) < 0.5)).astype(np.float32)
        normal = torch.randn(x.shape, generator=self.torch_rng, device=x.device)
        x = (x + torch.from_numpy(noise).to(x)[:, None, None, None] * normal).clamp(0, 1)
        return _jpeg(x, rng).contiguous(memory_format=torch.channels_last)


def _turns(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Matrices that take the place in a crop to that in its source, (n, 2, 2)."""
    quarter = np.array([[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]])
    turns = quarter[rng.integers(4, size=n)].astype(np.float32)
    turns[rng.random(n) < 0.5] @= np.array([[-1, 0], [0, 1]], np.float32)
    scaled = rng.random(n) < 0.5
    return turns * np.where(scaled, rng.uniform(0.85, 1.2, n), 1.0)[:, None, None].astype(
        np.float32
    )


def _turn(
    source: Tensor, turns: NDArray[np.float32], side: int
) -> tuple[Tensor, NDArray[np.float32]]:
    """Crops of `side` px out of the middle of their sources, and the inverse for row vectors."""
    ratio = side / source.shape[-1]
    theta = np.zeros((len(turns), 2, 3), np.float32)
    theta[:, :, :2] = turns * ratio
    grid = F.affine_grid(
        torch.from_numpy(theta).to(source), [len(turns), source.shape[1], side, side], False
    )
    turned = F.grid_sample(source, grid, align_corners=False, padding_mode="reflection")
    return turned, np.linalg.inv(turns).transpose(0, 2, 1)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of a batch, px."""
    reach = 3
    taps = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2)).to(x)
    taps = (taps / taps.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, (reach,) * 4, mode="reflect")
    x = F.conv2d(x, taps, groups=x.shape[1])
    return F.conv2d(x, taps.transpose(2, 3), groups=x.shape[1])


def _jpeg(x: Tensor, rng: np.random.Generator, share: float = 0.25) -> Tensor:
    """JPEG compression of some crops."""
    from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

    chosen = np.flatnonzero(rng.random(len(x)) < share)
    for i in chosen:
        pixels = (x[i] * 255).round().to(torch.uint8).contiguous().cpu()
        squeezed = encode_jpeg(pixels, quality=int(rng.integers(40, 95)))
        x[i] = decode_jpeg(squeezed, mode=ImageReadMode.RGB).to(x) / 255
    return x
