from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lymphinfer.errors import PixelSizeError
from lymphinfer.slides import open_slide
from lymphinfer.slides.ome import read_ome
from lymphinfer.slides.openslide_reader import _bounds_offset, _stated_size
from lymphinfer.slides.pixel_size import StatedSize, resolve_pixel_size

from .made import write_ome, write_svs

OME = '<OME xmlns="http://x.org/OME/2016-06"><Image><Pixels {}/></Image></OME>'
FILE = Path("a.svs")


def test_a_scanner_s_own_pixel_size_is_used(real_svs):
    with open_slide(real_svs) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.499, "metadata")


@pytest.mark.parametrize("unit", ["nm", "µm", "mm"])
def test_ome_xml_gives_the_size_in_any_unit(tmp_path, pixels, unit):
    path = write_ome(tmp_path / "a.ome.tif", pixels, mpp=0.325, unit=unit)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.325)
        assert slide.mpp_source == "OME-XML"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('PhysicalSizeX="0.5"', (0.5, 0.5)),
        ('PhysicalSizeX="500" PhysicalSizeXUnit="nm"', (0.5, 0.5)),
        ('PhysicalSizeX="0.5" PhysicalSizeXUnit="\u03bcm" PhysicalSizeY="0.4"', (0.5, 0.4)),
        ('PhysicalSizeX="5000" PhysicalSizeXUnit="\u00c5"', (0.5, 0.5)),
        ('PhysicalSizeX="5000" PhysicalSizeXUnit="\u212b"', (0.5, 0.5)),
    ],
)
def test_ome_attributes_are_converted_to_micrometres(attributes, expected):
    (image,) = read_ome(OME.format(attributes)).images
    assert image.stated.xy == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (OME.format('PhysicalSizeX="1" PhysicalSizeXUnit="pixel"'), "1 pixel"),
        (OME.format('PhysicalSizeX="wide"'), "wide"),
        (OME.format(""), "no PhysicalSizeX"),
        ("<OME/>", "no image"),
        ("<OME", "cannot be parsed"),
    ],
)
def test_ome_xml_without_a_length_says_what_is_wrong(text, hint):
    found = read_ome(text)
    assert all(image.stated.xy is None for image in found.images)
    assert hint in found.problem + "".join(image.stated.hint for image in found.images)


def test_the_user_s_size_wins_and_a_difference_is_logged(tmp_path, pixels, caplog):
    path = write_svs(tmp_path / "a.svs", pixels, mpp=0.25)
    with caplog.at_level(logging.WARNING), open_slide(path, mpp=0.252) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.252, "--mpp")
    assert caplog.records == []
    with caplog.at_level(logging.WARNING), open_slide(path, mpp=0.5) as slide:
        assert slide.mpp == 0.5
    assert "0.25 µm/px" in caplog.text


def test_a_generic_tiff_warns_once(tmp_path, pixels, caplog):
    path = tmp_path / "a.tif"
    size = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), metadata=None, **size)
    with caplog.at_level(logging.WARNING), open_slide(path, mpp=0.5) as slide:
        assert slide.reader == "tifffile:tiff"
        assert (slide.mpp, slide.mpp_source) == (0.5, "--mpp")
    assert len(caplog.records) == 1


def test_without_any_size_the_error_names_file_and_fix(tmp_path, pixels):
    path = write_ome(tmp_path / "unsized.ome.tif", pixels, mpp=None)
    with pytest.raises(PixelSizeError, match=r"unsized\.ome\.tif.*PhysicalSizeX.*--mpp 0\.25"):
        open_slide(path)


def test_objective_power_alone_is_named_and_not_used(tmp_path, pixels):
    path = write_svs(tmp_path / "a.svs", pixels, mpp=None)
    with pytest.raises(PixelSizeError, match=r"objective power, 40x.*--mpp 0\.25"):
        open_slide(path)


@pytest.mark.parametrize("mpp", [0.05, 2.0])
def test_a_size_at_which_nuclei_cannot_be_seen_is_refused_by_value(tmp_path, pixels, mpp):
    path = write_svs(tmp_path / "a.svs", pixels, mpp=mpp)
    with pytest.raises(PixelSizeError, match=rf"says {mpp:g} µm/px, outside 0\.1-1"):
        open_slide(path)
    with pytest.raises(PixelSizeError, match=rf"given pixel size of {mpp:g}"):
        open_slide(path, mpp=mpp)


@pytest.mark.parametrize("mpp", [float("nan"), float("inf"), 0.0, -0.25])
def test_a_senseless_size_from_the_user_is_refused(mpp):
    with pytest.raises(PixelSizeError, match="given pixel size"):
        resolve_pixel_size(FILE, StatedSize(None), mpp)


def test_square_pixels_are_averaged_and_others_refused():
    assert resolve_pixel_size(FILE, StatedSize((0.25, 0.26)), None) == (0.255, "metadata")
    with pytest.raises(PixelSizeError, match=r"0\.25 x 0\.27 µm.*not square"):
        resolve_pixel_size(FILE, StatedSize((0.25, 0.27)), None)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_dpi_of_a_plain_image_is_never_trusted(tmp_path, pixels, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, dpi=(300, 300))
    with pytest.raises(PixelSizeError, match=r"84\.67 µm/px, which is not to be trusted"):
        open_slide(path)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.mpp_source == "--mpp"


@pytest.mark.parametrize(
    ("tile", "per_cm", "mpp"),
    [((128, 128), 40_000, 0.25), ((128, 128), 118.11, None), (None, 40_000, None)],
)
def test_resolution_tags_count_only_in_tiled_tiff_and_when_plausible(
    tmp_path, pixels, tile, per_cm, mpp
):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        tile=tile,
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    if mpp is None:
        with pytest.raises(PixelSizeError, match="not to be trusted"):
            open_slide(path)
    else:
        with open_slide(path) as slide:
            assert slide.mpp == pytest.approx(mpp)


def test_one_axis_of_metadata_stands_for_both():
    stated = _stated_size({"openslide.vendor": "aperio", "openslide.mpp-x": "0.25"})
    assert stated.xy == (0.25, 0.25)
    assert _stated_size({"openslide.vendor": "aperio", "openslide.mpp-x": "none"}).xy is None


def test_qupath_crops_only_where_all_four_bounds_exist():
    bounds = {f"openslide.bounds-{k}": v for k, v in zip("xy", ("100", "250"), strict=True)}
    assert _bounds_offset(bounds) == (0, 0)
    bounds |= {"openslide.bounds-width": "10", "openslide.bounds-height": "10"}
    assert _bounds_offset(bounds) == (100, 250)


def test_a_slide_without_bounds_has_no_offset(tmp_path, pixels):
    with open_slide(write_svs(tmp_path / "a.svs", pixels)) as slide:
        assert slide.bounds_offset == (0, 0)
        assert np.asarray(slide.dimensions).tolist() == [603, 500]
