"""Tissue on made glass of many kinds, and on real fat, mucus and muscle."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lymphinfer.slides import TissueMask, tissue_mask
from lymphinfer.slides.pyramid import PyramidSlide


class Picture(PyramidSlide):
    """A slide in memory, of one level."""

    reader = "made"
    mpp_source = "made"
    bounds_offset = (0, 0)
    path = Path("made.tif")

    def __init__(self, pixels, mpp):
        self.pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        self.mpp = mpp
        self.dimensions = (self.pixels.shape[1], self.pixels.shape[0])
        self.level_dimensions = (self.dimensions,)

    def _read_level(self, level, x, y, width, height):
        out = Image.new("RGB", (width, height), (255, 255, 255))
        left, top = max(x, 0), max(y, 0)
        part = self.pixels[top : max(y + height, 0), left : max(x + width, 0)]
        if part.size:
            out.paste(Image.fromarray(part), (left - x, top - y))
        return out

    def close(self):
        pass


WIDTH, HEIGHT, MPP = 1600, 1200, 2.0
TRUE_MM2 = np.pi * 420 * 300 * MPP**2 / 1e6
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
U, V = X / WIDTH, Y / HEIGHT
R2 = ((X - 800) / 800) ** 2 + ((Y - 600) / 600) ** 2


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    """Pink tissue with violet nuclei in the middle of white glass."""
    rng = np.random.default_rng(0)
    image = np.full((HEIGHT, WIDTH, 3), 243.0)
    tissue = ((X - 800) / 420) ** 2 + ((Y - 600) / 300) ** 2 < 1
    image[tissue] = (226, 168, 200)
    nuclei = (rng.random((HEIGHT // 4, WIDTH // 4)) < 0.1).repeat(4, 0).repeat(4, 1)
    image[tissue & nuclei] = (92, 58, 140)
    return image + rng.normal(0, 4, image.shape)


def found(pixels, mpp=MPP) -> TissueMask:
    return tissue_mask(Picture(pixels, mpp))


def fields(step: int, seed: int, amount: float, tint: float) -> np.ndarray:
    """Camera fields that differ in brightness and a little in tint."""
    rng = np.random.default_rng(seed)
    shape = HEIGHT // step + 1, WIDTH // step + 1, 3
    each = (1 - amount * rng.random((*shape[:2], 1))) * (1 - tint * rng.random(shape))
    return each.repeat(step, 0).repeat(step, 1)[:HEIGHT, :WIDTH]


LIGHT = {
    "white": np.ones(3),
    **{f"grey {level}": np.full(3, level / 243) for level in (180, 200, 225, 250)},
    **{
        name: np.array(rgb) / 243
        for name, rgb in {
            "yellow": (250, 235, 190), "dim yellow": (190, 180, 150), "blue": (200, 215, 245),
            "pink": (250, 220, 235), "dim pink": (190, 172, 180), "green": (215, 240, 215),
            "lavender": (225, 220, 240),
        }.items()
    },
    "darker to the right": lambda: 1 - 0.3 * U[..., None],
    "darker to the bottom": lambda: 1 - 0.35 * V[..., None],
    "yellower to the right": lambda: 1 - U[..., None] * (0.1, 0.2, 0.35),
    "pinker to the bottom": lambda: 1 - V[..., None] * (0.05, 0.15, 0.08),
    "dark corners": lambda: 1 - 0.18 * R2[..., None],
    "yellow corners": lambda: 1 - 0.12 * R2[..., None] * (0.7, 0.9, 1.3),
    "camera fields": lambda: fields(200, 0, 0.2, 0),
    "tinted camera fields": lambda: fields(400, 1, 0.1, 0.05),
}  # fmt: skip


def light_of(name: str) -> np.ndarray:
    """Factor of each colour, of each pixel where it is not the same everywhere."""
    light = LIGHT[name]
    return light() if callable(light) else light


@pytest.mark.parametrize("light", LIGHT)
def test_tissue_is_found_in_any_light(scan, light):
    tissue = found(scan * light_of(light))
    assert tissue.glass and not tissue.steep
    assert tissue.area_mm2 == pytest.approx(TRUE_MM2, rel=0.1)


def shaded(step_um: int, amount: float, tint: tuple[float, float, float]) -> np.ndarray:
    """Light that falls off to the right within each camera field."""
    side = step_um / MPP
    return 1 - amount * (X % side / side)[..., None] * tint


@pytest.mark.parametrize("tint", [(1, 1, 1), (0.6, 0.8, 1.2), (1.2, 1, 0.6)])
def test_tissue_is_found_where_each_camera_field_is_shaded(scan, tint):
    tissue = found(scan * shaded(200, 0.4, tint))
    assert tissue.glass
    assert tissue.area_mm2 == pytest.approx(TRUE_MM2, rel=0.15)


@pytest.mark.parametrize("amount", [0.1, 0.4])
def test_shading_that_looks_like_tissue_is_told(scan, amount):
    tissue = found(scan * shaded(200, amount, (0.6, 1, 0.8)))
    assert tissue.steep == (amount > 0.2)
    assert tissue.steep or tissue.area_mm2 == pytest.approx(TRUE_MM2, rel=0.15)


@pytest.mark.parametrize("light", ["white", "dim yellow", "pink", "yellow corners"])
@pytest.mark.parametrize("around", [0, 12, 255])
def test_what_no_camera_has_seen_is_neither_glass_nor_tissue(scan, light, around):
    image = scan * light_of(light)
    image[:150] = image[:, -200:] = around
    tissue = found(image)
    assert tissue.glass
    assert tissue.area_mm2 == pytest.approx(TRUE_MM2, rel=0.1)


@pytest.mark.parametrize("light", ["white", "dim yellow", "dark corners"])
@pytest.mark.parametrize("ink", [(20, 140, 70), (30, 60, 190), (25, 25, 28)])
def test_pen_marks_on_any_glass_are_not_tissue(scan, light, ink):
    picture = Image.fromarray(np.clip(scan, 0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).line((50, 60, 1500, 160), fill=ink, width=60)
    tissue = found(np.asarray(picture) * light_of(light))
    assert tissue.area_mm2 == pytest.approx(TRUE_MM2, rel=0.1)


@pytest.mark.parametrize("quality", [10, 30])
def test_strong_compression_on_yellow_glass(scan, quality):
    stream = io.BytesIO()
    yellow = np.clip(scan * light_of("yellow"), 0, 255).astype(np.uint8)
    Image.fromarray(yellow).save(stream, "JPEG", quality=quality)
    tissue = found(np.asarray(Image.open(stream)))
    assert tissue.area_mm2 == pytest.approx(TRUE_MM2, rel=0.1)


@pytest.mark.parametrize("light", ["white", "dim yellow", "pink", "blue"])
def test_tissue_to_the_edges_counts_whole(scan, light):
    image = (scan * light_of(light))[450:750, 600:1000]
    tissue = found(image)
    assert not tissue.glass
    assert tissue.area_mm2 == pytest.approx(300 * 400 * MPP**2 / 1e6, rel=0.01)


@pytest.mark.parametrize("light", ["yellow", "grey 180", "yellow corners"])
def test_bare_glass_of_any_light_has_no_tissue(light):
    rng = np.random.default_rng(5)
    blank = (243 + rng.normal(0, 4, (HEIGHT, WIDTH, 3))) * light_of(light)
    assert found(blank).area_mm2 == 0


CRC01_MPP = 1.3
GROUNDS = {
    # Columns and rows of tiles, and how much of them is tissue by eye.
    "fat": ((7, 0, 8, 1), 1.0),
    "more fat": ((9, 0, 12, 2), 1.0),
    "fat and muscle": ((8, 1, 9, 2), 1.0),
    "mucus": ((6, 3, 8, 6), 1.0),
    "mucus alone": ((5, 3, 6, 4), 1.0),
    "muscle": ((15, 7, 17, 9), 1.0),
    "glass": ((7, 12, 8, 13), 0.02),
}


def crc01(shared_data: Path, box: tuple[int, int, int, int]) -> np.ndarray:
    x0, y0, x1, y1 = box
    rows = [
        np.concatenate(
            [
                np.asarray(Image.open(shared_data / f"orion-crc01/he/{x}_{y}.jpg").convert("RGB"))
                for x in range(x0, x1)
            ],
            axis=1,
        )
        for y in range(y0, y1)
    ]
    return np.concatenate(rows)


@pytest.mark.parametrize("ground", GROUNDS)
def test_real_fat_mucus_and_muscle_are_tissue(shared_data, ground):
    box, share = GROUNDS[ground]
    pixels = crc01(shared_data, box)
    tissue = found(pixels, CRC01_MPP)
    whole = pixels.shape[0] * pixels.shape[1] * CRC01_MPP**2 / 1e6
    assert tissue.area_mm2 / whole == pytest.approx(share, abs=0.1)


def test_no_nucleus_of_a_real_slide_lies_outside_of_the_mask(shared_data):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    x0, y0, x1, y1 = box = (4, 7, 7, 11)
    tissue = found(crc01(shared_data, box), CRC01_MPP)
    cells = pyarrow.read_table(shared_data / "orion-crc01/cells.parquet", columns=["x", "y"])
    x, y = (cells.column(name).to_numpy() for name in ("x", "y"))
    x, y = x - x0 * 1024, y - y0 * 1024
    here = (x >= 0) & (x < (x1 - x0) * 1024) & (y >= 0) & (y < (y1 - y0) * 1024)
    inside = tissue.fraction_in(x[here], y[here], 0.1, 0.1) > 0
    assert here.sum() > 50_000 and inside.mean() > 0.99
    # By eye, a third of these twelve tiles is glass below the tumour's edge.
    assert 0.55 < tissue.area_mm2 / (12 * (1024 * CRC01_MPP) ** 2 / 1e6) < 0.95
