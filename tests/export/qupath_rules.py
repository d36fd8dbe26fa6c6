"""QuPath's rules for GeoJSON, checked on the decoded files with json, geojson and shapely alone.

Written from the contract, not from the writer: `objects_in_qupath` returns what QuPath would show,
or raises AssertionError with the rule that is broken.
"""

import gzip
import json
import math
import uuid
import zipfile
from itertools import pairwise

import geojson
import shapely


def collections(path):
    """Decoded FeatureCollections of a file, in order, and their raw text."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            assert names == sorted(set(names))
            assert all(name.endswith(".geojson") and "/" not in name for name in names)
            texts = [archive.read(name) for name in names]
    elif path.name.endswith(".geojson.gz"):
        texts = [gzip.decompress(path.read_bytes())]
    else:
        assert path.suffix == ".geojson", "QuPath imports no objects from other suffixes"
        texts = [path.read_bytes()]
    for text in texts:
        assert not geojson.loads(text).errors(), "no valid GeoJSON by RFC 7946"
    return [(json.loads(text, parse_constant=refuse), text) for text in texts]


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON number")


def objects_in_qupath(path):
    """Features that QuPath would import, after checking each one."""
    found = []
    for collection, _ in collections(path):
        assert collection["type"] == "FeatureCollection"
        assert isinstance(collection["features"], list)
        found += collection["features"]
        check_lineage_order(collection["features"])
    for feature in found:
        check_feature(feature)
    ids = [feature["id"] for feature in found]
    assert len(set(ids)) == len(ids), "an id comes twice"
    return found


def lineage(feature):
    """Names of a feature's class, the root first."""
    given = feature["properties"].get("classification", {})
    return tuple(given.get("names") or filter(None, [given.get("name")]))


def check_lineage_order(features):
    """A parent that is read after its child has lost its colour."""
    depths = [len(lineage(feature)) for feature in features]
    assert depths == sorted(depths), "a derived class stands before a shorter one"


def colors_in_qupath(path):
    """Colours that each class may have after the import, whichever part QuPath reads first.

    None stands for one that QuPath makes up, for the parent of a class that it has not met.
    """
    colors = {}
    for collection, _ in collections(path):
        here = {}
        for feature in collection["features"]:
            names = lineage(feature)
            here.setdefault(names, tuple(feature["properties"]["classification"]["color"]))
            for depth in range(1, len(names)):
                here.setdefault(names[:depth], None)
        for names, color in here.items():
            colors.setdefault(names, set()).add(color)
    return colors


def check_feature(feature):
    assert feature["type"] == "Feature"
    assert str(uuid.UUID(feature["id"])) == feature["id"]
    assert set(feature) <= {"type", "id", "geometry", "nucleusGeometry", "properties"}
    assert all(value is not None for value in feature.values())
    properties = feature["properties"]
    assert properties["objectType"] in ("detection", "cell")
    assert "type" not in properties
    assert all(value is not None for value in properties.values())
    if "classification" in properties:
        check_class(properties["classification"])
    for name, value in properties.get("measurements", {}).items():
        assert name.strip()
        assert isinstance(value, (int, float)) and not isinstance(value, bool)
        assert math.isfinite(value) and abs(value) < 3.5e38
    check_geometry(feature["geometry"])


def check_class(classification):
    assert set(classification) <= {"name", "names", "color"}
    assert ("name" in classification) != ("names" in classification)
    names = classification.get("names", [classification.get("name")])
    assert names and all(isinstance(n, str) and n.strip() and ":" not in n for n in names)
    color = classification["color"]
    assert len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)


def check_geometry(geometry):
    assert set(geometry) == {"type", "coordinates"}
    if geometry["type"] == "Point":
        check_positions([geometry["coordinates"]])
        return
    assert geometry["type"] == "Polygon"
    assert len(geometry["coordinates"]) == 1, "a nucleus has no holes"
    ring = geometry["coordinates"][0]
    assert ring[0] == ring[-1], "a ring must close exactly"
    assert 4 <= len(ring) <= 21
    check_positions(ring)
    assert all(a != b for a, b in pairwise(ring))
    polygon = shapely.Polygon(ring)
    assert polygon.is_valid and polygon.area > 0
    snapped = shapely.set_precision(polygon, 0.01)
    assert snapped.geom_type == "Polygon" and not snapped.is_empty and snapped.area > 0


def check_positions(positions):
    for position in positions:
        assert len(position) == 2
        assert all(math.isfinite(v) and round(v, 2) == v for v in position)


def annotations_in_qupath(path):
    """Annotations that QuPath would import, after checking each one."""
    ((collection, _),) = collections(path)
    found = collection["features"]
    check_lineage_order(found)
    for feature in found:
        check_annotation(feature)
    ids = [feature["id"] for feature in found]
    assert len(set(ids)) == len(ids), "an id comes twice"
    return found


def check_annotation(feature):
    assert set(feature) <= {"type", "id", "geometry", "properties"}
    assert str(uuid.UUID(feature["id"])) == feature["id"]
    properties = feature["properties"]
    assert properties["objectType"] == "annotation" and "type" not in properties
    assert all(value is not None for value in properties.values())
    if "classification" in properties:
        check_class(properties["classification"])
    for name, value in properties["measurements"].items():
        assert name.strip()
        assert isinstance(value, (int, float)) and not isinstance(value, bool)
        assert math.isfinite(value) and abs(value) < 3.5e38
    shape = shapely.geometry.shape(feature["geometry"])
    assert shape.geom_type == "Polygon" or (
        shape.geom_type == "MultiPolygon" and len(shape.geoms) > 1
    ), "a one-part MultiPolygon crashes QuPath 0.5.1"
    assert shape.is_valid and shape.area > 0
    assert all(round(v, 2) == v for v in shapely.get_coordinates(shape).ravel())
    snapped = shapely.set_precision(shape, 0.01)
    assert snapped.geom_type == shape.geom_type and not snapped.is_empty
