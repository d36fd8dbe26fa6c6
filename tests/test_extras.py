from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lymphinfer.batch import doctor
from lymphinfer.cli.app import app
from lymphinfer.errors import DataError
from lymphinfer.extras import IMPORTED, missing_packages
from lymphinfer.training.detector import DetectorRun, train_detector

# Tools, and what brings them together: the package imports nothing of theirs.
NOT_IMPORTED = {"dev", "docs"}


def test_every_extra_is_known_with_what_it_brings():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert set(IMPORTED) == set(extras) - NOT_IMPORTED


def test_train_detector_asks_for_its_extra_before_it_reads_anything(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    run = DetectorRun("stardist", tmp_path / "absent")
    with pytest.raises(DataError, match=r"scikit-learn.*pip install 'lymphinfer\[train\]'"):
        train_detector(run, tmp_path / "out", tmp_path / "work", command="")
    assert not list(tmp_path.iterdir())


def test_a_report_asks_for_its_extra_before_the_slide_is_predicted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "absent.svs"), "--report"])
    assert "jinja2" in str(done.exception) and "lymphinfer[report]" in str(done.exception)


def test_doctor_names_the_extras_that_are_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert missing_packages("train") == ["zarr"]
    check = doctor._extras()
    assert check.is_ok and "train (zarr)" in check.found
