"""Which image of a file is the slide, and which of its images are levels of it."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from lymphinfer.errors import PixelSizeError, SlideError
from lymphinfer.slides import open_slide

from .made import halved, write_svs

TILED = {"photometric": "rgb", "compression": "zlib", "tile": (128, 128)}


def size(mpp: float | None, name: str, unit: str = "µm") -> dict[str, object]:
    meta: dict[str, object] = {"axes": "YXS", "Name": name}
    if mpp is not None:
        for axis in "XY":
            meta |= {f"PhysicalSize{axis}": mpp, f"PhysicalSize{axis}Unit": unit}
    return meta


def write(path, *images, options=TILED):
    """OME-TIFF of (pixels, metadata), each an image of its own."""
    with tifffile.TiffWriter(path, ome=True) as tif:
        for image, meta in images:
            tif.write(image, metadata=meta, **options)
    return path


@pytest.fixture
def macro(pixels):
    return np.ascontiguousarray(255 - pixels[:200, :300])


def test_two_macros_and_a_label_before_the_scan_are_passed_over(tmp_path, pixels, macro):
    path = write(
        tmp_path / "a.ome.tif",
        (macro[:90, :90], size(None, "label")),
        (macro, size(12.0, "macro 1")),
        (np.tile(macro, (4, 4, 1)), size(8.0, "whole slide")),
        (pixels, size(250.0, "scan", "nm")),
    )
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_region(0, 0, 603, 500, slide.mpp), pixels)
        assert slide.mpp == pytest.approx(0.25)
        assert [image.kind for image in slide.images] == ["label", "macro", "scan", "scan"]
        for name in ("label", "macro 1", "whole slide"):
            assert repr(name) in slide.warnings[0]


def test_a_scan_that_states_no_size_does_not_take_that_of_a_macro(tmp_path, pixels, macro):
    path = write(tmp_path / "a.ome.tif", (macro, size(0.5, "macro")), (pixels, size(None, "scan")))
    with pytest.raises(PixelSizeError, match="no PhysicalSizeX"):
        open_slide(path)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.dimensions == (603, 500)


@pytest.mark.parametrize("factor", [2, 4])
def test_an_image_of_exactly_the_proportions_is_no_level_of_the_scan(tmp_path, pixels, factor):
    other = np.ascontiguousarray(pixels[::-factor, ::-factor])[: 500 // factor, : 603 // factor]
    path = write(tmp_path / "a.ome.tif", (pixels, size(0.25, "one")), (other, size(0.25, "two")))
    plain = tmp_path / "a.tif"
    with tifffile.TiffWriter(plain) as tif:
        for image in (pixels, other):
            tif.write(image, metadata=None, **TILED)
    for file in (path, plain):
        with open_slide(file, mpp=0.25) as slide:
            assert slide.level_dimensions == ((603, 500),)
            assert len(slide.images) == 2


def test_a_subifd_of_other_content_is_no_level(tmp_path, pixels):
    wrong = np.ascontiguousarray(halved(pixels)[::-1])
    right = halved(halved(pixels))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(pixels, subifds=2, metadata=None, **TILED)
        tif.write(wrong, subfiletype=1, metadata=None, **TILED)
        tif.write(right, subfiletype=1, metadata=None, **TILED)
    with open_slide(tmp_path / "a.tif", mpp=0.25) as slide:
        assert slide.level_dimensions == ((603, 500), (150, 125))


def test_a_level_in_other_colours_is_no_level(tmp_path, pixels):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(pixels, subifds=1, metadata=None, **TILED)
        tif.write(np.clip(halved(pixels) + np.uint8(40), 40, 255), subfiletype=1, metadata=None,
                  **TILED)  # fmt: skip
    with open_slide(tmp_path / "a.tif", mpp=0.25) as slide:
        assert slide.level_dimensions == ((603, 500),)


@pytest.mark.parametrize("shrink", ["nearest", "lanczos"])
def test_levels_are_levels_however_they_were_shrunk_and_compressed(tmp_path, pixels, shrink):
    from PIL import Image

    how = getattr(Image.Resampling, shrink.upper())
    levels = [np.asarray(Image.fromarray(pixels).resize((603 // n, 500 // n), how)) for n in (2, 4)]
    jpeg = TILED | {"compression": "jpeg", "compressionargs": {"level": 30}}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(pixels, subifds=2, metadata=None, **jpeg)
        for level in levels:
            tif.write(level, subfiletype=1, metadata=None, **jpeg)
    with open_slide(tmp_path / "a.tif", mpp=0.25) as slide:
        assert len(slide.level_dimensions) == 3


def test_each_region_keeps_its_own_levels(tmp_path, pixels):
    other = np.ascontiguousarray(pixels[:300, ::-1])
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        for image, name in ((other, "small"), (pixels, "large")):
            tif.write(image, subifds=1, metadata=size(0.25, name), **TILED)
            tif.write(halved(image), subfiletype=1, **TILED)
    for series, image in ((None, pixels), ("small", other)):
        with open_slide(tmp_path / "a.ome.tif", series=series) as slide:
            height, width = image.shape[:2]
            assert slide.level_dimensions == ((width, height), (width // 2, height // 2))
            assert np.array_equal(
                slide.read_region(0, 0, width // 2, height // 2, 0.5), halved(image)
            )


def test_each_page_has_its_own_resolution_tags(tmp_path, pixels, macro):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(macro, resolution=(1e4 / 0.9,) * 2, resolutionunit=3, metadata=None, **TILED)
        tif.write(pixels, resolution=(25_400 / 0.25,) * 2, resolutionunit=2, metadata=None, **TILED)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.dimensions == (603, 500)
        assert slide.mpp == pytest.approx(0.25)


def test_an_image_that_is_not_there_is_refused_with_those_that_are(tmp_path, pixels, macro):
    path = write(tmp_path / "a.ome.tif", (macro, size(9.0, "macro")), (pixels, size(0.25, "scan")))
    with pytest.raises(SlideError, match=r"no such image.*0 'macro'.*1 'scan'"):
        open_slide(path, series="7")
    with pytest.raises(SlideError, match="the file holds one scan"):
        open_slide(write_svs(tmp_path / "a.svs", pixels), series="1")


def test_planes_of_colour_in_pages_of_their_own_are_one_image(tmp_path, pixels):
    planes = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    meta = size(0.25, "scan") | {"axes": "CYX", "Channel": {"Name": ["R", "G", "B"]}}
    options = TILED | {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, ome=True, metadata=meta, **options)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert np.array_equal(slide.read_region(0, 0, 603, 500, 0.25), pixels)
        assert slide.warnings == ()


def test_pages_of_one_size_that_differ_are_scans_and_no_stack(tmp_path, pixels):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for image in (pixels, np.ascontiguousarray(pixels[::-1])):
            tif.write(image, metadata=None, contiguous=False, **TILED)
    with open_slide(tmp_path / "a.tif", mpp=0.25) as slide:
        assert np.array_equal(slide.read_region(0, 0, 603, 500, 0.25), pixels)
        assert "1 other image" in slide.warnings[0]


def test_another_picture_in_an_svs_is_no_level_and_is_told_of(tmp_path, pixels):
    path = tmp_path / "a.svs"
    text = "Aperio Image Library v1\r\nmade|AppMag = 40|MPP = 0.25"
    with tifffile.TiffWriter(path) as tif:
        for image in (pixels, halved(pixels), np.ascontiguousarray(halved(halved(pixels))[::-1])):
            tif.write(image, description=text, metadata=None, **TILED)
    with open_slide(path) as slide:
        assert slide.reader == "openslide:aperio"
        assert slide.level_dimensions == ((603, 500), (301, 250))
        assert "150 x 125 px" in slide.warnings[0]
        assert np.array_equal(slide.read_region(0, 0, 301, 250, 0.5), halved(pixels))


def test_an_icc_profile_is_told_of(tmp_path, pixels):
    profile = b"p" * 200
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, iccprofile=profile, **TILED)
    with open_slide(tmp_path / "a.tif", mpp=0.25) as slide:
        facts = slide.facts()
    assert facts["icc_profile"] == {"present": True, "bytes": 200, "applied": False}


def test_a_height_that_the_list_of_tiles_does_not_bear_out_is_told_at_once(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((200, 300, 3), 200, np.uint8), photometric="rgb",
                     tile=(128, 128), metadata=None)  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["ImageLength"].overwrite(2_000_000_000, dtype="I")
    with pytest.raises(SlideError, match="its list of tiles is shorter than the image"):
        open_slide(path, mpp=0.25)


SET = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">{images}</OME>"""
OF_SET = """<Image ID="Image:{i}" Name="{name}"><Pixels ID="Pixels:{i}" DimensionOrder="XYCZT"
 Type="uint8" SizeX="300" SizeY="200" SizeZ="1" SizeC="3" SizeT="1" PhysicalSizeX="{mpp}">
<Channel ID="Channel:{i}:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1">
<UUID FileName="{name}.ome.tif">urn:uuid:1</UUID></TiffData></Pixels></Image>"""


def test_files_of_a_set_that_share_an_identity_are_told_apart_by_their_names(tmp_path):
    sizes = {"p": 0.25, "q": 0.5}
    images = "".join(
        OF_SET.format(i=i, name=name, mpp=mpp) for i, (name, mpp) in enumerate(sizes.items())
    )
    for name, mpp in sizes.items():
        path = tmp_path / f"{name}.ome.tif"
        tifffile.imwrite(path, np.full((200, 300, 3), 200, np.uint8), photometric="rgb",
                         description=SET.format(images=images), metadata=None)  # fmt: skip
        with open_slide(path) as slide:
            assert slide.mpp == mpp
            assert "describes pixels in" in slide.warnings[0]
