"""The default bundle on a real slide: what a pathologist would check first."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from scipy.spatial import cKDTree

from lymphinfer.batch.single import predict_slide
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides import open_slide, tissue_mask
from tests.slides.made import write_svs

pytestmark = pytest.mark.slow
MPP = 0.499


def nuclei(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, polygons and centroids in µm."""
    with zipfile.ZipFile(path) as archive:
        found = [f for n in archive.namelist() for f in json.loads(archive.read(n))["features"]]
    rings = [shapely.Polygon(f["geometry"]["coordinates"][0]) for f in found]
    polygons = np.array(rings, dtype=object)
    return (
        [f["id"] for f in found],
        polygons,
        shapely.get_coordinates(shapely.centroid(polygons)) * MPP,
    )


@pytest.fixture(scope="module")
def piece(real_slide, tmp_path_factory) -> Path:
    """A part of it: enough nuclei for what is asked here, in a quarter of the time."""
    with open_slide(real_slide) as slide:
        image = slide.read_region(400, 700, 1400, 1300, slide.mpp)
    return write_svs(tmp_path_factory.mktemp("slides") / "piece.svs", image, mpp=MPP)


@pytest.fixture(scope="module")
def reference(piece, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    return predict_slide(piece, folder, settings=PredictSettings(device="cpu", workers=4))


def test_nuclei_are_many_apart_and_valid_for_qupath(reference):
    ids, polygons, centers = nuclei(reference.file)
    assert len(ids) > 1000
    assert len(set(ids)) == len(ids)
    assert not cKDTree(centers).query_pairs(1.0)
    snapped = shapely.set_precision(polygons, 0.01)
    assert shapely.is_valid(polygons).all()
    assert (shapely.get_type_id(snapped) == shapely.GeometryType.POLYGON).all()
    assert not shapely.is_empty(snapped).any()


def test_most_nuclei_lie_on_dark_pixels(reference, piece):
    _, _, centers = nuclei(reference.file)
    with open_slide(piece) as slide:
        red = slide.read_region(0, 0, *slide.dimensions, slide.mpp)[..., 0].astype(float)
    x, y = np.clip((centers / MPP).astype(int).T, 0, np.array(red.shape[::-1])[:, None] - 1)
    assert np.median(red[y, x]) < np.median(red[red < 230]) - 30


@pytest.mark.parametrize("changes", [{"tile_px": 512}, {"workers": 1}])
def test_other_tiles_and_workers_see_the_same_nuclei(reference, piece, tmp_path, changes):
    settings = PredictSettings(device="cpu", **{"workers": 4, **changes})
    other = predict_slide(piece, tmp_path, settings=settings)
    ids, _, a = nuclei(reference.file)
    other_ids, _, b = nuclei(other.file)
    with open_slide(piece) as slide:
        tissue = tissue_mask(slide)
    # What bytes round up or down hangs on the least difference, as at a tile's edge.
    same = 0.93 if other.summary["arguments"]["precision"] == "int8" else 0.995
    for one, two in ((a, b), (b, a)):
        # Where there is no tissue, which tiles are looked at depends on their size.
        x, y = (two / MPP).T
        two = two[tissue.fraction_in(x, y, 0.01, 0.01) > 0]
        assert len(two) > 1000
        distance, _ = cKDTree(one).query(two)
        assert (distance < 1.0).mean() >= same
    if "workers" in changes:
        assert ids == other_ids
