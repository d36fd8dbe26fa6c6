"""Aperio slides, whose tiles are decoded apart from OpenSlide, read as by OpenSlide alone."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from lymphinfer.errors import SlideError
from lymphinfer.simulate.slide import write_slide
from lymphinfer.slides import open_slide
from lymphinfer.slides.aperio_tiles import AperioLevel

from .made import APERIO, write_svs

pytest.importorskip("simplejpeg", reason="decodes the tiles")

TILE_PX = 128


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory, pixels):
    """1204 x 996 px with a level of exactly a quarter."""
    path = tmp_path_factory.mktemp("pyramid") / "a.svs"
    write_slide(path, np.tile(pixels, (2, 2, 1))[:996, :1204], 0.25)
    return path


def by_openslide(path, level, x, y, width, height):
    with openslide.OpenSlide(path) as slide:
        whole = round(slide.level_downsamples[level])
        rgba = np.asarray(slide.read_region((x * whole, y * whole), level, (width, height)))
    return np.where(rgba[..., 3:] == 255, rgba[..., :3], 255)


def by_us(slide, level, x, y, width, height):
    return np.asarray(slide._read_level(level, x, y, width, height))


def tile_place(path, index):
    with tifffile.TiffFile(path) as tif:
        return tif.pages[0].dataoffsets[index], tif.pages[0].databytecounts[index]


def overwrite(path, offset, content):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def some_rectangles(slide, count=25):
    """Of any size, at and beyond the edges too."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        level = int(rng.integers(len(slide.level_dimensions)))
        width, height = slide.level_dimensions[level]
        x, y = int(rng.integers(-90, width + 40)), int(rng.integers(-90, height + 40))
        yield level, x, y, int(rng.integers(1, 700)), int(rng.integers(1, 500))


def check_same(path, levels):
    with open_slide(path, mpp=0.25) as slide:
        assert slide.reader == "openslide:aperio"
        assert sorted(slide._tiles) == levels
        for box in some_rectangles(slide):
            assert np.array_equal(by_us(slide, *box), by_openslide(path, *box)), box


def test_any_rectangle_of_a_real_slide_is_as_openslide_reads_it(real_svs):
    check_same(real_svs, [0])


def test_any_rectangle_of_any_level_is_as_openslide_reads_it(pyramid):
    check_same(pyramid, [0, 1])


@pytest.mark.parametrize(
    ("space", "subsampling"),
    [("RGB", "444"), ("YCBCR", "444"), ("YCBCR", "422"), ("YCBCR", "420")],
)
def test_colours_in_any_common_storage_are_as_openslide_reads_them(
    tmp_path, real_svs, space, subsampling
):
    with openslide.OpenSlide(real_svs) as real:
        image = np.asarray(real.read_region((900, 900), 0, (512, 384)))[..., :3]
    tiles = [
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(image[y : y + TILE_PX, x : x + TILE_PX]),
            level=80, outcolorspace=space, subsampling=subsampling,
        )
        for y in range(0, 384, TILE_PX)
        for x in range(0, 512, TILE_PX)
    ]  # fmt: skip
    write_tiles(tmp_path / "a.svs", tiles, (384, 512, 3), space)
    check_same(tmp_path / "a.svs", [0])


def write_tiles(path, tiles, shape, space):
    """Write an SVS of JPEG streams."""
    tifffile.imwrite(
        path, iter(tiles), shape=shape, dtype=np.uint8, tile=(TILE_PX, TILE_PX),
        photometric="rgb", compression="jpeg", metadata=None,
        description=APERIO.format(width=shape[1], height=shape[0], mpp=0.25),
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(2 if space == "RGB" else 6)


@pytest.mark.parametrize("compression", ["jpeg2000", "zlib"])
def test_other_compressions_are_openslide_s_alone(tmp_path, pixels, compression):
    tifffile.imwrite(
        tmp_path / "a.svs", pixels, tile=(TILE_PX, TILE_PX), photometric="rgb", metadata=None,
        compression={"jpeg2000": "aperio_jp2000_rgb"}.get(compression, compression),
        description=APERIO.format(width=603, height=500, mpp=0.25),
    )  # fmt: skip
    check_same(tmp_path / "a.svs", [])


def test_a_level_that_openslide_shifts_is_openslide_s_alone(tmp_path, pixels):
    path = write_svs(tmp_path / "a.svs", pixels)  # 603 px become 301
    with open_slide(path) as slide:
        assert len(slide.level_dimensions) == 2 and list(slide._tiles) == [0]


def test_a_tile_that_is_missing_is_filled_as_openslide_fills_it(tmp_path, pyramid):
    path = shutil.copy(pyramid, tmp_path / "a.svs")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages[:2]:
            counts = list(page.databytecounts)
            counts[1] = 0
            page.tags["TileByteCounts"].overwrite(counts)
    check_same(path, [])


def outcome(path, *box, alone):
    """What a reading gives, pixels or the text of the error."""
    with open_slide(path, mpp=0.25) as slide:
        if alone:
            slide._tiles = {}
        try:
            return by_us(slide, *box).tobytes()
        except SlideError as error:
            return str(error)


@pytest.mark.parametrize("damage", ["zeros", "bits", "shift", "end", "header"])
def test_a_damaged_tile_is_told_as_by_openslide_alone(tmp_path, real_svs, damage):
    path = shutil.copy(real_svs, tmp_path / "a.svs")
    offset, count = tile_place(path, 57)
    whole = path.read_bytes()[offset : offset + count]
    rng = np.random.default_rng(1)
    box = (0, 7 * 240 - 5, 5 * 240 - 5, 250, 250)
    told = 0
    for _ in range(12):
        tile = bytearray(whole)
        at = int(rng.integers(100, count - 100))
        if damage == "zeros":
            tile[at : at + 64] = bytes(64)
        elif damage == "bits":
            tile[at] ^= 1 << int(rng.integers(8))
        elif damage == "shift":
            tile[at:] = tile[at + 1 :] + b"\0"
        elif damage == "end":
            tile[at:] = bytes(count - at)
        else:
            tile[int(rng.integers(20))] = int(rng.integers(256))
        overwrite(path, offset, tile)
        ours, alone = outcome(path, *box, alone=False), outcome(path, *box, alone=True)
        assert ours == alone
        if isinstance(ours, str):
            told += 1
            assert str(path) in ours and "cannot be decoded" in ours and "copy or export" in ours
    assert told


def test_a_tile_of_another_size_than_the_file_says_is_damage(tmp_path, pixels):
    tiles = [
        imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels[:side, :side]), level=90)
        for side in (TILE_PX, TILE_PX, TILE_PX // 2, TILE_PX)
    ]
    write_tiles(tmp_path / "a.svs", tiles, (2 * TILE_PX, 2 * TILE_PX, 3), "YCBCR")
    with open_slide(tmp_path / "a.svs") as slide:
        assert slide._tiles
        assert by_us(slide, 0, TILE_PX, 0, 50, 200).shape == (200, 50, 3)
        with pytest.raises(SlideError, match="cannot be decoded"):
            by_us(slide, 0, 0, 0, 50, 200)


def test_threads_read_on_beside_one_that_meets_a_damaged_tile(tmp_path, real_svs):
    path = shutil.copy(real_svs, tmp_path / "a.svs")
    offset, count = tile_place(path, 57)
    overwrite(path, offset + 200, bytes(count - 200))
    boxes = [(0, x, y, 300, 300) for y in range(0, 900, 150) for x in range(0, 2200, 300)]
    damaged = (0, 7 * 240, 5 * 240, 100, 100)
    expected = [by_openslide(path, *box) for box in boxes]
    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        failing = [pool.submit(by_us, slide, *damaged) for _ in range(5)]
        found = list(pool.map(lambda box: by_us(slide, *box), boxes))
        assert all(isinstance(task.exception(), SlideError) for task in failing)
    for ours, openslide_s in zip(found, expected, strict=True):
        assert np.array_equal(ours, openslide_s)


def test_neighbouring_reads_decode_a_tile_once_and_hold_little(real_svs, monkeypatch):
    decoded = []
    decode = AperioLevel._decode
    monkeypatch.setattr(
        AperioLevel, "_decode", lambda self, page, i: decoded.append(i) or decode(self, page, i)
    )
    with open_slide(real_svs) as slide:
        by_us(slide, 0, 0, 0, 1000, 1000)
        by_us(slide, 0, 900, 0, 1000, 1000)
        assert len(decoded) == len(set(decoded)) == 5 * 8
        assert slide._store.max_bytes <= 64 << 20


def test_a_closed_slide_says_so_whatever_it_still_holds(real_svs):
    slide = open_slide(real_svs)
    by_us(slide, 0, 0, 0, 100, 100)
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        by_us(slide, 0, 0, 0, 100, 100)
