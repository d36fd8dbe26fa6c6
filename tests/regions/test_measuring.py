"""Counts and areas of made geometry, exact."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from lymphinfer.errors import AnnotationError
from lymphinfer.regions import RegionOptions, measure_regions, read_margins
from tests.export.results_made import EVIDENCE
from tests.regions.made import (
    MPP,
    SIZE,
    feature,
    grid_points,
    result_at,
    rows_by_name,
    write_annotations,
)

MM2 = MPP**2 / 1e6


def asked(*margins):
    return RegionOptions(read_margins(margins))


def test_a_polygon_with_holes_counts_what_lies_between(tmp_path):
    centers = grid_points()
    result = result_at(tmp_path / "a", centers)
    shape = shapely.difference(
        shapely.box(1000, 1000, 5000, 4000),
        shapely.union(shapely.box(1500, 1500, 2000, 2000), shapely.box(3000, 2000, 4000, 3500)),
    )  # fmt: skip
    path = write_annotations(tmp_path / "a.geojson", [feature(shape, "Tumor", "lesion")])
    rows = rows_by_name(measure_regions(result, path).record)
    n = 40 * 30 - 5 * 5 - 10 * 15
    for name in ("Tumor", "lesion"):
        row = rows[name]
        assert row["nuclei"] == n
        assert row["area_mm2"] == pytest.approx((12e6 - 0.25e6 - 1.5e6) * MM2, rel=1e-9)
        assert row["tissue_mm2"] == row["area_mm2"]
        assert row["nuclei_per_mm2"] == pytest.approx(n / row["area_mm2"], rel=1e-5)
        assert row["markers"]["CD45"]["expected"] == pytest.approx(0.5 * n)
        assert row["markers"]["CD3e"]["expected_fraction"] == pytest.approx(0.25)
    assert rows["lesion"]["kind"] == "annotation" and rows["lesion"]["class"] == "Tumor"
    assert rows["All tissue"]["nuclei"] == len(centers)


def test_bands_around_two_touching_annotations_have_no_border_between_them(tmp_path):
    centers = grid_points(step=40)
    result = result_at(tmp_path / "a", centers)
    whole = shapely.box(2000, 2000, 5000, 4000)
    halves = [feature(shapely.box(2000, 2000, 3500, 4000), "Tumor"),
              feature(shapely.box(3500, 2000, 5000, 4000), "Tumor")]  # fmt: skip
    path = write_annotations(tmp_path / "a.geojson", halves)
    rows = rows_by_name(measure_regions(result, path, asked("Tumor:100,500")).record)
    points = shapely.points(centers)
    inside = shapely.contains_properly(whole, points)
    far = shapely.distance(whole.boundary, points) * MPP
    for low, high in ((0, 100), (100, 500)):
        for side, here in (("inside", inside), ("outside", ~inside)):
            row = rows[f"Tumor, {low}-{high} µm {side}"]
            assert row["nuclei"] == (here & (far >= low) & (far < high)).sum()
    # Inside bands are frames of rectangles; outside ones have round corners.
    assert rows["Tumor, 0-100 µm inside"]["area_mm2"] == pytest.approx(
        (3000 * 2000 - 2600 * 1600) * MM2, rel=1e-5
    )
    assert rows["Tumor, 100-500 µm inside"]["area_mm2"] == pytest.approx(
        (2600 * 1600 - 1000 * 0) * MM2, rel=1e-5
    )
    assert rows["Tumor, 0-100 µm outside"]["area_mm2"] == pytest.approx(
        (2 * 200 * (3000 + 2000) + np.pi * 200**2) * MM2, rel=1e-3
    )
    assert rows["Tumor, 100-500 µm outside"]["area_mm2"] == pytest.approx(
        (2 * 800 * (3000 + 2000) + np.pi * (1000**2 - 200**2)) * MM2, rel=1e-3
    )
    margin = rows["Tumor invasive margin, 500 µm"]
    assert margin["nuclei"] == sum(row["nuclei"] for row in rows.values() if row["kind"] == "band")
    assert rows["Tumor centre"]["nuclei"] == 0 and rows["Tumor centre"]["area_mm2"] == 0
    assert rows["Tumor 1"]["nuclei"] + rows["Tumor 2"]["nuclei"] == rows["Tumor"]["nuclei"]


def test_a_gap_of_a_pixel_between_annotations_is_no_border(tmp_path):
    centers = grid_points(step=40)
    result = result_at(tmp_path / "a", centers)
    halves = [feature(shapely.box(2000, 2000, 3500, 4000), "Tumor"),
              feature(shapely.box(3501, 2000, 5000, 4000), "Tumor")]  # fmt: skip
    path = write_annotations(tmp_path / "a.geojson", halves)
    rows = rows_by_name(measure_regions(result, path, asked("Tumor:100")).record)
    inside = (centers > (2200, 2200)).all(1) & (centers < (4800, 3800)).all(1)
    assert rows["Tumor centre"]["nuclei"] == inside.sum()


def test_qupath_draws_in_a_frame_that_begins_at_the_bounds(tmp_path):
    centers = grid_points()
    result = result_at(tmp_path / "a", centers, offset=(700, 300))
    drawn = shapely.box(300, 700, 1300, 1700)
    path = write_annotations(tmp_path / "a.geojson", [feature(drawn, "Tumor")])
    measured = measure_regions(result, path, asked("Tumor:100"))
    row = rows_by_name(measured.record)["Tumor"]
    level0 = shapely.box(1000, 1000, 2000, 2000)
    assert shapely.geometry.shape(row["geometry"]).equals(level0)
    assert row["nuclei"] == 100
    inside = (centers > 1000).all(1) & (centers < 2000).all(1)
    table = measured.nuclei.to_pydict()
    places = {bytes(i): (x, y) for t in result.tables() for i, x, y in zip(
        t["id"].to_pylist(), t["x"].to_pylist(), t["y"].to_pylist(), strict=True)}  # fmt: skip
    got = {places[i] for i, region in zip(table["id"], table["region"], strict=True) if region}
    assert got == set(map(tuple, centers[inside].tolist()))
    uncropped = result_at(tmp_path / "b", centers, offset=(700, 300), crop=False)
    row = rows_by_name(measure_regions(uncropped, path).record)["Tumor"]
    assert shapely.geometry.shape(row["geometry"]).equals(drawn)


def test_regions_end_at_the_tissue_and_at_the_image(tmp_path):
    centers = grid_points()
    result = result_at(tmp_path / "a", centers, tissue=shapely.box(0, 0, 8000, 3000))
    path = write_annotations(tmp_path / "a.geojson",
                             [feature(shapely.box(-500, 2000, 2000, 4000), "Tumor")])  # fmt: skip
    record = measure_regions(result, path, asked("Tumor:100")).record
    rows = rows_by_name(record)
    tumor = rows["Tumor"]
    assert tumor["area_mm2"] == pytest.approx(2000 * 2000 * MM2)
    assert tumor["tissue_mm2"] == pytest.approx(2000 * 1000 * MM2)
    assert tumor["nuclei"] == 200 and tumor["nuclei_off_tissue"] == 200
    assert any("200 of its nuclei lie outside of the tissue" in w for w in record["warnings"])
    # The image ends at x = 0, the tumour does not: no border there.
    inside = rows["Tumor, 0-100 µm inside"]
    assert inside["area_mm2"] == pytest.approx((2000 * 2000 - 1800 * 1600) * MM2, rel=1e-5)
    assert inside["tissue_mm2"] == pytest.approx((2000 * 1000 - 1800 * 800) * MM2, rel=1e-5)
    assert inside["nuclei"] == 20 * 10 - 18 * 8
    outside = shapely.geometry.shape(rows["Tumor, 0-100 µm outside"]["geometry"])
    assert outside.bounds == pytest.approx((0, 1800, 2200, 3000))


def test_ignored_annotations_are_cut_out_and_make_no_border(tmp_path):
    centers = grid_points()
    result = result_at(tmp_path / "a", centers)
    path = write_annotations(tmp_path / "a.geojson", [
        feature(shapely.box(1000, 1000, 5000, 5000), "Tumor"),
        feature(shapely.box(2500, 2500, 3500, 3500), "Ignore*"),
    ])  # fmt: skip
    rows = rows_by_name(measure_regions(result, path, asked("Tumor:100")).record)
    assert rows["Tumor"]["nuclei"] == 40 * 40 - 10 * 10
    assert rows["Tumor centre"]["nuclei"] == 36 * 36 - 10 * 10
    assert rows["Tumor, 0-100 µm inside"]["nuclei"] == 40 * 40 - 36 * 36
    assert rows["All tissue"]["nuclei"] == len(centers) - 100
    assert not any("Ignore" in name for name in rows)


def test_each_nucleus_knows_its_class_and_distance(tmp_path):
    centers = np.array([[1000.0, 1500.0], [1300.0, 1500.0], [2500.0, 2500.0], [900.0, 900.0]])
    result = result_at(tmp_path / "a", centers)
    path = write_annotations(tmp_path / "a.geojson", [
        feature(shapely.box(1100, 1000, 3000, 4000), "Tumor"),
        feature(shapely.box(2400, 2400, 2600, 2600), "Necrosis"),
    ])  # fmt: skip
    measured = measure_regions(result, path, asked("tumor:100"))
    table = measured.nuclei.to_pandas()
    xs = np.concatenate([t["x"].to_numpy() for t in result.tables()])
    got = dict(zip(xs, zip(table["region"], table["distance_um: Tumor"], table["band: Tumor"],
                           strict=True), strict=True))  # fmt: skip
    assert got[1300.0][0] == "Tumor" and got[2500.0][0] == "Necrosis"
    assert isinstance(got[1000.0][0], float) and np.isnan(got[1000.0][0])
    assert got[1000.0][1] == pytest.approx(50) and got[1300.0][1] == pytest.approx(-100)
    assert got[2500.0][1] == pytest.approx(-250)
    assert got[900.0][1] == pytest.approx(np.hypot(100, 50), abs=0.01)
    assert got[1000.0][2] == "Tumor, 0-100 µm outside"
    inside = rows_by_name(measured.record)["Tumor centre"]
    # 100 µm deep is no longer in the band from 0 to 100.
    assert inside["nuclei"] == 2
    assert inside["distance_um"]["nuclei"]["p90"] == pytest.approx(-100)


def test_a_marker_that_is_never_called_is_only_expected(tmp_path):
    centers = grid_points()
    calls = np.where(np.arange(len(centers)) % 2, 2, 0)
    path = write_annotations(tmp_path / "a.geojson",
                             [feature(shapely.box(0, 0, 1000, 1000), "Tumor")])  # fmt: skip
    record = measure_regions(result_at(tmp_path / "a", centers, calls=calls), path).record
    row = rows_by_name(record)["Tumor"]
    assert row["markers"]["CD45"]["called"] == row["markers"]["CD3e"]["called"] == 50
    assert row["markers"]["CD8a"]["called"] is None
    ratio = {r["child"]: r for r in row["ratios"]}["CD8a"]
    assert ratio["expected"] == pytest.approx(0.25) and ratio["called"] is None
    assert ratio["note"] == "CD8a: only expected, never called"
    assert "CD8a: only expected, never called." in record["warnings"]
    guessed = result_at(tmp_path / "b", centers, calls=calls, evidence=EVIDENCE)
    record = measure_regions(guessed, path).record
    ratio = {r["child"]: r for r in rows_by_name(record)["Tumor"]["ratios"]}["CD8a"]
    assert ratio["refused"] == "nothing was learned for CD8a and CD3e" and "expected" not in ratio


def test_what_cannot_be_measured_says_why(tmp_path):
    result = result_at(tmp_path / "a", grid_points())
    path = write_annotations(tmp_path / "a.geojson",
                             [feature(shapely.box(0, 0, 1000, 1000), "Tumor")])  # fmt: skip
    with pytest.raises(AnnotationError, match=r"no annotation of class Stroma .* it has 1 Tumor"):
        measure_regions(result, path, asked("Stroma:100"))
    with pytest.raises(AnnotationError, match="write it like Tumor:500"):
        asked("Tumor")
    with pytest.raises(AnnotationError, match="write it like Tumor:500"):
        asked("Tumor:100,-5")
    beyond = write_annotations(tmp_path / "b.geojson",
                               [feature(shapely.box(9000, 0, 9900, 1000), "Tumor")])  # fmt: skip
    with pytest.raises(AnnotationError, match="no annotation to measure on the slide of 8000"):
        measure_regions(result, beyond)


def test_a_slide_without_nuclei_has_zeros(tmp_path):
    result = result_at(tmp_path / "a", np.empty((0, 2)))
    path = write_annotations(tmp_path / "a.geojson",
                             [feature(shapely.box(0, 0, 1000, 1000), "Tumor")])  # fmt: skip
    measured = measure_regions(result, path, asked("Tumor:100"))
    row = rows_by_name(measured.record)["Tumor"]
    assert row["nuclei"] == 0 and row["markers"]["CD45"]["expected_per_mm2"] == 0
    assert measured.nuclei.num_rows == 0
    assert tuple(result.dimensions) == SIZE


def test_results_without_an_outline_of_the_tissue_say_so(tmp_path):
    result = result_at(tmp_path / "a", grid_points())
    (result.folder / "areas.json").unlink()
    path = write_annotations(tmp_path / "a.geojson",
                             [feature(shapely.box(0, 0, 1000, 1000), "Tumor")])  # fmt: skip
    record = measure_regions(result, path).record
    assert rows_by_name(record)["Tumor"]["tissue_mm2"] == pytest.approx(1e6 * MM2)
    assert any("keep no outline of the tissue" in warning for warning in record["warnings"])


def test_overlapping_classes_count_a_nucleus_each(tmp_path):
    result = result_at(tmp_path / "a", grid_points())
    path = write_annotations(tmp_path / "a.geojson", [
        feature(shapely.box(0, 0, 2000, 2000), "Tumor"),
        feature(shapely.box(1000, 0, 2000, 1000), "Tumor", "inner"),
        feature(shapely.box(1500, 0, 3000, 2000), "Stroma"),
    ])  # fmt: skip
    rows = rows_by_name(measure_regions(result, path).record)
    assert rows["Tumor"]["nuclei"] == 400, "the inner annotation is part of the outer"
    assert rows["inner"]["nuclei"] == 100 and rows["Stroma"]["nuclei"] == 300


def test_a_slide_without_tissue_has_no_densities(tmp_path):
    result = result_at(tmp_path / "a", grid_points(500), tissue=shapely.MultiPolygon())
    path = write_annotations(tmp_path / "a.geojson",
                             [feature(shapely.box(0, 0, 1000, 1000), "Tumor")])  # fmt: skip
    record = measure_regions(result, path, asked("Tumor:100")).record
    row = rows_by_name(record)["Tumor"]
    assert row["tissue_mm2"] == 0 and row["nuclei"] == 0 and row["nuclei_off_tissue"] == 4
    assert row["nuclei_per_mm2"] is None
    assert row["markers"]["CD45"]["expected_per_mm2"] is None
    assert "refused" in record["hot_spots"]
