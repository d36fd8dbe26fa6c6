from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lymphinfer.slides import TissueMask, open_slide, tissue_mask
from lymphinfer.slides.pyramid import PyramidSlide

GLASS = (243, 242, 244)
EOSIN = (214, 130, 175)


def masked(tmp_path: Path, image: Image.Image, mpp: float = 1.0, **options) -> TissueMask:
    rng = np.random.default_rng(3)
    noisy = np.asarray(image) + rng.normal(0, 4, (image.height, image.width, 3))
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=mpp) as slide:
        return tissue_mask(slide, **options)


def field(color=GLASS, size=(1600, 1200)) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", size, color)
    return image, ImageDraw.Draw(image)


def test_area_is_that_of_the_tissue_and_the_mask_has_a_margin(tmp_path):
    image, draw = field()
    draw.rectangle((400, 300, 1199, 899), fill=EOSIN)
    tissue = masked(tmp_path, image)
    assert tissue.area_mm2 == pytest.approx(0.48, rel=0.05)
    assert tissue.mask.shape == (150, 200)
    assert tissue.fraction_in(400, 300, 800, 600) == 1.0
    assert tissue.fraction_in(376, 500, 16, 16) == 1.0
    assert tissue.fraction_in(330, 500, 16, 16) == 0.0


@pytest.mark.parametrize("color", [(234, 222, 232), (225, 205, 228), (120, 70, 150), (90, 50, 120)])
def test_pale_and_dark_tissue_is_found(tmp_path, color):
    image, draw = field()
    draw.ellipse((400, 300, 1199, 899), fill=color)
    tissue = masked(tmp_path, image)
    assert tissue.area_mm2 == pytest.approx(np.pi * 0.4 * 0.3, rel=0.05)


@pytest.mark.parametrize(
    "ink",
    [
        (20, 140, 70),
        (90, 200, 120),
        (30, 60, 190),
        (20, 20, 110),
        (215, 25, 40),
        (25, 25, 28),
        (34, 16, 28),
    ],
    ids=["green", "pale-green", "blue", "dark-blue", "red", "black", "warm-black"],
)
def test_pen_marks_are_not_tissue(tmp_path, ink):
    image, draw = field()
    draw.line((100, 100, 1500, 250), fill=ink, width=90)
    draw.rectangle((600, 600, 1199, 999), fill=EOSIN)
    tissue = masked(tmp_path, image)
    assert tissue.area_mm2 == pytest.approx(0.24, rel=0.05)
    assert tissue.fraction_in(0, 0, 1600, 400) == 0.0


def test_black_borders_and_grey_dirt_are_not_tissue(tmp_path):
    image, draw = field((0, 0, 0))
    draw.rectangle((200, 200, 1399, 1199), fill=GLASS)
    draw.rectangle((300, 300, 400, 400), fill=(140, 140, 140))
    draw.rectangle((800, 600, 1199, 999), fill=EOSIN)
    tissue = masked(tmp_path, image)
    assert tissue.area_mm2 == pytest.approx(0.16, rel=0.05)
    assert tissue.fraction_in(0, 0, 1600, 500) == 0.0


@pytest.mark.parametrize("color", [(255, 255, 255), GLASS, (246, 240, 228), (0, 0, 0)])
def test_an_empty_slide_is_no_error(tmp_path, color):
    tissue = masked(tmp_path, field(color)[0])
    assert not tissue.mask.any()
    assert tissue.area_mm2 == 0.0
    assert tissue.fraction_in(0, 0, 1600, 1200) == 0.0


@pytest.mark.parametrize("size", [(400, 300), (600, 600)])
def test_the_glass_of_a_small_field_is_no_hole(tmp_path, size):
    image, draw = field(size=size)
    assert masked(tmp_path, image, mpp=0.25).area_mm2 == 0
    draw.rectangle((0, 0, size[0] // 2, size[1]), fill=EOSIN)
    half = size[0] * size[1] / 2 * 0.0625e-6
    assert masked(tmp_path, image, mpp=0.25).area_mm2 == pytest.approx(half, rel=0.15)


def test_specks_go_and_small_holes_fill_but_large_holes_stay(tmp_path):
    image, draw = field()
    draw.rectangle((100, 100, 130, 130), fill=EOSIN)  # 900 µm²
    draw.rectangle((400, 200, 1399, 1099), fill=EOSIN)
    draw.rectangle((500, 300, 579, 379), fill=GLASS)  # 6,400 µm²
    draw.rectangle((800, 500, 1199, 899), fill=GLASS)  # 160,000 µm²
    tissue = masked(tmp_path, image)
    assert tissue.area_mm2 == pytest.approx(1.0 * 0.9 - 0.16, rel=0.05)
    assert tissue.fraction_in(50, 50, 200, 200) == 0.0
    assert tissue.fraction_in(900, 600, 200, 200) == 0.0


def test_thin_walls_of_fat_count_as_one_island(tmp_path):
    image, draw = field()
    for x in range(300, 1300, 60):
        for y in range(300, 900, 60):
            draw.ellipse((x, y, x + 18, y + 18), fill=EOSIN)  # 250 µm² each
    assert masked(tmp_path, image).fraction_in(400, 400, 600, 400) > 0.9


@pytest.mark.parametrize("size", [(1000, 1000), (500, 300), (64, 64)])
def test_a_field_that_is_all_tissue_stays_whole(tmp_path, size):
    rng = np.random.default_rng(1)
    image = np.empty((size[1], size[0], 3), np.uint8)
    image[:] = EOSIN
    image[rng.random(image.shape[:2]) < 0.3] = (110, 60, 140)
    image[:, : size[0] // 2] = np.minimum(image[:, : size[0] // 2] + 40.0, 240).astype(np.uint8)
    tissue = masked(tmp_path, Image.fromarray(image), mpp=0.25)
    assert tissue.mask.mean() > 0.99
    assert tissue.area_mm2 == pytest.approx(size[0] * size[1] * 0.0625e-6, rel=0.01)


def test_a_real_field_of_view_is_all_tissue():
    import stardist

    path = Path(stardist.__file__).parent / "data" / "images" / "histo.jpg"
    with open_slide(path, mpp=0.25) as slide:
        tissue = tissue_mask(slide)
    assert tissue.mask.mean() > 0.9
    assert tissue.area_mm2 > 0.9 * 500 * 300 * 0.0625e-6


def test_a_real_slide_s_tissue_is_found_and_its_glass_is_not(real_svs):
    with open_slide(real_svs) as slide:
        tissue = tissue_mask(slide)
        whole = slide.dimensions[0] * slide.dimensions[1] * 0.499**2 / 1e6
    assert 0.35 < tissue.area_mm2 / whole < 0.45  # the share by eye
    assert tissue.fraction_in(1000, 1600, 600, 1200) > 0.99
    assert tissue.fraction_in(0, 0, 600, 900) == 0.0


def test_fractions_of_many_rectangles_come_at_once_and_end_at_the_slide():
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2:4] = True
    tissue = TissueMask(mask, mpp=8.0, downsample=10.0, area_mm2=0.0)
    x = np.array([20, 20, 10, 0, 19.9, -50, 60])
    y = np.array([10, 10, 10, 0, 10, -50, 0])
    w = np.array([20, 40, 20, 600, 20, 40, 10])
    h = np.array([10, 10, 10, 400, 10, 40, 10])
    expected = [1.0, 0.5, 0.5, 2 / 24, 2 / 3, 0.0, 0.0]
    assert tissue.fraction_in(x, y, w, h) == pytest.approx(expected)


class _OneLevel(PyramidSlide):
    """A huge empty slide without a pyramid, which notes what is read of it."""

    reader = "made"
    dimensions = (12_000, 9_000)
    level_dimensions = ((12_000, 9_000),)
    mpp = 0.25
    mpp_source = "metadata"
    bounds_offset = (0, 0)
    path = Path("made.svs")
    largest_px = 0

    def _read_level(self, level, x, y, width, height):
        self.largest_px = max(self.largest_px, width * height)
        return Image.new("RGB", (width, height), GLASS)

    def close(self):
        pass


def test_a_slide_without_a_pyramid_is_never_read_whole():
    slide = _OneLevel()
    tissue = tissue_mask(slide)
    assert tissue.mask.shape == (282, 375)
    assert 1_000_000 < slide.largest_px < 6_000_000
