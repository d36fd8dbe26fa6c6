"""Rectangles of an OME-TIFF's planes are those of the planes."""

import numpy as np
import pytest
from tifffile import TiffWriter

from lymphinfer.errors import SlideError
from lymphinfer.slides.planes import Planes

PIXELS = np.random.default_rng(0).integers(0, 60_000, (3, 150, 220), np.uint16)


@pytest.fixture(params=["tiles", "strips", "int32"])
def image(request, tmp_path):
    path = tmp_path / "image.ome.tiff"
    pixels = PIXELS.astype(np.int32) if request.param == "int32" else PIXELS
    layout = {"rowsperstrip": 40} if request.param == "strips" else {"tile": (64, 64)}
    with TiffWriter(path, ome=True) as writer:
        writer.write(pixels, compression="zlib", metadata={"axes": "CYX"}, **layout)
    return path, pixels


@pytest.mark.parametrize("box", [(0, 0, 220, 150), (50, 60, 100, 30), (-10, -5, 30, 20),
                                 (200, 140, 64, 64), (300, 300, 8, 8)])  # fmt: skip
def test_a_rectangle_is_cut_out_and_zero_outside(image, box):
    path, pixels = image
    x, y, width, height = box
    around = np.pad(pixels, ((0, 0), (400, 400), (400, 400)))
    wanted = around[:, y + 400 : y + 400 + height, x + 400 : x + 400 + width]
    with Planes(path) as planes:
        assert (len(planes), planes.size) == (3, (220, 150))
        for plane in range(3):
            found = planes.read_plane(plane, x, y, width, height)
            assert found.dtype == pixels.dtype
            np.testing.assert_array_equal(found, wanted[plane])


def test_a_damaged_file_is_named(image):
    path, _ = image
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 5000] = bytes(5000)
    path.write_bytes(content)
    with Planes(path) as planes, pytest.raises(SlideError, match="cannot be decoded"):
        for plane in range(3):
            planes.read_plane(plane, 0, 0, 220, 150)
    path.write_bytes(b"no image")
    with pytest.raises(SlideError, match="cannot be read as a TIFF"):
        Planes(path)
