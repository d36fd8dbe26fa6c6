"""Zeiss CZI: scenes, levels, pixel sizes, and what is refused with its reason."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lymphinfer import extras
from lymphinfer.cli.app import app
from lymphinfer.errors import PixelSizeError, SlideError
from lymphinfer.slides import open_slide

pytest.importorskip("pylibCZIrw", reason="needs the extra `czi`")

from .made_czi import shrunk, write_czi


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth pixels of pink and violet, 601 x 403."""
    rng = np.random.default_rng(0)
    small = rng.integers([120, 60, 120], [255, 230, 240], (52, 76, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((601, 403), Image.Resampling.BICUBIC))


def test_pixels_come_back_as_they_were_written_and_outside_is_white(tmp_path, picture):
    # A name with letters beyond ASCII, and corners left of the frame's own zero.
    path = write_czi(tmp_path / "Gewebe é.czi", {0: (picture, (-1000, 50))})
    with open_slide(path) as slide:
        assert slide.dimensions == (601, 403)
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.25), "CZI metadata")
        assert np.array_equal(slide.read_region(0, 0, 601, 403, slide.mpp), picture)
        edge = slide.read_region(-10, -10, 20, 20, slide.mpp)
        assert (edge[:10] == 255).all()
        assert np.array_equal(edge[10:, 10:], picture[:10, :10])
        assert slide.warnings == ()


def test_where_nothing_was_scanned_between_two_tiles_it_is_white(tmp_path, picture):
    from pylibCZIrw import czi

    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as writer:
        for x in (0, 300):
            writer.write(picture[:100, :100, ::-1], location=(x, 0), scene=0)
        writer.write_metadata("made", scale_x=0.25e-6, scale_y=0.25e-6)
    with open_slide(path) as slide:
        assert slide.dimensions == (400, 100)
        gap = slide.read_region(90, 0, 220, 100, slide.mpp)
    assert (gap[:, 10:210] == 255).all()
    assert (gap[:, :10] < 255).any()


@pytest.mark.parametrize("levels", [(2, 4), (3, 9)])
def test_levels_of_the_pyramid_are_read_pixel_by_pixel(tmp_path, picture, levels):
    path = write_czi(tmp_path / "a.czi", {0: (picture, (7, -9))}, levels=levels)
    with open_slide(path) as slide:
        sizes = [(601, 403), *(shrunk(picture, d).shape[1::-1] for d in levels)]
        assert slide.level_dimensions == tuple(sizes)
        for downsample in levels:
            small = shrunk(picture, downsample)[:120, :180]
            height, width = small.shape[:2]
            read = slide.read_region(0, 0, width - 2, height - 2, slide.mpp * downsample)
            assert np.array_equal(read, small[: height - 2, : width - 2])


def test_a_level_off_the_grid_of_the_scan_is_not_read(tmp_path, picture):
    # The level's tile begins one pixel before the scan does.
    from pylibCZIrw import czi

    from .made_czi import as_level

    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as writer:
        writer.write(picture[..., ::-1], location=(1, 0), scene=0)
        writer.write(shrunk(picture, 2)[..., ::-1], location=(0, 0), scene=0)
        writer.write_metadata("made", scale_x=0.25e-6, scale_y=0.25e-6)
    as_level(path, (301, 202), 2)
    with open_slide(path) as slide:
        assert slide.level_dimensions == ((601, 403),)


def test_the_largest_scene_is_the_slide_and_the_others_are_named(tmp_path, picture):
    small = np.ascontiguousarray(picture[:100, :120])
    path = write_czi(tmp_path / "a.czi", {0: (small, (0, 0)), 1: (picture, (4000, 900))})
    with open_slide(path) as slide:
        assert slide.dimensions == (601, 403)
        assert slide.image_number == 1
        assert "1 other image" in slide.warnings[0]
        assert "0 (120 x 100 px" in slide.warnings[0]
        whole = slide.identity()
    with open_slide(path, series="0") as slide:
        assert np.array_equal(slide.read_region(0, 0, 120, 100, slide.mpp), small)
        assert slide.identity() != whole
    with pytest.raises(SlideError, match="no such image"):
        open_slide(path, series="7")


def test_a_pixel_size_that_the_file_lacks_is_asked_for(tmp_path, picture):
    path = write_czi(tmp_path / "a.czi", {0: (picture, (0, 0))}, mpp=None)
    with pytest.raises(PixelSizeError, match="states no pixel size"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "--mpp")


def test_fluorescence_is_refused_with_its_channels(tmp_path, picture):
    from pylibCZIrw import czi

    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as writer:
        for channel in (0, 1):
            writer.write(picture[..., :1], plane={"C": channel})
        writer.write_metadata(
            "made", channel_names={0: "DAPI", 1: "CD45"}, scale_x=0.25e-6, scale_y=0.25e-6
        )
    for force in (False, True):
        with pytest.raises(SlideError, match=r"2 channels \(DAPI, CD45\), as of immunofluor"):
            open_slide(path, force=force)


def test_a_grey_scan_is_refused_as_grey(tmp_path, picture):
    path = write_czi(tmp_path / "a.czi", {0: (picture[..., :1], (0, 0))})
    with pytest.raises(SlideError, match="1 channel of grey"):
        open_slide(path)


def test_of_a_stack_one_plane_is_read_if_forced(tmp_path, picture):
    from pylibCZIrw import czi

    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as writer:
        for z in range(3):
            writer.write(np.roll(picture, z, 0)[..., ::-1], plane={"Z": z})
        writer.write_metadata("made", scale_x=0.25e-6, scale_y=0.25e-6)
    with pytest.raises(SlideError, match="stack of 3 focus planes"):
        open_slide(path)
    with open_slide(path, force=True) as slide:
        assert np.array_equal(slide.read_region(0, 0, 601, 403, slide.mpp), picture)
        assert "--force" in slide.warnings[0]


@pytest.mark.parametrize("kept", [0.5, 0.98, 0.001])
def test_a_file_that_was_cut_short_is_told(tmp_path, picture, kept):
    path = write_czi(tmp_path / "a.czi", {0: (picture, (0, 0))})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(SlideError, match="was not copied whole"):
        open_slide(path)


def test_a_tile_that_is_damaged_is_told_and_not_white(tmp_path, picture):
    path = write_czi(tmp_path / "a.czi", {0: (picture, (0, 0))})
    data = bytearray(path.read_bytes())
    at = data.find(b"\x28\xb5\x2f\xfd")
    data[at : at + 100] = bytes(100)
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(SlideError, match="cannot be decoded"):
        slide.read_region(0, 0, 601, 403, slide.mpp)


def test_a_part_of_a_set_of_files_is_no_slide(tmp_path, picture):
    path = write_czi(tmp_path / "a.czi", {0: (picture, (0, 0))})
    data = bytearray(path.read_bytes())
    data[80] = 2
    path.write_bytes(data)
    with pytest.raises(SlideError, match="part 2 of a CZI"):
        open_slide(path)


def test_without_the_extra_the_command_that_installs_it_is_named(tmp_path, picture, monkeypatch):
    path = write_czi(tmp_path / "a.czi", {0: (picture, (0, 0))})
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(SlideError, match=r"pip install 'lymphinfer\[czi\]'"):
        open_slide(path)


def test_info_shows_the_scenes(tmp_path, picture):
    small = np.ascontiguousarray(picture[:100, :120])
    path = write_czi(
        tmp_path / "a.czi", {0: (small, (0, 0)), 1: (picture, (4000, 900))}, levels=(2,)
    )
    shown = CliRunner().invoke(app, ["info", str(path)]).output
    assert "pylibCZIrw" in shown
    assert "601 x 403 (1/1), 301 x 202 (1/2)" in shown
    assert "0.25 µm/px, by CZI metadata" in shown
    assert "predict would read image 1" in shown
