"""``lymphinfer report`` at the terminal."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.errors import ResultError
from tests.export.results_made import made_nuclei, made_result, spread_centers


@pytest.fixture
def root(tmp_path):
    table = made_nuclei(spread_centers(20), np.linspace(0, 1, 20))
    made_result(tmp_path / "a", [table], name="a.svs")
    made_result(tmp_path / "b", [table], name="b.svs")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_every_slide_and_the_batch_get_a_page_and_a_broken_one_is_named(root):
    (root / "b" / "summary.json").write_text("{}")
    done = run(root, "--no-figures")
    assert done.exit_code == 1, done.output
    pages = [root / "a" / "report.html", root / "report.html"]
    assert done.stdout.splitlines() == [str(page) for page in pages]
    assert "was not found" in done.stderr and "Failed" in done.stderr
    assert "not a summary" in pages[1].read_text("utf-8")
    assert not (root / "a" / "figures").exists()


def test_a_single_slide_gets_its_page_alone(root):
    done = run(root / "a", "--no-figures")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(root / "a" / "report.html")]
    assert not (root / "report.html").exists()


def test_a_folder_without_results_says_what_it_wants(tmp_path):
    done = run(tmp_path)
    assert isinstance(done.exception, ResultError) and "predict" in str(done.exception)
