"""The label image at the nuclei's places, at any pixel size and level."""

import numpy as np
import pyarrow as pa
import pytest
import tifffile

from lymphinfer.cells.outlines import Rings
from lymphinfer.errors import ResultError
from lymphinfer.export.label_image import draw_labels
from lymphinfer.export.views import ViewOptions, write_view
from tests.cells.nuclei_made import nuclei
from tests.export.results_made import circles, made_nuclei, made_result, spread_centers


@pytest.fixture
def tables():
    centers = spread_centers(400)
    # Two parts with nuclei all over the slide: no part has its place to itself.
    return [made_nuclei(part, np.full(len(part), 0.3)) for part in (centers[:150], centers[150:])]


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.4])
def test_a_nucleus_has_its_row_as_label_at_its_centre(tmp_path, tables, mpp):
    result = made_result(tmp_path / "a", tables)
    path = write_view(result, "labels", options=ViewOptions(mpp=mpp))
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome and tif.is_bigtiff
        page = tif.pages[0]
        assert page.is_tiled and page.dtype == np.uint32
        image = tif.asarray()
        assert f'PhysicalSizeX="{mpp}"' in tif.ome_metadata
    assert image.shape == (round(1500 * 0.25 / mpp), round(2000 * 0.25 / mpp))
    whole = pa.concat_tables(tables)
    x, y = (whole[c].to_numpy() * 0.25 / mpp for c in "xy")
    assert (image[y.astype(int), x.astype(int)] == np.arange(1, 401)).all()
    area_px = np.bincount(image.ravel(), minlength=401)[1:]
    np.testing.assert_allclose(area_px * mpp**2, whole["area_um2"].to_numpy(), rtol=0.2)
    assert abs(area_px.sum() * mpp**2 / whole["area_um2"].to_numpy().sum() - 1) < 0.02


def test_coarser_levels_hold_labels_and_no_means(tmp_path, tables):
    result = made_result(tmp_path / "a", tables)
    path = write_view(result, "labels")
    with tifffile.TiffFile(path) as tif:
        levels = tif.series[0].levels
        assert [level.shape for level in levels] == [(1500, 2000), (750, 1000)]
        fine, coarse = levels[0].asarray(), levels[1].asarray()
    assert set(np.unique(coarse)) <= set(np.unique(fine))
    # The coarse pixel's centre is the corner of four fine ones.
    agree = np.zeros(coarse.shape, bool)
    for dy in (0, 1):
        for dx in (0, 1):
            agree |= coarse == fine[dy::2, dx::2]
    assert agree.all()


def test_a_nucleus_smaller_than_a_pixel_keeps_one(tmp_path):
    result = made_result(tmp_path / "a", [made_nuclei([[1000, 700], [1500, 900]], [0.1, 0.2])])
    path = write_view(result, "labels", options=ViewOptions(mpp=10))
    assert sorted(tifffile.imread(path).ravel())[-3:] == [0, 1, 2]


def test_the_same_drawing_by_asking_every_pixel():
    import shapely

    rings = circles([[10.3, 12.1], [18.2, 14.7]], 7.4)
    out = np.zeros((30, 30), np.uint32)
    flat = Rings(rings.reshape(-1, 2), np.array([0, 32, 64]))
    draw_labels(out, flat, np.array([7, 9], np.uint32))
    centers = np.stack(np.meshgrid(np.arange(30) + 0.5, np.arange(30) + 0.5), -1).reshape(-1, 2)
    wanted = np.zeros(900, int)
    for label, ring in ((7, rings[0]), (9, rings[1])):
        wanted[shapely.contains_xy(shapely.Polygon(ring), centers)] = label
    assert (out.ravel() == wanted).all()


def test_a_slide_without_nuclei_is_all_background(tmp_path):
    result = made_result(tmp_path / "a", [nuclei(np.empty((0, 32, 2)))], dimensions=(700, 600))
    assert not tifffile.imread(write_view(result, "labels")).any()


@pytest.mark.parametrize("mpp", [0.1, 11, -1])
def test_a_pixel_size_out_of_range_is_named(tmp_path, tables, mpp):
    result = made_result(tmp_path / "a", tables)
    with pytest.raises(ResultError, match=r"0\.125 to 10 µm/px"):
        write_view(result, "labels", options=ViewOptions(mpp=mpp))
