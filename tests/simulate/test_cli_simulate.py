from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lymphinfer.cli.simulate import ratios, simulate
from lymphinfer.errors import DataError


def test_the_command_makes_a_cohort_and_prints_the_best_auroc(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(simulate)
    arguments = [str(tmp_path / "c"), "--slides", "1", "--size", "512", "--seed", "1"]
    result = CliRunner().invoke(app, [*arguments, "--imbalance", "rich", "--ratio", "CD4=0.07"])
    assert result.exit_code == 0, result.output
    assert "best possible AUROC" in result.output
    assert (tmp_path / "c" / "data" / "CRC01").is_dir()


def test_ratios_replace_those_of_the_named_imbalance() -> None:
    assert ratios("paper", ["CD4=0.01"]) == {"CD45": 0.22, "CD3e": 0.04, "CD4": 0.01, "CD8a": 0.006}
    with pytest.raises(DataError, match="MARKER=NUMBER"):
        ratios("paper", ["CD4"])
    with pytest.raises(DataError, match="choose from"):
        ratios("none", [])
