"""The Snakemake workflow by the engine itself, on three small slides."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.prepared import annotations
from tests.predict.conftest import disc_bundle as disc_bundle
from tests.predict.conftest import disc_image, write_svs

ROOT = Path(__file__).resolve().parents[2]
ENGINE = os.environ.get("LYMPHINFER_SNAKEMAKE") or shutil.which("snakemake")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        ENGINE is None, reason="no snakemake on the path; set LYMPHINFER_SNAKEMAKE to the program"
    ),
]


@pytest.fixture
def program(tmp_path):
    """`lymphinfer` of this checkout as a command on the path."""
    command = tmp_path / "bin" / "lymphinfer"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m lymphinfer "$@"\n', "utf-8"
    )
    command.chmod(0o755)
    return command.parent


@pytest.fixture
def cohort(tmp_path):
    slides = tmp_path / "my slides"
    (slides / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.svs", "b (2).svs", "sub/a.svs")):
        write_svs(slides / name, disc_image(256, 256, seed=seed)[0])
    (tmp_path / "drawn").mkdir()
    annotations(tmp_path / "drawn" / "b (2).geojson")
    return slides


def run(cohort: Path, program: Path, bundle: Path, *more: str):
    return subprocess.run(
        [ENGINE, "-s", ROOT / "examples" / "workflow" / "Snakefile", "--cores", "1", *more,
         "--config", f"slides={cohort}", "out=results", "annotations=drawn", f"bundle={bundle}",
         "device=cpu", "threads=1", "options=--tile 256 --precision fp32"],
        cwd=cohort.parent, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{program}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""},
    )  # fmt: skip


def test_a_cohort_is_predicted_counted_and_told_and_a_second_run_does_nothing(
    cohort, program, disc_bundle, tmp_path
):
    done = run(cohort, program, disc_bundle)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "results"
    with (out / "cohort.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] == ["a.svs", "b (2).svs", "a.svs"]
    for row, name in zip(rows, ("a", "b (2)", "sub/a"), strict=True):
        summary = json.loads((out / name / "summary.json").read_text("utf-8"))
        assert int(row["nuclei"]) == summary["nuclei"] > 5
        assert row["CD45 evidence"] and float(row["CD45 expected_per_mm2"]) > 0
        assert (out / name / f"{Path(name).name}.zip").is_file()
    assert [path.parent.name for path in out.rglob("regions.csv")] == ["b (2)"]
    assert "b (2)" in (out / "report.html").read_text("utf-8")
    again = run(cohort, program, disc_bundle)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr


def test_a_slide_that_cannot_be_predicted_fails_alone_and_is_done_once_it_is_mended(
    cohort, program, disc_bundle, tmp_path
):
    whole = (cohort / "a.svs").read_bytes()
    (cohort / "a.svs").write_bytes(b"no slide")
    done = run(cohort, program, disc_bundle, "--keep-going")
    assert done.returncode != 0
    out = tmp_path / "results"
    assert (out / "sub" / "a" / "summary.json").is_file()
    assert (out / "b (2)" / "regions.csv").is_file() and not (out / "cohort.csv").exists()
    assert "not a slide" in (out / "logs" / "a.log").read_text("utf-8")
    (cohort / "a.svs").write_bytes(whole)
    assert run(cohort, program, disc_bundle).returncode == 0
    assert (out / "cohort.csv").is_file()


def test_two_slides_of_one_name_are_refused(cohort, program, disc_bundle):
    shutil.copy(cohort / "a.svs", cohort / "a.tif")
    done = run(cohort, program, disc_bundle)
    assert done.returncode != 0 and "would share one result folder" in done.stderr
