"""The commands say what they would do, do it, and print the numbers."""

import sys

import pytest
import tomli_w
import typer
from typer.testing import CliRunner

from lymphinfer.cli.evaluate import evaluate
from lymphinfer.cli.patch_size_study import patch_size_study
from lymphinfer.cli.retrain import retrain
from lymphinfer.cli.table1 import table1
from lymphinfer.cli.training_words import command_line
from lymphinfer.errors import DataError


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    for command in (retrain, evaluate, table1):
        app.command()(command)
    app.command("patch-size-study")(patch_size_study)
    return app


@pytest.fixture(scope="module")
def given(case, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "config.toml"
    config.write_text(tomli_w.dumps(case.config.to_dict()))
    return [
        *("--cohort", str(case.cohort), "--gates", str(case.gates)),
        *("--config", str(config), "--device", "cpu"),
    ]


def call(app, *arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_dry_run_writes_nothing(app, given, tmp_path):
    text = call(app, "retrain", *given, "--out", tmp_path / "mine", "--dry-run")
    assert "calibrate" in text
    assert "4 slides" in text
    assert not list(tmp_path.iterdir())


def test_retrain_then_evaluate(app, given, case, tmp_path):
    out = tmp_path / "mine"
    text = call(app, "retrain", *given, "--out", out)
    assert "| CD45 |" in text
    assert f"--bundle {out}" in text
    assert "lymphinfer retrain --cohort" in (out / "CARD.md").read_text()
    options = ["--out", tmp_path / "eval", "--bootstrap", 10, "--device", "cpu"]
    text = call(app, "evaluate", out, "--work", tmp_path / "mine.work", *options)
    assert "| CD45 |" in text
    assert (tmp_path / "eval" / "roc.png").exists()


@pytest.mark.slow
def test_tables_are_printed(app, given, tmp_path):
    options = ["--backbone", "test_resnet", "--row", "bce-mtl", "--out", tmp_path]
    assert "test_resnet" in call(app, "table1", *given, *options)
    assert "paper, CD45" in call(app, "patch-size-study", *given, "--size", 32, "--out", tmp_path)


def test_a_command_is_spelled_as_typed():
    assert (
        command_line("x", out="a b", config=None, figure=True)
        == "lymphinfer x --out 'a b' --figure"
    )


def test_without_the_extra_the_message_names_it(app, given, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(DataError, match=r"lymphinfer\[train\]"):
        call(app, "retrain", *given, "--out", tmp_path / "mine")
