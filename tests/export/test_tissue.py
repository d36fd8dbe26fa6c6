"""The tissue and what is out of focus, as annotations and on the page."""

from __future__ import annotations

import json

import pytest
import shapely

from lymphinfer.annotations import read_annotations, read_roi
from lymphinfer.cells.areas import Areas, write_areas
from lymphinfer.errors import ResultError
from lymphinfer.export.report.slide import write_slide_report
from lymphinfer.export.results import open_result
from lymphinfer.export.views import ViewOptions, write_view
from tests.export.browser import open_page
from tests.export.results_made import made_nuclei, made_result, spread_centers

TISSUE = shapely.union(
    shapely.difference(shapely.box(150, 100, 1200, 1100), shapely.box(500, 500, 700.255, 700)),
    shapely.Point(1500, 600).buffer(200),
)
BLURRED = shapely.box(150, 100, 662, 612).intersection(TISSUE)


@pytest.fixture
def result(tmp_path):
    centers = spread_centers(60, dimensions=(2000, 1500))
    made = made_result(
        tmp_path / "a", [made_nuclei(centers, [0.4] * 60)], dimensions=(2000, 1500),
        bounds_offset=(100, 50),
    )  # fmt: skip
    write_areas(made.folder, Areas(TISSUE, BLURRED))
    return open_result(made.folder)


def test_annotations_as_qupath_takes_them(result):
    path = write_view(result, "tissue-geojson")
    assert path.name == "lung.tissue.geojson"
    content = json.loads(path.read_text("utf-8"))
    assert [f["properties"]["classification"]["name"] for f in content["features"]] == [
        "Tissue", "Out of focus",
    ]  # fmt: skip
    for feature in content["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid and feature["properties"]["objectType"] == "annotation"
        points = shapely.get_coordinates(shape)
        assert (abs(points * 100 - (points * 100).round()) < 1e-6).all()
        # A one-part MultiPolygon crashes QuPath 0.5.
        assert shape.geom_type == "Polygon" or len(shape.geoms) > 1
    # QuPath's image begins at the bounds.
    assert shapely.geometry.shape(content["features"][0]["geometry"]).bounds[:2] == (50, 50)
    assert write_view(result, "tissue-geojson").read_bytes() == path.read_bytes()


def test_what_was_exported_can_be_given_as_tissue(result):
    path = write_view(result, "tissue-geojson")
    given = read_roi(
        path, dimensions=(2000, 1500), offset=(100, 50), without_class=("Out of focus",)
    )
    assert given.area.area == pytest.approx(TISSUE.area, rel=1e-4)
    assert shapely.symmetric_difference(given.area, TISSUE).area < 1e-3 * TISSUE.area
    whole = write_view(result, "tissue-geojson", options=ViewOptions(crop_to_bounds=False))
    first = read_annotations(whole).items[0]
    assert first.geometry.bounds == pytest.approx(TISSUE.bounds, abs=0.02)


def test_results_without_areas_say_what_to_do(result):
    (result.folder / "areas.json").unlink()
    with pytest.raises(ResultError, match="run lymphinfer predict --redo"):
        write_view(result, "tissue-geojson")
    (result.folder / "areas.json").write_text("{")
    with pytest.raises(ResultError, match=r"areas\.json: cannot be read"):
        write_view(result, "tissue-geojson")


def test_the_page_draws_the_outline_and_what_is_out_of_focus(result):
    pytest.importorskip("jinja2", reason="the extra `report` is not installed")
    report = write_slide_report(result, figures=False)
    text = report.path.read_text("utf-8")
    assert 'class="tissue-line"' in text and 'class="blurred"' in text
    with open_page(report.path) as (page, _, said):
        box = page.locator("#areas").bounding_box()
        assert box is not None and box["width"] > 300
        drawn = page.evaluate("document.querySelector('.tissue-line').getBBox().width / 2000")
        assert drawn == pytest.approx((1700 - 150) / 2000, abs=0.01)
        page.uncheck("#show-areas")
        assert not page.locator("#areas").is_visible()
        assert said == []


def test_the_page_of_results_without_areas_has_no_outline(result):
    (result.folder / "areas.json").unlink()
    report = write_slide_report(result, figures=False)
    assert 'id="areas"' not in report.path.read_text("utf-8")
