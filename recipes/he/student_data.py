r"""What the student detector learns from: the open images in one file, and crops of them on a GPU.

python -m recipes.he.student_data --data DIR --out student.npz

CoNSeP's training images without the held-out ones, BRCA-M2C's training images, the C01 tiles
outside the slide's validation columns, and the CMU-1 region; of CoNSeP the object probability of
its annotation beside the pixels, of the first three what their nuclei say of CD45. TNBC, NuInsSeg,
NuCLS and every test set stay out.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MPP = 0.325
SETS = ("consep", "brca", "c01", "cmu")
SHARES = {"consep": 0.4, "brca": 0.32, "c01": 0.1, "cmu": 0.18}
"""Of the crops; larger than a set's share of the pixels where its nuclei are many."""
UNKNOWN = 255
"""Fourth byte of a pixel without annotation; the others have 254 times the object probability."""
LABEL_PX = 4
"""Radius of the disc around a nucleus' centre that has its label."""
CONTRAST_DENSITY = 0.5
STAINS = (
    (0.650, 0.704, 0.286),
    (0.072, 0.990, 0.105),
    (0.268, 0.570, 0.776),
)  # As in `lymphinfer.nuclei.augment`.
# JPEG's tables of quality 50 (ITU T.81, annex K), and its colours.
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE_TOP = (17, 18, 24, 47, 18, 21, 26, 66, 24, 26, 56, 99, 47, 66, 99, 99)
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True)
class PackedImage:
    """An image at `MPP`.

    Attributes
    ----------
    name : str
        ``set/stem``.
    pixels : ndarray of uint8, (H, W, 4)
        RGB and the object probability of the annotation, see `UNKNOWN`.
    points : ndarray of float32, (N, 3)
        Labelled nuclei: x, y in px, the corner at (0, 0), and CD45, 0 or 1.
    """

    name: str
    pixels: NDArray[np.uint8]
    points: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 3), np.float32))


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()


def _sources(data: Path) -> Iterator[tuple[str, float, bytes, bytes | None]]:
    """Name, pixel size, JPEG, and the PNG of the object probability at `MPP`, where it is known."""
    from lymphinfer.nuclei.datasets import read_folder
    from lymphinfer.nuclei.stardist.targets import object_probability
    from recipes.he.crc01 import VALIDATION_COLUMNS
    from recipes.he.near_sets import read_placement
    from recipes.he.open_sets import CONSEP_HELD_OUT, split

    images, _ = split(read_folder(data / "consep" / "train"), CONSEP_HELD_OUT.__contains__)
    for item in images:
        size = tuple(round(s * item.mpp / MPP) for s in item.image.shape[1::-1])
        small = Image.fromarray(item.image).resize(size, Image.Resampling.BILINEAR)
        probability = Image.fromarray(object_probability(item.instances))
        probability = probability.resize(size, Image.Resampling.BILINEAR)
        known = np.rint(np.asarray(probability).clip(0, 1) * 254).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(known).save(buffer, "PNG", optimize=True)
        stem = item.name.rsplit("/", 1)[1]
        yield f"consep/{stem}", MPP, _jpeg(np.asarray(small), 92), buffer.getvalue()
    for file in sorted((data / "brca-m2c" / "train").glob("*.jpg")):
        yield f"brca/{file.stem}", 0.5, file.read_bytes(), None
    for file, (x, _) in read_placement(data / "orion-c01-tiles"):
        if int(x // 1024) not in VALIDATION_COLUMNS:
            with Image.open(file) as picture:
                yield f"c01/{file.stem}", 0.5, _jpeg(np.asarray(picture.convert("RGB")), 95), None
    import tifffile

    region = tifffile.imread(data / "slides" / "CMU-1-Small-Region.svs")
    yield "cmu/CMU-1-Small-Region", 0.499, _jpeg(np.asarray(region[..., :3]), 90), None


def _points(data: Path) -> dict[str, NDArray[np.float32]]:
    """Labelled nuclei of every image that has some: x, y in its own px, and CD45."""
    from recipes.he.near_sets import read_raw

    found = {}
    for name in ("consep", "brca", "c01"):
        for image in read_raw(data, name):
            known = (image.labels[:, 0] >= 0) & (image.weights >= 0.5)
            rows = np.column_stack([image.points, image.labels[:, 0]])[known]
            found[image.name] = rows.astype(np.float32) * (image.mpp / MPP, image.mpp / MPP, 1)
    return found


def pack(data: Path, out: Path) -> dict[str, int]:
    """Write the images into one file.

    Parameters
    ----------
    data : Path
        Folder with ``consep/train``, ``brca-m2c/train``, ``orion-c01-tiles`` and ``slides``.
    out : Path
        An ``.npz`` of encoded images.

    Returns
    -------
    dict of str to int
        Images by set.
    """
    arrays: dict[str, NDArray[np.uint8]] = {}
    packed: dict[str, NDArray[np.float32]] = {}
    about: list[dict[str, str | float | bool]] = []
    points = _points(data)
    for number, (name, mpp, picture, probability) in enumerate(_sources(data)):
        arrays[f"image_{number}"] = np.frombuffer(picture, np.uint8)
        if probability is not None:
            arrays[f"prob_{number}"] = np.frombuffer(probability, np.uint8)
        about.append({"name": name, "mpp": mpp})
        if name in points:
            packed[f"points_{number}"] = points[name].astype(np.float32)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with out.open("wb") as stream:
        np.savez(stream, **arrays, **packed)  # type: ignore[arg-type]
    return {s: sum(str(a["name"]).startswith(f"{s}/") for a in about) for s in SETS}


def unpack(path: Path) -> list[PackedImage]:
    """Read what `pack` wrote, each image brought to `MPP`."""
    found = []
    with np.load(path) as arrays:
        about = json.loads(arrays["about"].tobytes())
        for number, item in enumerate(about):
            with Image.open(io.BytesIO(arrays[f"image_{number}"].tobytes())) as picture:
                zoom = item["mpp"] / MPP
                size = tuple(round(s * zoom) for s in picture.size)
                rgb = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR))
            known = np.full(rgb.shape[:2], UNKNOWN, np.uint8)
            if f"prob_{number}" in arrays:
                with Image.open(io.BytesIO(arrays[f"prob_{number}"].tobytes())) as picture:
                    known = np.asarray(picture)
            points = np.empty((0, 3), np.float32)
            if f"points_{number}" in arrays:
                points = arrays[f"points_{number}"]
            found.append(PackedImage(item["name"], np.dstack([rgb, known]), points))
    return found


def label_plane(image: PackedImage) -> NDArray[np.uint8]:
    """Discs around an image's labelled nuclei, (H, W): 2 with CD45, 1 without, 0 elsewhere."""
    height, width = image.pixels.shape[:2]
    plane = np.zeros((height, width), np.uint8)
    reach = np.arange(-LABEL_PX, LABEL_PX + 1)
    disc = np.argwhere(np.hypot(reach[:, None], reach) <= LABEL_PX) - LABEL_PX
    for x, y, label in image.points:
        rows, columns = (disc + np.array([int(y), int(x)])).T
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        plane[rows[inside], columns[inside]] = 1 + int(label)
    return plane


class Crops:
    """Random crops of images that lie on a device, cut, changed and compressed there.

    Parameters
    ----------
    images : list of PackedImage
    size_px : int
        Side of a crop, px at `MPP`; a multiple of 16, and no larger than 0.74 of an image's side.
    device : torch.device
    seed : int

    Attributes
    ----------
    strength : float
        Of all changes of stain and optics, 1 at first.
    """

    def __init__(self, images: list[PackedImage], size_px: int, device: torch.device, seed: int):
        self.size_px, self.device = size_px, device
        self.strength = 1.0
        flat = [np.ascontiguousarray(i.pixels).view(np.int32).ravel() for i in images]
        sizes = np.array([i.pixels.shape[:2] for i in images])
        starts = np.cumsum([0, *(f.size for f in flat[:-1])])
        self.pixels = torch.from_numpy(np.concatenate(flat)).to(device)
        planes = np.concatenate([label_plane(i).ravel() for i in images])
        self.labels = torch.from_numpy(planes).to(device)
        self.table = torch.from_numpy(np.column_stack([starts, sizes])).to(device)
        weight = np.zeros(len(images))
        for name, share in SHARES.items():
            own = np.array([i.name.startswith(f"{name}/") for i in images])
            area = sizes.prod(axis=1) * own
            weight += share * area / max(1, area.sum())
        self.weight = torch.from_numpy(weight / weight.sum()).float().to(device)
        self.random = torch.Generator(device).manual_seed(seed)
        self._unit = F.normalize(torch.tensor(STAINS), dim=1).to(device)
        self._unmix = torch.linalg.inv(self._unit.cpu()).to(device)
        k = torch.arange(8.0)
        dct = torch.cos((2 * k[None] + 1) * k[:, None] * torch.pi / 16) * 0.5
        dct[0] /= 2**0.5
        chrominance = torch.full((8, 8), 99.0)
        chrominance[:4, :4] = torch.tensor(CHROMINANCE_TOP).view(4, 4).float()
        luminance = torch.tensor(LUMINANCE).view(8, 8).float()
        self._dct = dct.to(device)
        self._tables = torch.stack([luminance, chrominance, chrominance]).to(device)
        self._ycc = torch.tensor(YCC).to(device)
        self._rgb = torch.linalg.inv(torch.tensor(YCC)).to(device)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Some crops.

        Returns
        -------
        pixels : Tensor of float32, (count, 3, size_px, size_px)
            RGB in [0, 1] at whole grey levels, channels last.
        known : Tensor of float32, (count, size_px, size_px)
            Object probability of the annotation; negative where there is none.
        label : Tensor of float32, (count, size_px, size_px)
            2 where a nucleus has CD45, 1 where it has not, 0 where neither is known.
        """
        cut = self._cut(count)
        known = torch.where(cut[..., 3] > 254.5, -1.0, cut[..., 3] / 254)
        pixels = self._optics(self._stain(cut[..., :3]).permute(0, 3, 1, 2))
        return (
            pixels.round().clamp(0, 255).div(255).contiguous(memory_format=torch.channels_last),
            known,
            cut[..., 4],
        )

    def _uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        values = torch.rand(*shape, generator=self.random, device=self.device)
        return low + (high - low) * values

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, device=self.device)

    def _cut(self, count: int) -> Tensor:
        """(count, S, S, 5) of 0 to 255 and the label: mirrored, turned by quarters, scaled."""
        side = self.size_px
        which = torch.multinomial(self.weight, count, replacement=True, generator=self.random)
        start, height, width = self.table[which].T.unsqueeze(-1)
        # Four in ten crops keep their pixels as they are.
        scale = torch.exp(self._uniform(count, 1, low=-0.26, high=0.29))
        plain = self._uniform(count, 1) < 0.4
        scale = torch.where(plain, 1.0, scale)
        reach = scale * (side - 1)
        top = self._uniform(count, 1) * (height - 1 - reach)
        left = self._uniform(count, 1) * (width - 1 - reach)
        top, left = (torch.where(plain, v.round(), v).clamp(min=0) for v in (top, left))
        ramp = torch.arange(side, device=self.device, dtype=torch.float32)
        down, across = self._uniform(2, count, 1) < 0.5
        y = top + scale * torch.where(down, side - 1 - ramp, ramp)
        x = left + scale * torch.where(across, side - 1 - ramp, ramp)
        y0, x0 = (v.floor().long() for v in (y, x))
        fy, fx = (y - y0)[..., None, None], (x - x0)[:, None, :, None]
        y0, y1 = (torch.minimum(v, height - 1) * width for v in (y0, y0 + 1))
        x0, x1 = (torch.minimum(v, width - 1) + start for v in (x0, x0 + 1))

        def at(rows: Tensor, columns: Tensor) -> Tensor:
            packed = self.pixels[rows[:, :, None] + columns[:, None]]
            return packed.view(torch.uint8).view(count, side, side, 4).float()

        upper = torch.lerp(at(y0, x0), at(y0, x1), fx)
        cut = torch.lerp(upper, torch.lerp(at(y1, x0), at(y1, x1), fx), fy)
        label = self.labels[y0[:, :, None] + x0[:, None]]
        cut = torch.cat([cut, label[..., None].float()], dim=3)
        turned = (self._uniform(count) < 0.5)[:, None, None, None]
        return torch.where(turned, cut.transpose(1, 2), cut)

    def _stain(self, rgb: Tensor) -> Tensor:
        """Other concentrations, hues, contrast, or another crop's mean density; (B, S, S, 3)."""
        count = len(rgb)
        density = -torch.log((rgb + 1) / 256)
        # Some take the mean colour of another crop, as another laboratory's would be.
        mean = density.mean(dim=(1, 2)).clamp(min=0.02)
        ratio = (mean.roll(1, 0) / mean).clamp(0.6, 1.7)
        ratio = torch.where(self._uniform(count, 1) < 0.3 * self.strength, ratio, 1.0)
        amount = torch.where(self._uniform(count, 1, 1) < 0.35, 0.0, self.strength)
        target = self._unit + 0.03 * amount * self._normal(count, 3, 3)
        target = F.normalize(target, dim=2)
        concentration = torch.exp(0.25 * amount * self._normal(count, 1, 3))
        mix = (ratio[:, :, None] * self._unmix * concentration) @ target
        density = density.reshape(count, -1, 3) @ mix + 0.03 * amount * self._normal(count, 1, 3)
        power = torch.exp(0.14 * amount * self._normal(count, 1, 1))
        positive = density.clamp(min=1e-4) / CONTRAST_DENSITY
        density = torch.where(density > 1e-4, CONTRAST_DENSITY * positive**power, density)
        changed: Tensor = 256 * torch.exp(-density) - 1
        return changed.clamp(0, 255).view_as(rgb)

    def _optics(self, pixels: Tensor) -> Tensor:
        """Blur or sharpening, noise and JPEG, each on some; (B, 3, S, S)."""
        count, side = len(pixels), self.size_px
        sigma = self._uniform(count, 1, low=0.5, high=1.4)
        ramp = torch.arange(-3.0, 4.0, device=self.device)
        kernel = torch.exp(-0.5 * (ramp / sigma) ** 2)
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
        flat = F.pad(pixels.reshape(1, 3 * count, side, side), (3, 3, 3, 3), mode="reflect")
        blurred = F.conv2d(flat, kernel[:, None, :, None], groups=3 * count)
        blurred = F.conv2d(blurred, kernel[:, None, None, :], groups=3 * count)
        kind = self._uniform(count, 1, 1, 1)
        strength = self._uniform(count, 1, 1, 1)
        # A quarter blurred, a third sharpened, the others left.
        share = torch.where(kind < 0.25, strength, torch.where(kind < 0.58, -1.6 * strength, 0.0))
        pixels = pixels + self.strength * share * (blurred.view_as(pixels) - pixels)
        loud = torch.where(self._uniform(count, 1, 1, 1) < 0.3, 4.0 * self.strength, 0.0)
        pixels = pixels + loud * self._uniform(count, 1, 1, 1) * self._normal(*pixels.shape)
        pixels = pixels.clamp(0, 255)
        some = 3 * count // 10
        return torch.cat([self._jpeg(pixels[:some]), pixels[some:]]) if some else pixels

    def _jpeg(self, pixels: Tensor) -> Tensor:
        """Compressed and decoded at a quality of 40 to 95, colours halved; (B, 3, S, S)."""
        count, side = len(pixels), self.size_px
        ycc = torch.einsum("ij,bjhw->bihw", self._ycc, pixels.round())
        colours = F.interpolate(F.avg_pool2d(ycc[:, 1:], 2), scale_factor=2, mode="nearest")
        ycc = torch.cat([ycc[:, :1] - 128, colours], dim=1)
        quality = self._uniform(count, 1, 1, 1, 1, 1, low=40, high=95)
        percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
        table = (self._tables[None, :, None, :, None] * percent / 100).round().clamp(1, 255)
        blocks = ycc.view(count, 3, side // 8, 8, side // 8, 8)
        coefficients = torch.einsum("uy,bcpyqx,vx->bcpuqv", self._dct, blocks, self._dct)
        coefficients = (coefficients / table).round() * table
        ycc = torch.einsum("uy,bcpuqv,vx->bcpyqx", self._dct, coefficients, self._dct)
        ycc = ycc.reshape(count, 3, side, side)
        ycc = torch.cat([ycc[:, :1] + 128, ycc[:, 1:]], dim=1)
        return torch.einsum("ij,bjhw->bihw", self._rgb, ycc).clamp(0, 255)


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    counts = pack(arguments.data, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, images {counts}")


if __name__ == "__main__":
    main()
