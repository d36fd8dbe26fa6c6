"""What other programs read from the exported tables, against the nucleus table."""

import json
import uuid

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lymphinfer.errors import ResultError
from lymphinfer.export.tables import write_csv, write_parquet
from lymphinfer.export.views import VIEWS, ViewOptions, write_view
from tests.cells.nuclei_made import nuclei
from tests.export.qupath_rules import objects_in_qupath
from tests.export.results_made import circles, made_nuclei, made_result, spread_centers

COLUMNS = [
    "label", "id", "x_px", "y_px", "x_um", "y_um", "area_um2", "detection_probability",
    "cd45_probability", "cd3e_probability", "cd4_probability", "cd8a_probability", "call",
]  # fmt: skip


@pytest.fixture
def tables():
    centers = spread_centers(60)
    cd45 = np.random.default_rng(1).uniform(0, 1, 60)
    return [made_nuclei(centers[:40], cd45[:40]), made_nuclei(centers[40:], cd45[40:])]


@pytest.fixture
def result(tmp_path, tables):
    return made_result(tmp_path / "lung", tables, bounds_offset=(100, 50))


def rows_of(tables):
    return [row for table in tables for row in table.to_pylist()]


def assert_same_numbers(frame, rows):
    assert list(frame.columns) == COLUMNS
    assert frame["label"].tolist() == list(range(1, len(rows) + 1))
    assert frame["id"].tolist() == [str(uuid.UUID(bytes=row["id"])) for row in rows]
    assert frame["call"].tolist() == [row["call"] for row in rows]
    for ours, theirs in [
        ("x_px", "x"), ("y_px", "y"), ("area_um2", "area_um2"),
        ("detection_probability", "detection_probability"), ("cd45_probability", "p_cd45"),
        ("cd8a_probability", "p_cd8a"),
    ]:  # fmt: skip
        np.testing.assert_allclose(frame[ours], [row[theirs] for row in rows], rtol=1e-6)
    np.testing.assert_allclose(frame["x_um"], [row["x"] * 0.25 for row in rows], atol=6e-4)
    np.testing.assert_allclose(frame["y_um"], [row["y"] * 0.25 for row in rows], atol=6e-4)


def test_pandas_and_polars_read_the_numbers_of_the_table(result, tables, tmp_path):
    path = write_csv(tmp_path / "lung.csv", result)
    assert_same_numbers(pd.read_csv(path), rows_of(tables))
    polars = pytest.importorskip("polars")
    frame = polars.read_csv(path)
    assert frame.columns == COLUMNS
    assert frame["area_um2"].to_list() == pd.read_csv(path)["area_um2"].tolist()


def test_the_columns_of_the_csv_are_described_beside_it(result, tmp_path):
    write_csv(tmp_path / "lung.csv", result)
    described = json.loads((tmp_path / "lung.csv-metadata.json").read_text("utf-8"))
    columns = {column["name"]: column for column in described["tableSchema"]["columns"]}
    assert list(columns) == COLUMNS
    assert columns["area_um2"]["unit"] == "µm²"
    assert "base rate" in columns["cd8a_probability"]["dc:description"]
    assert described["lymphinfer"]["bundle_sha256"] == "ab" * 32


def test_parquet_carries_units_and_provenance(result, tables, tmp_path):
    path = write_parquet(tmp_path / "lung.parquet", result)
    assert_same_numbers(pd.read_parquet(path), rows_of(tables))
    schema = pq.read_schema(path)
    assert schema.field("x_um").metadata[b"unit"].decode() == "µm"
    assert json.loads(schema.metadata[b"lymphinfer.provenance"])["bundle"] == "he-v1"


def test_missing_numbers_are_empty_fields_and_morphology_follows(tmp_path):
    table = nuclei(
        circles([[100, 100], [200, 200]]),
        probabilities=np.array([[0.5, np.nan, 0.2, 0.1], [0.5, 0.4, 0.2, 0.1]]),
        extras={"roundness": [0.5, 1.0]},
    )
    result = made_result(tmp_path / "a", [table])
    frame = pd.read_csv(write_csv(tmp_path / "a.csv", result))
    assert list(frame.columns) == [*COLUMNS, "roundness"]
    assert frame["cd3e_probability"].isna().sum() == 1
    assert sorted(frame["roundness"]) == [0.5, 1.0]


def test_a_slide_without_nuclei_gives_a_header(tmp_path):
    result = made_result(tmp_path / "a", [nuclei(np.empty((0, 32, 2)))])
    frame = pd.read_csv(write_csv(tmp_path / "a.csv", result))
    assert list(frame.columns) == COLUMNS and frame.empty
    assert pd.read_parquet(write_parquet(tmp_path / "a.parquet", result)).empty


@pytest.mark.parametrize("fmt", ["zip", "geojson.gz", "geojson"])
def test_geojson_is_the_file_for_qupath_again(result, tables, fmt):
    path = write_view(result, "geojson", options=ViewOptions(format=fmt))
    assert path == result.folder / f"lung.{fmt}"
    found = objects_in_qupath(path)
    ids = sorted(uuid.UUID(f["id"]).bytes for f in found)
    assert ids == sorted(row["id"] for row in rows_of(tables))


def test_points_stand_on_the_centroids_as_qupath_crops_the_image(result, tables):
    path = write_view(result, "geojson-points")
    assert path.name == "lung.points.zip"
    found = objects_in_qupath(path)
    assert {f["geometry"]["type"] for f in found} == {"Point"}
    assert {f["properties"]["objectType"] for f in found} == {"detection"}
    # In the file nuclei stand by class.
    rows = {row["id"]: (row["x"], row["y"]) for row in rows_of(tables)}
    for feature in found:
        x, y = rows[uuid.UUID(feature["id"]).bytes]
        assert feature["geometry"]["coordinates"] == pytest.approx([x - 100, y - 50])
    assert len(found[0]["properties"]["measurements"]) == 6
    uncropped = write_view(result, "geojson-points", options=ViewOptions(crop_to_bounds=False))
    for feature in objects_in_qupath(uncropped):
        place = rows[uuid.UUID(feature["id"]).bytes]
        assert feature["geometry"]["coordinates"] == pytest.approx(place)


def test_a_name_for_the_file_decides_its_format(result, tmp_path):
    path = write_view(result, "geojson", tmp_path / "mine.geojson")
    assert path == tmp_path / "mine.geojson"
    assert objects_in_qupath(path)


def test_a_folder_as_file_is_refused_with_a_name_to_use(result, tmp_path):
    with pytest.raises(ResultError, match=r"lung\.csv"):
        write_view(result, "csv", tmp_path)


def test_a_result_that_lost_a_part_leaves_no_half_file(result):
    sorted((result.folder / "parts").iterdir())[0].unlink()
    for view in VIEWS:
        before = sorted(result.folder.iterdir())
        with pytest.raises(ResultError, match=r"predict (again|--redo)|spatialdata|regions RESULT"):
            write_view(result, view)
        assert sorted(result.folder.iterdir()) == before
