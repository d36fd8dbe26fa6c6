"""The commands say what they would do, do it, and print the numbers."""

import json
import shlex
import sys

import pytest
import tomli_w
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.errors import DataError, LymphinferError


@pytest.fixture(scope="module")
def given(case, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "config.toml"
    config.write_text(tomli_w.dumps(case.config.to_dict()))
    return [
        *("--cohort", str(case.cohort), "--gates", str(case.gates)),
        *("--config", str(config), "--device", "cpu"),
    ]


def call(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_dry_run_writes_nothing(given, tmp_path):
    text = call("retrain", *given, "--out", tmp_path / "mine", "--dry-run")
    assert "calibrate" in text
    assert "4 slides" in text
    assert not list(tmp_path.iterdir())


def test_retrain_then_evaluate(given, case, tmp_path):
    out = tmp_path / "mine"
    work = tmp_path / "my work"
    text = call("retrain", *given, "--out", out, "--work", work)
    assert "| CD45 |" in text
    assert f"--bundle {out}" in text
    typed = shlex.join(map(str, ["lymphinfer", "retrain", *given, "--out", out, "--work", work]))
    assert f"`{typed}`" in (out / "CARD.md").read_text()
    options = ["--out", tmp_path / "eval", "--bootstrap", 10, "--device", "cpu"]
    text = call("evaluate", out, "--work", work, *options)
    assert "| CD45 |" in text
    assert (tmp_path / "eval" / "roc.png").exists()
    typed = shlex.split(json.loads((tmp_path / "eval" / "metrics.json").read_text())["command"])
    assert typed == ["lymphinfer", "evaluate", *map(str, [out, "--work", work, *options])]
    for wrong in (("--device", "typo"), ("--precision", "typo")):
        with pytest.raises(LymphinferError, match="'typo'"):
            call("evaluate", out, "--work", work, *options, *wrong)


@pytest.mark.slow
def test_tables_are_printed_with_the_command_that_was_typed(given, tmp_path):
    rows = ["--backbone", "test_resnet", "--row", "bce-mtl"]
    commands = {
        "table1": ["table1", *given, *rows, "--out", tmp_path / "my table"],
        "paper, CD45": ["patch-size-study", *given, "--size", 32, "--out", tmp_path / "sizes"],
    }
    for words, command in commands.items():
        text = call(*command)
        made_by = f"Made by `{shlex.join(map(str, ['lymphinfer', *command]))}`."
        (written,) = command[-1].glob("*.md")
        assert words in text + command[0] and made_by in text and made_by in written.read_text()
    assert "test_resnet" in call(*commands["table1"])


def test_without_the_extra_the_message_names_it(given, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(LymphinferError, match=r"lymphinfer\[train\]"):
        call("retrain", *given, "--out", tmp_path / "mine")


def test_a_device_that_training_does_not_take_is_named(given, tmp_path):
    with pytest.raises(DataError, match=r"--device cuda:7: training takes auto or cpu"):
        call("retrain", *given, "--out", tmp_path / "mine", "--device", "cuda:7")
