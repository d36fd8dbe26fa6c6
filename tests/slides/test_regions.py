from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from lymphinfer.errors import SlideError
from lymphinfer.slides import open_slide
from lymphinfer.slides.pyramid import level_downsample
from lymphinfer.slides.source import FileSource
from lymphinfer.slides.tiff_level import SegmentStore, TiffLevel

from .made import halved, write_ome, write_svs


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


@pytest.fixture(scope="module")
def made(tmp_path_factory, pixels):
    """The same pixels in every kind of file; True: stored without loss."""
    folder = tmp_path_factory.mktemp("made")
    tiff = {"photometric": "rgb", "metadata": None}
    paths = {
        "svs": (write_svs(folder / "a.svs", pixels), False),
        "ome": (write_ome(folder / "a.ome.tif", pixels), False),
        "ome-planar": (write_ome(folder / "p.ome.tif", pixels, "SYX", compression="zlib"), True),
        "ome-pages": (write_ome(folder / "c.ome.tif", pixels, "CYX", compression="zlib"), True),
        "png": (folder / "a.png", True),
        "strips": (folder / "strips.tif", True),
        "one-strip": (folder / "one.tif", True),
        "jpeg2000": (folder / "j2k.tif", True),
        "generic": (folder / "generic.tif", True),
    }
    Image.fromarray(pixels).save(paths["png"][0])
    tifffile.imwrite(paths["strips"][0], pixels, rowsperstrip=37, compression="lzw", **tiff)
    tifffile.imwrite(paths["one-strip"][0], pixels, rowsperstrip=500, **tiff)
    jpeg2000 = {"compression": "jpeg2000", "tile": (128, 128)}
    tifffile.imwrite(paths["jpeg2000"][0], pixels, **jpeg2000, **tiff)
    tifffile.imwrite(paths["generic"][0], pixels, tile=(128, 128), compression="zlib", **tiff)
    return paths


KINDS = [
    "svs", "ome", "ome-planar", "ome-pages", "png", "strips", "one-strip", "jpeg2000", "generic"
]  # fmt: skip
READERS = {
    "svs": "openslide:aperio",
    "ome": "tifffile:ome",
    "ome-planar": "tifffile:ome",
    "ome-pages": "tifffile:ome",
    "png": "image",
    "strips": "tifffile:tiff",
    "one-strip": "tifffile:tiff",
    "jpeg2000": "tifffile:tiff",
    "generic": "tifffile:tiff",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_its_own_pixels_at_its_own_size(made, pixels, kind):
    path, exact = made[kind]
    with open_slide(path, mpp=0.25) as slide:
        assert slide.reader == READERS[kind]
        assert slide.dimensions == (603, 500)
        region = slide.read_region(0, 0, 603, 500, 0.25)
        part = slide.read_region(111, 222, 140, 130, 0.25)
    assert region.dtype == np.uint8 and region.flags.writeable
    if exact:
        assert np.array_equal(region, pixels)
    else:
        assert np.abs(region.astype(int) - pixels).mean() < 8
    assert np.array_equal(part, region[222:352, 111:251])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mpp", [0.325, 0.2, 0.5, 1.0, 3.3])
def test_overlapping_reads_agree(made, kind, mpp):
    with open_slide(made[kind][0], mpp=0.25) as slide:
        width, height = slide.dimensions_at(mpp)
        whole = slide.read_region(0, 0, width, height, mpp)
        x, y = width // 3, height // 4
        w, h = width // 2, height // 2
        part = slide.read_region(x, y, w, h, mpp)
    assert difference(part, whole[y : y + h, x : x + w]) <= 1


@pytest.mark.parametrize("mpp", [0.325, 1.0])
def test_overlapping_reads_of_a_real_slide_agree(real_svs, mpp):
    with open_slide(real_svs) as slide:
        whole = slide.read_region(300, 500, 700, 600, mpp)
        for x, y in [(300, 500), (301, 503), (517, 777)]:
            part = slide.read_region(x, y, 301, 299, mpp)
            expected = whole[y - 500 : y - 500 + 299, x - 300 : x - 300 + 301]
            assert difference(part, expected) <= 1


def test_a_real_slide_reads_as_openslide_does(real_svs):
    with open_slide(real_svs) as slide, openslide.OpenSlide(real_svs) as direct:
        for x, y in [(0, 0), (1000, 2000), (1719, 2466)]:
            expected = np.asarray(direct.read_region((x, y), 0, (501, 499)).convert("RGB"))
            assert np.array_equal(slide.read_region(x, y, 501, 499, slide.mpp), expected)


def test_a_read_larger_than_a_block_has_no_seams(real_svs):
    with open_slide(real_svs) as slide:
        region = slide.read_region(0, 0, *slide.dimensions_at(0.325), 0.325)
        across = slide.read_region(1900, 1900, 300, 300, 0.325)  # blocks meet at 2048
        assert region.shape == (4556, 3409, 3)
        assert difference(region[1900:2200, 1900:2200], across) <= 1


def test_a_level_s_own_size_returns_the_level_itself(made, pixels):
    for kind in ("ome-planar", "ome-pages"):
        with open_slide(made[kind][0]) as slide:
            assert slide.level_dimensions == ((603, 500), (301, 250))
            region = slide.read_region(0, 0, 301, 250, 0.5)
        assert np.array_equal(region, halved(pixels))


def test_a_level_whose_ratio_is_not_whole_is_read_without_shift(tmp_path, pixels):
    path = write_svs(tmp_path / "a.svs", pixels)
    with open_slide(path) as slide, openslide.OpenSlide(path) as direct:
        assert direct.level_downsamples[1] != 2.0
        level = tifffile.imread(path, key=1)
        region = slide.read_region(0, 0, 301, 250, 0.5)
        assert np.abs(region.astype(int) - level).mean() < 1.0
        assert np.array_equal(slide.read_region(77, 33, 90, 80, 0.5), region[33:113, 77:167])


def test_ome_tiff_and_svs_of_the_same_pixels_agree(made):
    svs, ome = (open_slide(made[kind][0]) for kind in ("svs", "ome"))
    with svs, ome:
        for mpp in (0.25, 0.325):
            args = (37, 41, 200, 210, mpp)
            assert difference(svs.read_region(*args), ome.read_region(*args)) <= 2


@pytest.mark.parametrize("kind", ["ome-planar", "ome-pages", "strips", "jpeg2000", "generic"])
def test_readers_agree_up_to_the_slide_s_edge_where_tiles_are_padded(made, kind):
    regions = []
    for name in ("png", kind):
        with open_slide(made[name][0], mpp=0.25) as slide:
            regions.append(slide.read_region(0, 0, *slide.dimensions_at(0.325), 0.325))
    assert difference(*regions) <= 1


@pytest.mark.parametrize("mpp", [0.2, 0.25, 0.325, 0.5])
def test_a_resampled_pixel_shows_the_place_that_the_grid_says(tmp_path, mpp):
    # Brightness is the level-0 position, so that a pixel's value tells where it was read.
    ramp = np.broadcast_to((np.arange(240) + 0.5)[None, :, None], (60, 240, 3)).astype(np.uint8)
    path = tmp_path / "ramp.png"
    Image.fromarray(ramp).save(path)
    with open_slide(path, mpp=0.25) as slide:
        start = 23
        row = slide.read_region(start, 10, 60, 1, mpp)[0, :, 0]
    expected = (start + np.arange(60) + 0.5) * mpp / 0.25 - 0.5
    assert np.abs(row - expected).max() < 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_outside_the_slide_is_white(made, kind):
    with open_slide(made[kind][0], mpp=0.25) as slide:
        for mpp in (0.25, 0.325):
            width, height = slide.dimensions_at(mpp)
            region = slide.read_region(-20, -30, width + 60, height + 80, mpp)
            inside = region[30 : 30 + height, 20 : 20 + width].copy()
            region[30 : 30 + height, 20 : 20 + width] = 255
            assert (region == 255).all()
            assert difference(inside, slide.read_region(0, 0, width, height, mpp)) <= 1
        assert (slide.read_region(10_000, -5000, 8, 8, 0.25) == 255).all()


@pytest.mark.parametrize(
    ("kind", "expected"), [("unspecified", 100), ("assocalpha", 100 + 205), ("unassalpha", 225)]
)
def test_the_fourth_sample_of_a_tiff_is_what_its_tag_says(tmp_path, kind, expected):
    rgba = np.full((64, 64, 4), (100, 100, 100, 50), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=[kind])
    with open_slide(tmp_path / "a.tif", mpp=0.25) as slide:
        assert (slide.read_region(0, 0, 64, 64, 0.25) == min(expected, 255)).all()


def test_transparent_pixels_are_white(tmp_path, pixels):
    rgba = np.dstack([pixels[:64, :64], np.full((64, 64), 255, np.uint8)])
    rgba[:32, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("a.png", "a.tif"):
        with open_slide(tmp_path / name, mpp=0.25) as slide:
            region = slide.read_region(0, 0, 64, 64, 0.25)
        assert (region[:32] == 255).all()
        assert np.array_equal(region[32:], pixels[32:64, :64])


@pytest.mark.parametrize("kind", ["svs", "ome", "png", "one-strip"])
def test_threads_that_read_at_once_see_the_same(made, kind):
    corners = [(x, y) for x in range(0, 500, 90) for y in range(0, 400, 90)]
    with open_slide(made[kind][0], mpp=0.25) as slide:
        one_by_one = [slide.read_region(x, y, 100, 100, 0.325) for x, y in corners]
    with (
        open_slide(made[kind][0], mpp=0.25) as slide,
        ThreadPoolExecutor(8) as pool,
    ):
        at_once = list(pool.map(lambda c: slide.read_region(*c, 100, 100, 0.325), corners))
    assert all(np.array_equal(a, b) for a, b in zip(one_by_one, at_once, strict=True))


def test_only_the_tiles_under_a_region_are_decoded_and_once(made, monkeypatch):
    decoded = []
    decode = TiffLevel._decode
    monkeypatch.setattr(
        TiffLevel, "_decode", lambda self, page, i: decoded.append(i) or decode(self, page, i)
    )
    with open_slide(made["ome"][0]) as slide:
        decoded.clear()
        slide.read_region(130, 130, 100, 100, 0.25)
        slide.read_region(120, 130, 100, 100, 0.25)
    assert decoded == [6, 5]  # five tiles a row; the second read reuses tile 6


def test_decoded_tiles_are_held_within_a_bound(made):
    store = SegmentStore(FileSource(made["ome"][0]), max_bytes=250)
    for index in range(5):
        store.keep((0, index), np.zeros(100, np.uint8))
    assert [store.cached((0, index))[0] for index in range(5)] == [False, False, False, True, True]
    store.keep((1, 0), np.zeros(1000, np.uint8))
    assert store.cached((1, 0))[0] and not store.cached((0, 4))[0]
    store.close()


def test_levels_are_found_as_subifds_as_pages_and_never_a_label(tmp_path, pixels):
    options = {"photometric": "rgb", "compression": "zlib", "tile": (128, 128), "metadata": None}
    jpeg2000 = options | {"compression": "jpeg2000"}
    with tifffile.TiffWriter(tmp_path / "pages.tif") as tif:
        tif.write(pixels, **jpeg2000)
        tif.write(halved(pixels), subfiletype=1, **jpeg2000)
        tif.write(pixels[:200, :150], **jpeg2000)
        tif.write(halved(halved(pixels)), photometric="rgb", metadata=None)  # a thumbnail
    with tifffile.TiffWriter(tmp_path / "subifds.tif") as tif:
        tif.write(pixels, subifds=1, **options)
        tif.write(halved(pixels), subfiletype=1, **options)
    for name in ("pages.tif", "subifds.tif"):
        with open_slide(tmp_path / name, mpp=0.25) as slide:
            assert slide.reader == "tifffile:tiff"
            assert slide.level_dimensions == ((603, 500), (301, 250))
            assert np.array_equal(slide.read_region(0, 0, 301, 250, 0.5), halved(pixels))


@pytest.mark.parametrize(
    ("level0", "level", "expected"),
    [
        ((100_003, 80_001), (25_000, 20_000), (4.0, 4.0)),
        ((100_003, 80_001), (25_001, 20_001), (4.0, 4.0)),
        ((1000, 900), (400, 360), (2.5, 2.5)),
    ],
)
def test_a_level_s_downsample_is_whole_where_that_explains_its_size(level0, level, expected):
    assert level_downsample(level0, level) == expected


def test_a_damaged_tile_fails_there_and_only_there(tmp_path, pixels):
    for name, write in [("a.svs", write_svs), ("a.ome.tif", write_ome)]:
        path = write(tmp_path / name, pixels)
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0]
            offset, count = page.dataoffsets[6], page.databytecounts[6]
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes(count))
        with open_slide(path) as slide:
            before = slide.read_region(300, 300, 50, 50, 0.25)
            for _ in range(2):
                with pytest.raises(SlideError, match=r"cannot be decoded.*damaged") as caught:
                    slide.read_region(150, 150, 50, 50, 0.25)
                assert caught.value.__cause__ is not None
            assert np.array_equal(slide.read_region(300, 300, 50, 50, 0.25), before)


def test_after_a_read_error_one_fresh_handle_serves_the_rest(tmp_path, pixels, monkeypatch):
    path = write_svs(tmp_path / "a.svs", pixels)
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[6], tif.pages[0].databytecounts[6]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    with open_slide(path) as slide:
        with pytest.raises(SlideError):
            slide.read_region(150, 150, 50, 50, 0.25)
        slide._tiles = {}  # which need no handle
        monkeypatch.setattr(openslide, "OpenSlide", None)
        assert slide.read_region(300, 300, 50, 50, 0.25).shape == (50, 50, 3)


@pytest.mark.parametrize("kind", ["svs", "ome", "png"])
def test_a_closed_slide_is_not_read_and_closes_again(made, kind):
    slide = open_slide(made[kind][0], mpp=0.25)
    slide.close()
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        slide.read_region(0, 0, 5, 5, 0.25)


def test_an_empty_region_is_refused(made):
    with open_slide(made["svs"][0]) as slide:
        for size in [(0, 5, 0.25), (5, 0, 0.25), (5, 5, 0.0)]:
            with pytest.raises(ValueError, match="empty region"):
                slide.read_region(0, 0, *size)
