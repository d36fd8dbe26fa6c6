"""Names that are not UTF-8: one done row, the others done, and every file can be read."""

from __future__ import annotations

import csv
import json
import os
import sys

import orjson
import pytest
from typer.testing import CliRunner

from lymphinfer.cli.app import app

from .shared_scripts import make_case

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems know no names that are not UTF-8"
)
OPTIONS = ["--bundle", "he-v1-fast", "--device", "cpu", "--workers", "1"]
ODD = "Gr\udcf6\udcdfe"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(19, tmp_path_factory.mktemp("case19"))


def command(*arguments: object):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.slow
def test_the_whole_batch_is_done(case, tmp_path):
    command("predict", case, "--out", tmp_path, *OPTIONS)
    with (tmp_path / "batch.csv").open(encoding="utf-8") as file:
        rows = {os.path.basename(r["slide"]): r for r in csv.DictReader(file)}  # noqa: PTH119
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(
        ("good1.tif", "good2.tif", r"Gr\xf6\xdfe.tif"), "done"
    )
    assert orjson.loads((tmp_path / "batch.json").read_bytes())["done"] == 3


@pytest.mark.slow
def test_slide_out_and_annotations_may_all_have_such_names(case, tmp_path):
    roi = tmp_path / f"{ODD}.geojson"
    ring = [[0, 0], [600, 0], [600, 500], [0, 500], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
               "properties": {"objectType": "annotation"}}  # fmt: skip
    roi.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    out = tmp_path / f"out {ODD}"
    slide = case / f"{ODD}.tif"
    command("predict", slide, "--out", out, "--roi", roi, "--report", *OPTIONS)
    (folder,) = (p for p in out.iterdir() if p.is_dir() and p.name != "runs")
    assert folder.name.startswith("Gr%F6%DFe~")
    for path in folder.rglob("*.json"):
        orjson.loads(path.read_bytes())
    assert json.loads((folder / "summary.json").read_text("utf-8"))["slide"]["name"] == (
        r"Gr\xf6\xdfe.tif"
    )
    page = (folder / "report.html").read_bytes().decode("utf-8")
    assert r"Gr\xf6\xdfe.tif" in page
    for view in ("csv", "parquet", "ome-xml", "geojson-points"):
        command("export", folder, "--to", view)
    assert "1 done" in command("status", out).output
    assert r"Gr\xf6\xdfe" in command("predict", slide, "--out", out, "--dry-run").output
