"""Colours of 16 bits: scaled in proportion, with a word on how."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from lymphinfer.errors import SlideError
from lymphinfer.slides import check_stain, open_slide

from .made import halved

OPTIONS = {"photometric": "rgb", "tile": (128, 128), "metadata": None,
           "resolution": (40_000, 40_000), "resolutionunit": 3}  # fmt: skip


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Pink tissue on glass of 243."""
    rng = np.random.default_rng(0)
    image = np.full((300, 400, 3), 243, np.uint8)
    image[60:240, 60:300] = rng.integers([150, 60, 120], [230, 170, 210], (180, 240, 3))
    return image


def read(path, **options) -> tuple[np.ndarray, tuple[str, ...]]:
    with open_slide(path, **options) as slide:
        return slide.read_region(0, 0, *slide.dimensions, slide.mpp), slide.warnings


DRESSES = {
    # Multiples of the 8-bit values, and what the warning says of the scale.
    "full": (257, {}, "0 to 65,535 became 0 to 255"),
    "shifted": (256, {}, "0 to 65,535"),
    "12 bits": (16, {}, "fit 12 bits"),
    "8 bits in 16": (1, {}, "fit 8 bits"),
    "dim": (40, {}, "brightest values lie at 9,720, which is taken for glass"),
    "stated": (100, {"extratags": [(281, 3, 3, (25_500,) * 3, True)]}, "tag MaxSampleValue"),
    "planar": (257, {"planarconfig": "separate"}, "0 to 65,535"),
    "big-endian": (257, {}, "0 to 65,535"),
    "jpeg2000": (257, {"compression": "jpeg2000"}, "0 to 65,535"),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_a_tiff_of_16_bits_has_the_colours_of_the_one_of_8(tmp_path, picture, dress):
    times, options, words = DRESSES[dress]
    deep = picture.astype(np.uint16) * times
    if dress == "planar":
        deep = np.ascontiguousarray(np.moveaxis(deep, 2, 0))
    order = ">" if dress == "big-endian" else "<"
    tifffile.imwrite(tmp_path / "a.tif", deep, byteorder=order, **{**OPTIONS, **options})
    pixels, (warning,) = read(tmp_path / "a.tif")
    assert np.abs(pixels.astype(int) - picture).max() <= 1
    assert words in warning


def test_an_ome_tiff_states_its_bits_and_its_levels_are_scaled_alike(tmp_path, picture):
    # Nothing brighter than half of what the camera can give: only the text tells.
    deep = picture.astype(np.uint16) * 32
    meta = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "SignificantBits": 14}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(deep, photometric="rgb", tile=(128, 128), subifds=1, metadata=meta)
        tif.write(halved(picture).astype(np.uint16) * 32, photometric="rgb", tile=(128, 128))
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.level_dimensions == ((400, 300), (200, 150))
        fine = slide.read_region(0, 0, 400, 300, 0.25)
        coarse = slide.read_region(0, 0, 200, 150, 0.5)
        assert "SignificantBits" in slide.warnings[0]
    expected = picture * (32 * 255 / ((1 << 14) - 1))
    assert np.abs(fine - expected).max() <= 1
    assert np.abs(coarse - halved(fine).astype(float)).max() <= 1


def test_alpha_is_no_colour_by_which_to_judge(tmp_path, picture):
    alpha = np.full((*picture.shape[:2], 1), 65_535, np.uint16)
    deep = np.concatenate([picture.astype(np.uint16) * 16, alpha], axis=2)
    tifffile.imwrite(tmp_path / "a.tif", deep, extrasamples=["unassalpha"], **OPTIONS)
    pixels, _ = read(tmp_path / "a.tif")
    assert np.abs(pixels.astype(int) - picture).max() <= 1


def test_a_png_of_16_bits_is_not_cut_to_its_upper_8(tmp_path, picture):
    deep = picture.astype(np.uint16) * 16
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    pixels, (warning,) = read(tmp_path / "a.png", mpp=0.25)
    assert np.abs(pixels.astype(int) - picture).max() <= 1
    assert "12 bits" in warning
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep)[:4000])
    with pytest.raises(SlideError, match="cannot be decoded"):
        open_slide(tmp_path / "a.png", mpp=0.25)


def test_a_czi_of_16_bits_is_scaled_too(tmp_path, picture):
    pytest.importorskip("pylibCZIrw", reason="needs the extra `czi`")
    from .made_czi import write_czi

    path = write_czi(tmp_path / "a.czi", {0: (picture.astype(np.uint16) * 16, (0, 0))})
    pixels, (warning,) = read(path)
    assert np.abs(pixels.astype(int) - picture).max() <= 1
    assert "12 bits" in warning


def test_fractions_are_refused_with_the_command_that_converts_them(tmp_path, picture):
    tifffile.imwrite(tmp_path / "a.tif", (picture / 255).astype(np.float32), **OPTIONS)
    for force in (False, True):
        with pytest.raises(SlideError, match=r"float32.*vips linear"):
            open_slide(tmp_path / "a.tif", force=force)


def test_fluorescence_of_16_bits_is_fluorescence_still(tmp_path, picture):
    dark = (255 - picture.astype(np.uint16)) * 20
    tifffile.imwrite(tmp_path / "a.tif", dark, **OPTIONS)
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(SlideError, match="fluorescence"):
        check_stain(slide)
    tifffile.imwrite(
        tmp_path / "b.tif", np.moveaxis(dark, 2, 0), **(OPTIONS | {"photometric": "minisblack"})
    )
    with pytest.raises(SlideError, match="immunofluorescence"):
        open_slide(tmp_path / "b.tif")
