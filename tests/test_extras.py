from __future__ import annotations

import ast
import re
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


DISTRIBUTIONS = {
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "openslide": "openslide-python",
    "distributed": "dask",
    "tomli_w": "tomli-w",
}
BROUGHT_ALONG = {"pydantic_core": "pydantic", "huggingface_hub": "timm", "torchvision": "timm",
                 "pandas": "anndata", "geopandas": "spatialdata"}  # fmt: skip
# Its message names it; Keras weights are converted once.
ASKED_FOR = {"h5py"}


def test_nothing_is_imported_that_only_developers_have():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    project = project["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(extras[name] for name in set(extras) - NOT_IMPORTED)]
    brought = {re.split(r"[^\w-]", entry)[0] for entries in lists for entry in entries}
    imported = set()
    for path in (Path(__file__).parents[1] / "lymphinfer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split(".")[0])
    imported -= set(sys.stdlib_module_names) | {"lymphinfer"} | ASKED_FOR
    named = {DISTRIBUTIONS.get(name, BROUGHT_ALONG.get(name, name)) for name in imported}
    assert named <= brought


def test_train_detector_asks_for_its_extra_before_it_reads_anything(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    run = DetectorRun("stardist", tmp_path / "absent")
    with pytest.raises(DataError, match=r"threadpoolctl.*pip install 'lymphinfer\[train\]'"):
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
