"""``lymphinfer export`` at the terminal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.errors import ResultError
from tests.export.qupath_rules import objects_in_qupath
from tests.export.results_made import made_nuclei, made_result, spread_centers


@pytest.fixture
def root(tmp_path):
    table = made_nuclei(spread_centers(20), np.linspace(0, 1, 20))
    made_result(tmp_path / "a", [table], name="a.svs")
    made_result(tmp_path / "sub" / "b", [table], name="b.svs")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_every_slide_of_a_root_gets_its_table_beside_its_summary(root):
    done = run(root, "--to", "csv")
    assert done.exit_code == 0
    wanted = [root / "a" / "a.csv", root / "sub" / "b" / "b.csv"]
    assert done.stdout.splitlines() == [str(path) for path in wanted]
    assert all(len(pd.read_csv(path)) == 20 for path in wanted)


@pytest.mark.parametrize(
    ("view", "name"),
    [
        ("parquet", "a.parquet"),
        ("geojson", "a.zip"),
        ("geojson-points", "a.points.zip"),
        ("ome-xml", "a.ome.xml"),
        ("labels", "a.labels.ome.tif"),
    ],
)
def test_each_view_has_its_name(root, view, name):
    done = run(root / "a", "--to", view)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(root / "a" / name)
    assert (root / "a" / name).stat().st_size > 0


def test_a_format_and_a_name_can_be_chosen(root, tmp_path):
    out = tmp_path / "mine.geojson"
    assert run(root / "a", "-t", "geojson", "-o", out, "-f", "geojson").exit_code == 0
    assert len(objects_in_qupath(out)) == 20


def test_one_name_for_many_slides_is_refused(root):
    done = run(root, "--to", "csv", "--out", root / "all.csv")
    assert isinstance(done.exception, ResultError) and "leave --out away" in str(done.exception)


def test_a_broken_slide_among_others_is_named_and_exits_with_1(root):
    (root / "a" / "summary.json").write_text("{}")
    done = run(root, "--to", "csv")
    assert done.exit_code == 1
    assert "Failed" in done.stderr and (root / "sub" / "b" / "b.csv").is_file()


def test_help_documents_the_columns_and_their_units():
    words = " ".join(run("--help").stdout.replace("│", " ").split())
    for word in ("x_px", "level-0 pixels", "x_um", "µm", "area_um2"):
        assert word in words
