"""Regions are counted with the prediction, and again only when they change."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.batch.run import run_jobs
from lymphinfer.batch.single import predict_slide, this_process
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.cells.regions import is_stale
from lymphinfer.errors import AnnotationError, LymphinferError
from lymphinfer.export.regions import record_of
from lymphinfer.export.results import open_result
from lymphinfer.predict.settings import PredictSettings

from .conftest import disc_image, write_svs


def square(left: int, right: int, name: str) -> dict[str, object]:
    ring = [(left, 40), (right, 40), (right, 470), (left, 470), (left, 40)]
    properties = {"objectType": "annotation", "classification": {"name": name}}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def written(path: Path, right: int = 300) -> Path:
    features = [square(40, right, "Tumor"), square(right + 20, 600, "Stroma")]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    image, _ = disc_image(640, 512, spacing=56)
    return write_svs(tmp_path_factory.mktemp("regions") / "discs.svs", image)


@pytest.fixture(scope="module")
def settings(disc_bundle):
    return PredictSettings(bundle=str(disc_bundle), device="cpu", runtime="torch", workers=1)


def test_a_prediction_counts_by_regions_and_again_when_they_change(
    slide, settings, disc_bundle, tmp_path
):
    bundle = load_bundle(disc_bundle)
    path = written(tmp_path / "a.geojson")
    asked = replace(settings, regions=str(path), margins=("Tumor:20",))
    first = predict_slide(slide, tmp_path / "r", settings=asked, bundle=bundle)
    rows = {row["region"]: row for row in first.summary["regions"]["rows"]}
    assert {"Tumor", "Stroma", "Tumor invasive margin, 20 µm"} <= set(rows)
    assert rows["Tumor"]["nuclei"] + rows["Stroma"]["nuclei"] > 30
    assert rows["Tumor"]["markers"]["CD45"]["evidence"] == "morphology"
    record = record_of(open_result(first.folder))
    assert record is not None and (first.folder / "regions.csv").is_file()
    again = predict_slide(slide, tmp_path / "r", settings=asked, bundle=bundle)
    assert again.resumed_shards == again.shards
    for name in ("regions", "seconds"):
        assert again.summary[name] == json.loads(json.dumps(first.summary[name]))
    # Drawn anew: counted anew, and no nucleus is computed again.
    written(path, right=200)
    third = predict_slide(slide, tmp_path / "r", settings=asked, bundle=bundle)
    fewer = {row["region"]: row for row in third.summary["regions"]["rows"]}
    assert fewer["Tumor"]["nuclei"] < rows["Tumor"]["nuclei"]
    assert third.resumed_shards == third.shards
    # Without regions the earlier result is as good.
    plain = predict_slide(slide, tmp_path / "r", settings=settings, bundle=bundle)
    assert plain.summary["regions"] == third.summary["regions"]
    # Other nuclei: the regions of the earlier ones are gone.
    other = replace(settings, hierarchy="none")
    predict_slide(slide, tmp_path / "r", settings=other, bundle=bundle)
    assert not (tmp_path / "r" / "regions.json").exists()


def test_a_margin_of_a_class_that_is_not_there_costs_no_prediction(slide, settings, tmp_path):
    path = written(tmp_path / "a.geojson")
    asked = replace(settings, regions=str(path), margins=("Necrosis:20",))
    with pytest.raises(AnnotationError, match="no annotation of class Necrosis for --margin"):
        predict_slide(slide, tmp_path / "r", settings=asked)
    assert not list((tmp_path / "r").glob("parts/*"))
    with pytest.raises(LymphinferError, match="--margin: needs --regions"):
        predict_slide(slide, tmp_path / "r", settings=replace(settings, margins=("Tumor:20",)))
    with pytest.raises(LymphinferError, match="not a class and its distances"):
        replace(settings, margins=("Tumor",))


def test_a_batch_has_a_row_a_slide_and_region(slide, settings, tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    slides = tmp_path / "slides"
    slides.mkdir()
    for name, right in (("a", 200), ("b", 300)):
        shutil.copy(slide, slides / f"{name}.svs")
        written(folder / f"{name}.geojson", right)
    listed = tmp_path / "list.csv"
    listed.write_text("slide,out,regions\n" + "".join(
        f"slides/{n}.svs,{n},annotations/{n}.geojson\n" for n in "ab"))  # fmt: skip
    out = tmp_path / "out"
    done = run_jobs(find_jobs(listed, out), out, settings, place=this_process())
    assert len(done.done) == 2, done.failed
    with (out / "regions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tumors = {
        row["slide"]: row for row in rows if row["kind"] == "class" and row["class"] == "Tumor"
    }
    assert set(tumors) == {"a.svs", "b.svs"}
    assert int(tumors["a.svs"]["nuclei"]) < int(tumors["b.svs"]["nuclei"])


def test_regions_of_other_nuclei_are_told_stale(slide, settings, tmp_path):
    path = written(tmp_path / "a.geojson")
    asked = replace(settings, regions=str(path))
    result = predict_slide(slide, tmp_path / "r", settings=asked)
    record = json.loads((result.folder / "regions.json").read_text())
    mark = result.summary["arguments"]["fingerprint"]
    assert not is_stale(result.folder, mark)
    (result.folder / "regions.json").write_text(json.dumps(record | {"fingerprint": "other"}))
    assert is_stale(result.folder, mark)
    from lymphinfer.export.report.slide import write_slide_report

    page = write_slide_report(open_result(result.folder), figures=False).path.read_text("utf-8")
    assert "Regions are not shown" in page
    pytest.importorskip("anndata", reason="the extra anndata is not installed")
    from typer.testing import CliRunner

    from lymphinfer.cli.app import app
    from lymphinfer.export.scverse import to_anndata

    data = to_anndata(open_result(result.folder))
    assert "region" not in data.obs
    assert "lymphinfer regions again" in data.uns["lymphinfer"]["regions_left_out"]
    done = CliRunner().invoke(app, ["export", str(result.folder), "--to", "anndata"])
    assert done.exit_code == 0 and "its regions are left out" in done.output
