"""A result folder belongs to one slide: another of the same name goes elsewhere."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.cli.app import app

from .shared_scripts import make_case

OPTIONS = ["--bundle", "he-v1-fast", "--device", "cpu", "--workers", "1"]


def predict(*arguments: object) -> None:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments), *OPTIONS])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(18, tmp_path_factory.mktemp("case18"))


def test_the_first_patients_results_stay_and_the_second_ones_are_beside_them(
    case, tmp_path, caplog
):
    predict(case / "patient1" / "slide.tif", "--out", tmp_path)
    first = {p: p.read_bytes() for p in (tmp_path / "slide").rglob("*") if p.is_file()}
    predict(case / "patient2" / "slide.tif", "--out", tmp_path)
    assert {p: p.read_bytes() for p in first} == first
    assert "holds the results of another slide" in caplog.text
    summaries = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("*/summary.json"))]
    assert len({s["slide"]["identity"] for s in summaries}) == 2
    # Each command again finds its own.
    (one,) = find_jobs(case / "patient1" / "slide.tif", tmp_path)
    (two,) = find_jobs(case / "patient2" / "slide.tif", tmp_path)
    assert one.folder == tmp_path / "slide" != two.folder
    assert (two.folder / "slide.zip").is_file()


def test_a_scan_that_joins_a_folder_later_moves_no_results(case, tmp_path):
    later = tmp_path / "later"
    shutil.copytree(case / "later", later)
    predict(later / "a.tif", "--out", tmp_path / "out")
    shutil.copy(case / "a.ome.tif", later)
    jobs = {job.slide.name: job.folder.name for job in find_jobs(later, tmp_path / "out")}
    assert jobs == {"a.tif": "a", "a.ome.tif": "a.ome.tif"}
