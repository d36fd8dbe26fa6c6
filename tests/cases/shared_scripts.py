"""Runs the scripts that write inputs which people really have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("LYMPHINFER_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def make_case(number: int, folder: Path, *arguments: Path) -> Path:
    """Write the inputs of a case into a folder; skips where the scripts are not to be had."""
    scripts = sorted((SHARED / "cases").glob(f"{number:02d}_*.py"))
    if not scripts:
        pytest.skip(f"no script of case {number} in {SHARED / 'cases'}")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, scripts[0], folder, *arguments], check=True)
    return folder
