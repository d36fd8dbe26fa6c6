"""Crops for the far scale: a slide with IF, and images of other laboratories brought down to it.

Pixels live on the training device. What a step is made of is drawn without them (`FarData.draw`,
which other processes can do ahead), cut and changed there (`FarData.cut`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lymphinfer.markers.far_scale import optical_density
from lymphinfer.nuclei.augment import STAIN_VECTORS
from recipes.he.crc01 import GATES, MARKERS, TILE_PX, TiledSlide, hard_labels, soft_labels
from recipes.he.far_changes import blur, draw_turns, inverse, jpeg, turn
from recipes.he.far_images import SIDE_PX, OtherImage, mean_density, source_px

CHANNELS = (*MARKERS, *(name for name in GATES if name not in MARKERS))
JPEG_SHARE = 0.25
"""Of the crops."""
MARGIN_PX = 8
"""Nuclei nearer to a crop's edge are not learned from: half of what says what they are is cut."""
BETWEEN = 0.3
"""Weight of a label between the gates."""


class Plan(NamedTuple):
    """What a step is made of, drawn without a pixel.

    Attributes
    ----------
    corner : ndarray of int64, (A, 2)
        Corners (x, y) of the crops' sources on the slide.
    other : ndarray of int64, (B - A, 3)
        Number of another laboratory's image, and the source's corner (x, y) on it.
    turns : ndarray of float32, (B, 2, 2)
        From the place in a crop to that in its source.
    crop, where, label, weight : ndarray
        As in `Batch`.
    mix : ndarray of float32, (B, 3, 3)
        Of optical densities.
    power, sharpness, noise : ndarray of float32, (B,)
    sigma : float
        Of the blur that `sharpness` adds or takes away, px.
    quality : ndarray of int64, (B,)
        Of JPEG; 0 where there is none.
    """

    corner: NDArray[np.int64]
    other: NDArray[np.int64]
    turns: NDArray[np.float32]
    crop: NDArray[np.int64]
    where: NDArray[np.float32]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    mix: NDArray[np.float32]
    power: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    noise: NDArray[np.float32]
    sigma: float
    quality: NDArray[np.int64]


class Batch(NamedTuple):
    """A step's crops and the nuclei in them.

    Attributes
    ----------
    x, plain : Tensor of float32, (B, 3, S, S)
        RGB in [0, 1], changed and as it was.
    crop, where : Tensor of int64 (N,), Tensor of float32 (N, 2)
        Crop of each nucleus and its place (x, y), px.
    label, weight : Tensor of float32, (N, len(CHANNELS))
        In [0, 1]; weight 0 where unknown.
    fluorescence : Tensor of float32, (B', 4, S / 2, S / 2)
        The markers' IF of the first B' crops, 0 to 1 by its logarithm.
    """

    x: Tensor
    plain: Tensor
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
    side_px: int = SIDE_PX
    plain: float = 0.15
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        slide = self.slide
        self.rng = np.random.default_rng(self.seed)
        self.torch_rng = torch.Generator(self.device).manual_seed(self.seed)
        self.source_px = source_px(self.side_px)
        self.he = torch.from_numpy(slide.he).to(self.device)
        self.marker_light = torch.from_numpy(self.fluorescence).to(self.device)
        self.other_pixels = [o.pixels.to(self.device) for o in self.others]
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
        source = self.source_px
        shift = self.rng.integers(MARGIN_PX + 16, source - MARGIN_PX - 16, 2)
        low, high = self.spans[self.slide.column[index]]
        x = int(np.clip(cx - shift[0], low, high - source))
        y = int(np.clip(cy - shift[1], 0, self.slide.he.shape[0] - source))
        return x - x % 2, y - y % 2

    def draw(self) -> Plan:
        """Choose crops, their nuclei and their changes; touches no tensor."""
        rng, source = self.rng, self.source_px
        corner, other, crop, where, label, weight = [], [], [], [], [], []
        for i in range(self.crops):
            x, y = self._place()
            corner.append((x, y))
            index = self.nuclei_in(x, y, source)
            crop.append(np.full(len(index), i))
            where.append(self.slide.xy[index] - (x, y) + 0.5)
            label.append(self.label[index])
            weight.append(self.weight[index])
        for i in range(self.crops, self.crops + self.other_crops if self.others else self.crops):
            number = int(rng.integers(len(self.others)))
            image = self.others[number]
            y, x = (int(rng.integers(n - source + 1)) for n in image.pixels.shape[1:])
            other.append((number, x, y))
            xy = image.xy - (x, y)
            index = np.flatnonzero(((xy >= 0) & (xy < source)).all(axis=1))
            crop.append(np.full(len(index), i))
            where.append(xy[index])
            for rows, values in ((label, image.label), (weight, image.weight)):
                one = np.zeros((len(index), len(CHANNELS)), np.float32)
                one[:, 0] = values[index]
                rows.append(one)
        turns = draw_turns(rng, len(corner) + len(other))
        crops = np.concatenate(crop)
        centers = (np.concatenate(where) - source / 2)[:, None]
        moved = (centers @ inverse(turns)[crops])[:, 0] + self.side_px / 2
        kept = ((moved >= MARGIN_PX) & (moved < self.side_px - MARGIN_PX)).all(axis=1)
        return Plan(
            np.array(corner, np.int64).reshape(-1, 2),
            np.array(other, np.int64).reshape(-1, 3),
            turns,
            crops[kept],
            moved[kept].astype(np.float32),
            np.concatenate(label)[kept],
            np.concatenate(weight)[kept],
            *self._draw_changes(len(turns)),
        )

    def _draw_changes(self, n: int) -> tuple[Any, ...]:
        """Stain, scanner and noise, each crop its own."""
        rng = self.rng
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
        power = np.exp(rng.normal(0, 0.12, n) * ~plain)
        # One blur a batch, more or less of it a crop, or its opposite: scanners sharpen.
        sigma = float(rng.uniform(0.4, 1.1))
        sharp = rng.uniform(-0.8, 1.0, n) * (rng.random(n) < 0.5)
        sharp = sharp * ~(plain & (rng.random(n) < 0.7))
        noise = rng.uniform(0, 0.02, n) * (rng.random(n) < 0.5)
        quality = np.where(rng.random(n) < JPEG_SHARE, rng.integers(40, 95, n), 0)
        small = [a.astype(np.float32) for a in (mix * gain, power, sharp, noise)]
        return (*small, sigma, quality)

    def cut(self, plan: Plan) -> Batch:
        """A step's crops on the device."""
        side = torch.arange(self.source_px, device=self.device)
        corner = torch.from_numpy(plan.corner).to(self.device)
        rows, columns = (corner[:, a, None] + side for a in (1, 0))
        pixels = self.he[rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
        half = side[: self.source_px // 2]
        rows, columns = (corner[:, a, None] // 2 + half for a in (1, 0))
        light = self.marker_light[:, rows[:, :, None], columns[:, None]].transpose(0, 1)
        parts = [
            self.other_pixels[i][:, y : y + self.source_px, x : x + self.source_px]
            for i, x, y in plan.other.tolist()
        ]
        source = torch.cat([pixels, torch.stack(parts)]) if parts else pixels
        x = turn(source.float() / 255, plan.turns, self.side_px)
        lit = turn(light.float() / 255, plan.turns[: len(corner)], self.side_px // 2)
        nuclei = (plan.crop, plan.where, plan.label, plan.weight)
        crop, where, label, weight = (torch.from_numpy(t).to(self.device) for t in nuclei)
        plain = x.contiguous(memory_format=torch.channels_last)
        return Batch(self._change(x, plan), plain, crop, where, label, weight, lit)

    def batch(self) -> Batch:
        """Draw and cut."""
        return self.cut(self.draw())

    def batches(self, workers: int) -> Iterator[Batch]:
        """Batches without end, drawn ahead by so many processes (none: as they are asked for)."""
        if not workers:
            while True:
                yield self.batch()
        plans = _Plans(self, int(self.rng.integers(2**31)))
        loader: DataLoader[Any] = DataLoader(
            plans, batch_size=None, collate_fn=_as_it_is, num_workers=workers, prefetch_factor=4
        )
        for plan in loader:
            yield self.cut(plan)

    def _change(self, x: Tensor, plan: Plan) -> Tensor:
        """Stain, scanner, noise and JPEG as they were drawn."""
        mix, power, sharpness, noise = (
            torch.from_numpy(a).to(x) for a in (plan.mix, plan.power, plan.sharpness, plan.noise)
        )
        density = torch.einsum("bchw,bcd->bdhw", optical_density(x), mix)
        density = density.clamp(min=1e-4)
        density = 0.5 * (density / 0.5) ** power[:, None, None, None]
        x = (torch.exp(-density) * 256 - 1) / 255
        x = x + sharpness[:, None, None, None] * (blur(x, plan.sigma) - x)
        normal = torch.randn(x.shape, generator=self.torch_rng, device=x.device)
        x = (x + noise[:, None, None, None] * normal).clamp(0, 1)
        return jpeg(x, plan.quality).contiguous(memory_format=torch.channels_last)


class _Plans(IterableDataset[Plan]):
    """Plans of a process of a loader, each process with random numbers of its own."""

    def __init__(self, data: FarData, seed: int):
        self.data, self.seed = data, seed

    def __iter__(self) -> Iterator[Plan]:
        worker = get_worker_info()
        self.data.rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            yield self.data.draw()


def _as_it_is(plan: Any) -> Any:
    return plan
