"""Annotations as QuPath exports them."""

from __future__ import annotations

import gzip
import json
import zipfile

import numpy as np
import pytest
import shapely

from lymphinfer.annotations import find_roi, read_roi
from lymphinfer.errors import AnnotationError

SIZE = (1000, 800)


def box(x0, y0, x1, y1, *, name=None, kind="annotation"):
    properties = {"objectType": kind}
    if name:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    geometry = shapely.geometry.mapping(shapely.box(x0, y0, x1, y1))
    return {"type": "Feature", "id": "a", "geometry": geometry, "properties": properties}


@pytest.fixture
def written(tmp_path):
    def write(*features, name="slide.geojson"):
        path = tmp_path / name
        content = json.dumps({"type": "FeatureCollection", "features": features})
        path.write_text(content)
        return path

    return write


def test_overlapping_annotations_count_once_and_the_offset_is_added(written):
    path = written(box(0, 0, 100, 100), box(50, 0, 150, 100))
    roi = read_roi(path, dimensions=SIZE, offset=(30, 20))
    assert roi.area.equals(shapely.box(30, 20, 180, 120))
    assert (roi.annotations, roi.classes) == (2, ("Unclassified",))
    assert roi.area_mm2(0.5) == pytest.approx(150 * 100 * 0.25 / 1e6)


def test_only_the_classes_that_were_asked_for(written):
    path = written(
        box(0, 0, 10, 10, name="Tumor"),
        box(20, 0, 30, 10, name="Stroma"),
        box(40, 0, 50, 10, name="Tumor", kind="detection"),
        box(60, 0, 70, 10),
    )
    roi = read_roi(path, dimensions=SIZE, within_class=["tumor"])
    assert roi.area.equals(shapely.box(0, 0, 10, 10))
    assert roi.classes == ("Tumor",)
    with pytest.raises(AnnotationError, match=r"class Necrosis; it has 1 Stroma, 1 Tumor, 1 Uncl"):
        read_roi(path, dimensions=SIZE, within_class=["Necrosis"])


def test_what_qupath_ignores_is_cut_out(written):
    path = written(box(0, 0, 100, 100), box(40, 40, 60, 60, name="Ignore*"))
    roi = read_roi(path, dimensions=SIZE)
    assert roi.area.area == 100 * 100 - 20 * 20
    assert list(roi.contains([10, 50, 500], [10, 50, 500])) == [True, False, False]


def test_a_derived_class_is_written_as_in_qupath(written):
    feature = box(0, 0, 10, 10)
    feature["properties"]["classification"] = {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}
    roi = read_roi(written(feature), dimensions=SIZE, within_class=["Tumor: Positive"])
    assert roi.annotations == 1


def test_a_bow_tie_drawn_by_hand_is_repaired(written):
    feature = box(0, 0, 1, 1)
    feature["geometry"]["coordinates"] = [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]
    roi = read_roi(written(feature), dimensions=SIZE)
    assert roi.area.is_valid and roi.area.area == pytest.approx(50)


@pytest.mark.parametrize("wrap", [lambda f: f[0], lambda f: f, lambda f: f[0]["geometry"]])
def test_other_ways_to_wrap_an_annotation(tmp_path, wrap):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(wrap([box(5, 5, 15, 15)])))
    assert read_roi(path, dimensions=SIZE).area.area == 100


def test_compressed_exports(tmp_path, written):
    raw = written(box(5, 5, 15, 15)).read_bytes()
    packed = tmp_path / "a.geojson.gz"
    packed.write_bytes(gzip.compress(raw))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.geojson", raw)
    for path in (packed, tmp_path / "a.zip"):
        assert read_roi(path, dimensions=SIZE).area.area == 100


def test_mask_and_boxes_agree_with_shapely(written):
    triangle = box(0, 0, 1, 1)
    triangle["geometry"]["coordinates"] = [[[100, 50], [700, 300], [200, 650], [100, 50]]]
    roi = read_roi(written(triangle), dimensions=SIZE)
    mask = roi.mask((100, 125), 8.0)
    rows, columns = np.mgrid[:100, :125]
    centers = shapely.points((columns + 0.5) * 8, (rows + 0.5) * 8)
    np.testing.assert_array_equal(mask, shapely.within(centers, roi.area))
    assert mask.sum() * 64 == pytest.approx(roi.area.area, rel=0.02)
    boxes = np.array([[0, 0, 100, 49], [0, 0, 200, 200], [300, 300, 310, 310], [650, 0, 999, 99]])
    assert list(roi.meets(boxes)) == [False, True, True, False]


def test_nothing_to_use_is_said_with_what_to_do(tmp_path, written):
    with pytest.raises(AnnotationError, match="no annotation with an area"):
        read_roi(written(), dimensions=SIZE)
    with pytest.raises(AnnotationError, match="drawn on another image"):
        read_roi(written(box(5000, 5000, 6000, 6000)), dimensions=SIZE)
    broken = tmp_path / "broken.geojson"
    broken.write_text('{"type": "FeatureCollection", "features": [{"type"')
    with pytest.raises(AnnotationError, match=r"broken\.geojson: not a readable GeoJSON"):
        read_roi(broken, dimensions=SIZE)
    with pytest.raises(AnnotationError, match=r"none\.geojson"):
        read_roi(tmp_path / "none.geojson", dimensions=SIZE)
    feature = box(0, 0, 10, 10)
    feature["geometry"]["coordinates"] = [[["a", 0], [10, 10]]]
    with pytest.raises(AnnotationError, match="feature 2 is not as QuPath writes it"):
        read_roi(written(box(0, 0, 5, 5), feature), dimensions=SIZE)


def test_a_folder_holds_a_file_a_slide(tmp_path, written):
    slide = tmp_path / "scans" / "lung.svs"
    with pytest.raises(AnnotationError, match=r"lung\.geojson or lung\.svs\.geojson"):
        find_roi(tmp_path, slide)
    path = written(box(0, 0, 5, 5), name="lung.geojson")
    assert find_roi(tmp_path, slide) == path == find_roi(path, slide)
    exact = written(box(0, 0, 5, 5), name="lung.svs.geojson")
    assert find_roi(tmp_path, slide) == exact
