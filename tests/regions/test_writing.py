"""What a measurement leaves in a result folder, and at the terminal."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
import shapely
from typer.testing import CliRunner

from lymphinfer.annotations import read_annotations
from lymphinfer.cli.app import app
from lymphinfer.errors import AnnotationError, ResultError
from lymphinfer.export.results import open_result
from lymphinfer.export.views import ViewOptions, write_view
from lymphinfer.regions import RegionOptions, read_margins, write_regions
from tests.export.qupath_rules import annotations_in_qupath
from tests.regions.made import PANEL, feature, result_at, rows_by_name, write_annotations

SIZE = (4000, 3000)
OWN_ID = "c0ffee00-0000-4000-8000-000000000001"
TUMOR = shapely.box(800, 800, 2800, 2300)


def centers(seed=0, n=900):
    rng = np.random.default_rng(seed)
    cluster = rng.normal((1500, 1500), 30, (40, 2))
    return np.round(np.concatenate([rng.uniform(50, (3950, 2950), (n, 2)), cluster]), 2)


@pytest.fixture
def result(tmp_path):
    places = centers()
    calls = np.where(np.arange(len(places)) < 900, np.arange(len(places)) % 4 == 0, 1)
    return result_at(tmp_path / "lung", places, calls=calls.astype(int), size=SIZE,
                     offset=(100, 50))  # fmt: skip


@pytest.fixture
def path(tmp_path):
    hole = shapely.difference(TUMOR, shapely.box(1800, 1200, 2200, 1600))
    return write_annotations(tmp_path / "lung.geojson", [
        feature(hole, "Tumor", "lesion", id=OWN_ID),
        feature(shapely.box(2900, 800, 3700, 2300), "Stroma"),
        feature(shapely.box(3000, 900, 3300, 1200)),
    ])  # fmt: skip


def options(*margins):
    return RegionOptions(read_margins(margins))


def test_qupath_takes_bands_and_annotations_with_measurements(result, path):
    done = write_regions(result, path, options("Tumor:100,200"))
    assert done.file.name == "lung.regions.geojson"
    found = annotations_in_qupath(done.file)
    by_name = {f["properties"].get("name", ""): f for f in found}
    lesion = by_name["lesion"]
    assert lesion["id"] == OWN_ID
    assert lesion["properties"]["classification"] == {"name": "Tumor", "color": [200, 0, 0]}
    # What was drawn in QuPath's frame comes back in it, whatever the slide's bounds.
    drawn = {item.name or item.class_name: item.geometry for item in read_annotations(path)}
    assert shapely.geometry.shape(lesion["geometry"]).equals(drawn["lesion"])
    row = rows_by_name(done.record)["lesion"]
    numbers = lesion["properties"]["measurements"]
    assert numbers["Nuclei"] == row["nuclei"] > 0
    assert numbers["CD45 called (stain)"] == row["markers"]["CD45"]["called"]
    assert numbers["CD8a expected per mm^2 (stain)"] == row["markers"]["CD8a"]["expected_per_mm2"]
    assert "CD8a called (stain)" not in numbers
    band = by_name["Tumor, 0-100 µm outside"]["properties"]
    assert band["classification"]["name"] == "Tumor, 0-100 µm outside"
    assert {"Tumor, 100-200 µm inside", "Tumor centre", "Tumor invasive margin, 200 µm"} <= set(
        by_name
    )
    assert "Aggregate 1" in by_name
    whole = write_view(result, "regions-geojson", options=ViewOptions(crop_to_bounds=False))
    moved = {f["properties"].get("name", ""): f for f in annotations_in_qupath(whole)}["lesion"]
    assert shapely.geometry.shape(moved["geometry"]).bounds == (900, 850, 2900, 2350)


def test_the_same_regions_give_the_same_bytes(result, path):
    first = write_regions(result, path, options("Tumor:100")).file.read_bytes()
    assert write_regions(result, path, options("Tumor:100")).file.read_bytes() == first


def test_the_table_has_a_row_a_region_with_evidence_and_intervals(result, path):
    done = write_regions(result, path, options("Tumor:100"))
    with (result.folder / "regions.csv").open(encoding="utf-8") as file:
        rows = {row["region"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(rows_by_name(done.record))
    row = rows["Tumor"]
    assert row["slide"] == "lung.svs" and row["kind"] == "class"
    assert row["CD3e evidence"] == "stain" and row["CD8a called"] == ""
    low, high = (float(row[f"CD45 expected_per_mm2_blocks_{end}"]) for end in ("low", "high"))
    assert low < float(row["CD45 expected_per_mm2"]) < high
    assert float(row["CD8a to CD3e expected"]) == pytest.approx(0.25)
    band = rows["Tumor, 0-100 µm inside"]
    assert float(band["nuclei median_distance_um"]) < 0
    assert float(band["CD45 nearest_called_um"]) >= 0
    assert float(rows["Tumor"]["aggregates"]) == 1
    assert rows["Unclassified 1"]["class"] == "Unclassified"


def test_anndata_knows_each_nucleus_region(result, path):
    anndata = pytest.importorskip("anndata", reason="the extra anndata is not installed")
    plain = anndata.read_h5ad(write_view(result, "anndata"))
    assert "region" not in plain.obs
    done = write_regions(result, path, options("Tumor:100"))
    data = anndata.read_h5ad(write_view(result, "anndata"))
    assert set(data.obs["region"].cat.categories) == {"Tumor", "Stroma", "Unclassified"}
    counts = data.obs["region"].value_counts()
    rows = rows_by_name(done.record)
    assert counts["Tumor"] == rows["Tumor"]["nuclei"]
    assert counts["Stroma"] == rows["Stroma"]["nuclei"] - rows["Unclassified"]["nuclei"]
    xy = data.obsm["spatial"] / 0.5 - (100, 50)
    hole = shapely.box(1800, 1200, 2200, 1600)
    inside = shapely.contains_xy(TUMOR, xy) & ~shapely.contains_xy(hole, xy)
    assert ((data.obs["region"] == "Tumor").to_numpy() == inside).all()
    assert ((data.obs["distance_um_Tumor"] < 0).to_numpy() == inside).all()
    assert data.obs["aggregate"].max() == 1 and data.obs["neighbours"].max() > 10


def test_regions_of_other_nuclei_are_not_shown(result, path):
    write_regions(result, path)
    summary = json.loads((result.folder / "summary.json").read_text("utf-8"))
    record = json.loads((result.folder / "regions.json").read_text("utf-8"))
    assert record["fingerprint"] == summary["arguments"]["fingerprint"]
    record["fingerprint"] = "another"
    (result.folder / "regions.json").write_text(json.dumps(record))
    with pytest.raises(ResultError, match="measure the regions first"):
        write_view(open_result(result.folder), "regions-geojson")
    (result.folder / "regions.json").write_text("{")
    with pytest.raises(ResultError, match="run lymphinfer regions again"):
        write_view(open_result(result.folder), "regions-geojson")


def run(*arguments):
    return CliRunner(env={"COLUMNS": "220"}).invoke(app, ["regions", *map(str, arguments)])


def test_the_command_prints_the_table_and_the_file_for_qupath(result, path):
    done = run(result.folder, "--annotations", path, "--margin", "tumor:100")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [str(result.folder / "lung.regions.geojson")]
    said = done.stderr
    assert "Tumor, 0-100 µm outside" in said and "never called" in said and "stain" in said
    assert "CD8a: only expected, never called" in said and "Aggregates: 1" in said


def test_many_slides_share_one_table_and_a_broken_one_is_named(tmp_path):
    (tmp_path / "drawn").mkdir()
    for name in ("a", "b", "c"):
        result_at(tmp_path / "out" / name, centers(n=60), name=f"{name}.svs", size=SIZE)
        if name != "c":
            write_annotations(tmp_path / "drawn" / f"{name}.geojson", [feature(TUMOR, "Tumor")])
    done = run(tmp_path / "out", "--annotations", tmp_path / "drawn")
    assert done.exit_code == 1
    assert "no annotations for it" in done.stderr
    table = pd.read_csv(tmp_path / "out" / "regions.csv")
    assert table.groupby("slide").size().to_dict() == {"a.svs": 3, "b.svs": 3}
    alone = run(tmp_path / "out", "--annotations", tmp_path / "drawn" / "a.geojson")
    assert isinstance(alone.exception, AnnotationError)
    assert "is one file, but" in str(alone.exception)


def reference(path, n=20):
    rows = [f"s{i}," + ",".join(str(100 * (i + 1)) for _ in range(4)) for i in range(n)]
    names = [f"{m} {place}" for m in PANEL.scored for place in ("centre", "margin")]
    path.write_text("\n".join([",".join(["slide", *names]), *rows]))
    return path


def test_a_score_has_its_interval_and_its_evidence(result, path, tmp_path):
    known = reference(tmp_path / "reference.csv")
    done = run(result.folder, "-a", path, "--margin", "Tumor:150", "--reference", known)
    assert done.exit_code == 0, done.output
    record = json.loads((result.folder / "regions.json").read_text("utf-8"))
    (score,) = record["scores"]
    low, high = score["interval"]
    assert 0 <= low <= score["score"] <= high <= 100 and low < high
    rows = rows_by_name(record)
    for place, name in (("centre", "Tumor centre"), ("margin", "Tumor invasive margin, 150 µm")):
        density = rows[name]["markers"]["CD3e"]["expected_per_mm2"]
        got = score["percentiles"][f"CD3e {place}"]
        assert got["per_mm2"] == density
        assert got["percentile"] == 100 * np.mean(100 * np.arange(1, 21) < density)
    middle = np.mean([p["percentile"] for p in score["percentiles"].values()])
    assert score["score"] == pytest.approx(middle, abs=0.06)
    assert score["evidence"]["CD8a"].startswith("stain, one patient")
    assert "Immune score Tumor" in done.stderr and "not a clinical assay" in done.stderr


def test_a_score_is_refused_in_words(tmp_path, path):
    from tests.export.results_made import EVIDENCE

    known = reference(tmp_path / "reference.csv")
    guessed = result_at(tmp_path / "g", centers(), size=SIZE, evidence=EVIDENCE)
    said = run(guessed.folder, "-a", path, "--margin", "Tumor:50", "--reference", known).stderr
    assert "only where the evidence of CD3e and CD8a is stain (CD3e: base-rate" in said
    good = result_at(tmp_path / "h", centers(), size=SIZE)
    small = reference(tmp_path / "small.csv", 5)
    said = run(good.folder, "-a", path, "--margin", "Tumor:50", "--reference", small).stderr
    assert "the reference has 5 slides" in said
    said = run(good.folder, "-a", path, "--margin", "Tumor:50", "--reference", "batch").stderr
    assert "this batch has 1 slides" in said
    said = run(good.folder, "-a", path, "--reference", known).stderr
    assert "it needs the margin of a class" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,CD3e centre\na,1\n", "the reference has no column CD3e margin"),
        ("CD3e centre,CD3e margin,CD8a centre,CD8a margin\n1,2,3,x\n", "line 2 of the reference"),
    ],
)
def test_a_damaged_reference_is_named(result, path, tmp_path, text, message):
    (tmp_path / "r.csv").write_text(text)
    done = run(
        result.folder, "-a", path, "--margin", "Tumor:100", "--reference", tmp_path / "r.csv"
    )
    assert isinstance(done.exception, AnnotationError) and message in str(done.exception)


def test_the_report_shows_bands_table_and_bars(result, path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    from lymphinfer.export.report.slide import write_slide_report
    from tests.export.browser import open_page

    plain = write_slide_report(result, figures=False).path.read_text("utf-8")
    assert "region-table" not in plain
    write_regions(result, path, options("Tumor:100,200"))
    # The maps as files, most of the work, are those of any report.
    monkeypatch.setattr("lymphinfer.export.report.slide._save_maps", lambda *given: None)
    page_path = write_slide_report(result, figures=True).path
    assert (result.folder / "figures" / "regions.png").stat().st_size > 5000
    with open_page(page_path) as (page, asked, said):
        rows = page.locator("#region-table tbody tr")
        texts = [rows.nth(i).inner_text() for i in range(rows.count())]
        outside = next(text for text in texts if text.startswith("Tumor, 0-100 µm outside"))
        assert "never called" in outside and "–" in outside
        legend = page.locator("#region-map + figcaption").inner_text()
        assert "Annotations:" in legend and "Tumor, 0-100 µm outside" in legend
        beyond = "box => box.parentElement.scrollWidth - box.parentElement.clientWidth"
        assert page.locator("#region-table").evaluate(beyond) <= 0
        box = page.locator("#region-map path.region-line").first.bounding_box()
        whole = page.locator("#region-map").bounding_box()
        # The lesion begins at 900 of 4000 px and is 2000 px wide.
        assert box["width"] / whole["width"] == pytest.approx(0.5, abs=0.02)
        assert (box["x"] - whole["x"]) / whole["width"] == pytest.approx(900 / 4000, abs=0.02)
    assert said == [] and all(url.startswith(("file:", "data:")) for url in asked)


def test_derived_classes_keep_their_names_and_come_after_their_parents(result, tmp_path):
    drawn = [
        feature(shapely.box(100, 100, 900, 900), "Tumor"),
        feature(shapely.box(1000, 100, 1900, 900), "Tumor"),
    ]
    drawn[0]["properties"]["classification"] = {"names": ["Tumor", "Necrotic"], "color": [1, 2, 3]}
    path = write_annotations(tmp_path / "derived.geojson", drawn)
    done = write_regions(result, path, options("Tumor: Necrotic:50"))
    found = [f["properties"]["classification"] for f in annotations_in_qupath(done.file)]
    assert found[-1] == {"names": ["Tumor", "Necrotic"], "color": [1, 2, 3]}
    assert "Tumor Necrotic, 0-50 µm inside" in [given.get("name") for given in found]


def test_a_class_that_qupath_refuses_is_named(result, tmp_path):
    drawn = [feature(shapely.box(100, 100, 900, 900), "two\nlines")]
    path = write_annotations(tmp_path / "odd.geojson", drawn)
    with pytest.raises(ResultError, match="a colon or a line break, which QuPath refuses"):
        write_regions(result, path)


def test_two_annotations_of_one_id_get_two(result, tmp_path):
    drawn = [feature(shapely.box(x, 100, x + 500, 900), "Tumor", id=OWN_ID) for x in (100, 1000)]
    path = write_annotations(tmp_path / "twice.geojson", drawn)
    ids = [f["id"] for f in annotations_in_qupath(write_regions(result, path).file)]
    assert OWN_ID in ids and len(set(ids)) == len(ids)


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_every_interval_whole(result, path, width):
    import io

    from rich.console import Console

    from lymphinfer.cli.regions import print_record

    record = write_regions(result, path, options("Tumor:100,200")).record
    text = io.StringIO()
    print_record(Console(file=text, width=width), record)
    said = text.getvalue()
    assert "…" not in said
    for row in record["rows"]:
        for values in row["markers"].values():
            interval = values["expected_per_mm2_blocks"] or values["expected_per_mm2_cells"]
            if values["expected_per_mm2"] is not None:
                assert f"{interval[0]:,.0f}-{interval[1]:,.0f}" in said
