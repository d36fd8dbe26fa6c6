"""What programs other than the newest QuPath write."""

from __future__ import annotations

import json
import math
import zipfile

import pytest
import shapely

from lymphinfer.annotations import read_annotations
from lymphinfer.errors import AnnotationError

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]


def feature(geometry=None, **properties):
    polygon = {"type": "Polygon", "coordinates": [SQUARE]}
    return {"type": "Feature", "geometry": geometry or polygon, "properties": properties}


@pytest.fixture
def read(tmp_path):
    def reading(value, **options):
        path = tmp_path / "a.geojson"
        text = value if isinstance(value, str) else json.dumps(value)
        path.write_text(text, **({"encoding": "utf-8"} | options))
        return read_annotations(path)

    return reading


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"classification": {"name": "Tumor", "color": [1, 2, 3]}}, "Tumor"),
        ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
        ({"classification": {"name": "Tumor: Positive", "colorRGB": -3670016}}, "Tumor: Positive"),
        ({"classification": "Tumor"}, "Tumor"),
        ({"classification": ["Tumor", "Positive"]}, "Tumor: Positive"),
        # geopandas writes nested values as text.
        ({"classification": '{ "name": "Tumor", "color": [ 200, 0, 0 ] }'}, "Tumor"),
        ({"classification": "{'name': 'Tumor', 'color': [200, 0, 0]}"}, "Tumor"),
        ({"class_name": "Tumor"}, "Tumor"),
        ({"label": "Tumor"}, "Tumor"),
        ({"group": "Tumor"}, "Tumor"),
        ({"label": 12}, None),
        ({"label": "12"}, None),
        ({"classification": None}, None),
        ({"classification": {"name": None}}, None),
        ({}, None),
    ],
)
def test_classes_however_they_are_written(read, properties, name):
    (found,) = read(feature(**properties))
    assert found.class_name == name


@pytest.mark.parametrize(
    "marked",
    [
        {"properties": {"objectType": "detection"}},
        {"properties": {"object_type": "cell"}},
        {"properties": {"Object type": "Detection"}},
        {"properties": {"type": "tile"}},
        {"properties": {"objectType": "tmaCore"}},
        {"properties": {"objectType": "annotation"}, "nucleusGeometry": {"type": "Polygon"}},
        {"properties": {}, "id": "PathDetectionObject"},
        {"properties": {}, "id": "PathCellObject"},
        {"properties": None, "objectType": "detection"},
    ],
)
def test_detections_are_never_annotations(read, marked):
    found = read([{**feature(), **marked}, feature(classification="Tumor")])
    assert [item.class_name for item in found] == ["Tumor"]
    assert len(found.notes) == 1 and found.notes[0].endswith(
        "passed over, which are not annotations: 1"
    )


@pytest.mark.parametrize(
    "marked",
    [
        {"properties": {"objectType": "annotation"}},
        {"properties": {"type": "Annotation"}},
        {"properties": {"type": "Tumor"}},
        {"id": "PathAnnotationObject"},
        {"properties": None},
    ],
)
def test_annotations_are_taken_whatever_names_them(read, marked):
    assert len(read({**feature(), **marked})) == 1


def test_children_in_a_collection_of_their_own_are_read(read):
    inner = {"type": "FeatureCollection", "features": [feature(classification="Inner")]}
    outer = feature(classification="Outer") | {"childObjects": inner}
    assert [item.class_name for item in read(outer)] == ["Outer", "Inner"]


def test_children_lie_at_any_depth(read):
    inner = feature(classification="Inner", childObjects=[feature(objectType="detection")])
    outer = {"type": "Feature", "geometry": None,
             "properties": {"objectType": "root",
                            "childObjects": [feature(classification="Outer",
                                                     childObjects=[inner])]}}  # fmt: skip
    found = read(outer)
    assert [item.class_name for item in found] == ["Outer", "Inner"]
    assert found.notes == ("detections passed over, which are not annotations: 1",)


def test_shapes_that_need_mending_are_mended_with_a_word(read):
    bow_tie = [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]
    two = [[SQUARE], [[[5, 0], [15, 0], [15, 10], [5, 10]]]]
    outside = [SQUARE, [[20, 20], [30, 20], [30, 30], [20, 20]]]
    mixed = {"type": "GeometryCollection",
             "geometries": [{"type": "Point", "coordinates": [1, 1]},
                            {"type": "Polygon", "coordinates": [SQUARE]}]}  # fmt: skip
    found = read([
        feature({"type": "Polygon", "coordinates": bow_tie}),
        feature({"type": "MultiPolygon", "coordinates": two}),
        feature({"type": "Polygon", "coordinates": outside}),
        feature(mixed),
        feature({"type": "LineString", "coordinates": [[0, 0], [5, 5]]}),
        feature({"type": "Polygon", "coordinates": []}),
    ])  # fmt: skip
    areas = [item.geometry.area for item in found]
    assert areas == pytest.approx([50, 150, 100, 100])
    assert all(shapely.is_valid(item.geometry) for item in found)
    told = "\n".join(found.notes)
    assert "cross themselves mended: 1" in told
    assert "points or lines passed over, which have no area: 2" in told


OPEN = {"type": "Polygon", "coordinates": [SQUARE[:-1]]}
TRIANGLE = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4]]]}


def test_what_the_format_forbids_is_read_and_told_with_the_features_numbers(read):
    both = {"type": "GeometryCollection", "geometries": [feature()["geometry"], OPEN]}
    detection = feature(OPEN, objectType="detection")
    found = read([feature(), feature(OPEN), feature(TRIANGLE), detection, *[feature(both)] * 3])
    assert [item.geometry.area for item in found] == [100, 100, 8, 100, 100, 100]
    assert found.notes[1:] == (
        "features 2, 5, 6 and 1 more read although no valid GeoJSON: each linear ring must end "
        "where it started",
        "feature 3 read although no valid GeoJSON: each linear ring must contain at least 4 "
        "positions",
    )


def test_vertices_are_those_of_the_file_to_the_last_digit(read):
    ring = [[0.123456789012, 0], [10, 0], [10, 10.000000012345], [0.123456789012, 0]]
    (found,) = read(feature({"type": "Polygon", "coordinates": [ring]}))
    assert shapely.get_coordinates(found.geometry).tolist() == ring


@pytest.mark.parametrize(
    ("coordinates", "words"),
    [
        (SQUARE, "feature 1 .*each linear ring must contain at least 4 positions"),
        ("0 0, 1 1", "feature 1 .*each polygon must be a list of linear rings"),
        ([["a", "b", "c", "d"]], "feature 1 .*each linear ring must end where it started"),
        (7, "feature 1 .*each polygon must be a list of linear rings"),
    ],
)
def test_a_damaged_outline_is_told_in_the_formats_words(read, coordinates, words):
    with pytest.raises(AnnotationError, match=words):
        read(feature({"type": "Polygon", "coordinates": coordinates}))


def test_measurements_of_both_kinds_keep_what_is_a_number(read):
    text = json.dumps([
        feature(measurements={"a": 1, "b": "NaN", "c": float("nan"), "d": None, "e": "red"}),
        feature(measurements=[{"name": "a", "value": 2.5}]),
    ])  # fmt: skip
    first, second = read(text)
    assert first.measurements["a"] == 1 and math.isnan(first.measurements["b"])
    assert set(first.measurements) == {"a", "b", "c"}
    assert second.measurements == {"a": 2.5}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(read, encoding):
    value = json.dumps([feature(classification="größer")], ensure_ascii=False)
    (found,) = read(value, encoding=encoding)
    assert found.class_name == "größer"


def test_another_encoding_is_told(read):
    value = json.dumps([feature(classification="größer")], ensure_ascii=False)
    found = read(value, encoding="cp1252")
    assert found.items[0].class_name == "größer" and "Windows-1252" in found.notes[0]


def test_a_zip_with_what_macs_put_in_it(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/._a.geojson", b"\x00\x05")
        archive.writestr("a-0001.geojson", json.dumps([feature()]))
        archive.writestr("a-0002.geojson", json.dumps([feature()]))
    assert len(read_annotations(path)) == 2


def test_features_one_a_line_and_one_after_the_other(read):
    line = json.dumps(feature())
    assert len(read(f"{line}\n{line}\n\n")) == 2
    assert len(read(json.dumps(feature(), indent=2) * 2)) == 2
    assert len(read({"features": [feature()]})) == 1
    assert len(read({"type": "FeatureCollection", "features": None})) == 0


@pytest.mark.parametrize("value", [{"images": [], "annotations": []}, [1, 2], "words", 3, {}])
def test_other_json_is_refused_with_what_it_holds(read, value):
    with pytest.raises(AnnotationError, match=r"holds no features|not a readable GeoJSON"):
        read(value)


def test_a_damaged_feature_is_named(read):
    with pytest.raises(AnnotationError, match="feature 2 is not as QuPath writes it"):
        read([feature(), feature({"type": "Polygon", "coordinates": [[["a", 0], [1, 1]]]})])
    with pytest.raises(AnnotationError, match="geometry type 'Circle'"):
        read(feature({"type": "Circle", "coordinates": [0, 0]}))


@pytest.mark.parametrize(
    ("given", "color"),
    [
        ({"name": "Tumor", "color": [200, 0, 10]}, (200, 0, 10)),
        ({"name": "Tumor", "colorRGB": -3670006}, (200, 0, 10)),
        ('{"name": "Tumor", "color": [200, 0, 10]}', (200, 0, 10)),
        ({"name": "Tumor"}, None),
        ({"name": "Tumor", "color": [200, 0, 300]}, None),
        ({"name": "Tumor", "color": "red"}, None),
    ],
)
def test_the_colour_of_a_class_is_kept(read, given, color):
    (found,) = read(feature(classification=given))
    assert found.class_name == "Tumor" and found.color == color
