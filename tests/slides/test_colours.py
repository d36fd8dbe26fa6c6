"""JPEG and JPEG 2000 tiles in any colour space, with any tag."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from lymphinfer.slides import open_slide
from lymphinfer.slides.jpeg_colours import Colours, jpeg_colours

TILE = 128


def tiles(image: np.ndarray):
    for y in range(0, image.shape[0], TILE):
        for x in range(0, image.shape[1], TILE):
            tile = np.full((TILE, TILE, 3), 255, np.uint8)
            part = image[y : y + TILE, x : x + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def encode(tile: np.ndarray, space: str, sampling: str = "444") -> bytes:
    return imagecodecs.jpeg8_encode(
        tile, level=98, colorspace="RGB", outcolorspace=space, subsampling=sampling
    )


def without_marker(data: bytes) -> bytes:
    """The stream without its JFIF or Adobe marker."""
    out, place = data[:2], 2
    while data[place + 1] in (0xE0, 0xEE):
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return out + data[place:]


def with_ids(data: bytes, ids: bytes) -> bytes:
    """The stream with its three components called otherwise."""
    changed = bytearray(data)
    for marker, first in ((b"\xff\xc0", 10), (b"\xff\xda", 5)):
        place = data.index(marker)
        step = 3 if marker == b"\xff\xc0" else 2
        for i, each in enumerate(ids):
            changed[place + first + step * i] = each
    return bytes(changed)


def test_markers_and_names_of_components_tell_the_space():
    tile = np.full((16, 16, 3), (200, 120, 160), np.uint8)
    rgb, ycc = encode(tile, "RGB"), encode(tile, "YCBCR")
    assert jpeg_colours(ycc) is Colours.YCBCR
    assert jpeg_colours(rgb) is Colours.RGB
    assert jpeg_colours(with_ids(without_marker(rgb), b"RGB")) is Colours.RGB
    assert jpeg_colours(with_ids(without_marker(ycc), b"\1\2\3")) is None
    assert jpeg_colours(without_marker(encode(tile, "YCBCR", "420"))) is Colours.YCBCR
    assert jpeg_colours(b"") is None and jpeg_colours(b"\xff\xd8\xff\xe0\0") is None


@pytest.mark.parametrize("tag", [2, 6])
@pytest.mark.parametrize("space", ["RGB", "YCBCR"])
@pytest.mark.parametrize("marked", [True, False])
def test_a_jpeg_is_decoded_by_its_own_word_or_by_its_pixels(tmp_path, real_svs, tag, space, marked):
    with open_slide(real_svs) as slide:
        image = slide.read_region(600, 600, 512, 384, slide.mpp)
    data = [encode(tile, space) for tile in tiles(image)]
    if not marked:
        ids = b"RGB" if space == "RGB" else b"\1\2\3"
        data = [with_ids(without_marker(each), ids) for each in data]
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, iter(data), shape=image.shape, dtype=np.uint8, tile=(TILE, TILE),
        compression="jpeg", photometric="rgb", metadata=None,
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(tag)
    with open_slide(path, mpp=0.5) as slide:
        read = slide.read_region(0, 0, 512, 384, 0.5)
    assert np.abs(read.astype(int) - image).mean() < 4


def test_jpeg_2000_that_mixes_its_colours_itself_is_not_converted_again(tmp_path, pixels):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(TILE, TILE), compression="jpeg2000", metadata=None
    )
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(6)
    with open_slide(path, mpp=0.25) as slide:
        assert np.array_equal(slide.read_region(0, 0, 603, 500, 0.25), pixels)


def test_planes_of_ycbcr_become_rgb_and_white_outside(tmp_path, pixels):
    from PIL import Image

    planes = np.moveaxis(np.asarray(Image.fromarray(pixels).convert("YCbCr")), 2, 0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.ascontiguousarray(planes), photometric="rgb", planarconfig="separate",
        tile=(TILE, TILE), compression="zlib", metadata=None,
        extratags=[(530, "H", 2, (1, 1), True)],
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(6)
    with open_slide(path, mpp=0.25) as slide:
        read = slide.read_region(-5, 0, 608, 500, 0.25)
    assert (read[:, :5] == 255).all()
    assert np.abs(read[:, 5:].astype(int) - pixels).max() <= 3
