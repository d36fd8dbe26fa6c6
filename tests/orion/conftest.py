from __future__ import annotations

from pathlib import Path

import pytest

from tests.orion.made_cohort import make_slide


@pytest.fixture
def cohort_dir(tmp_path: Path) -> Path:
    """Five slides of four patients: both CRC33 folders are one."""
    root = tmp_path / "cohort"
    for seed, folder in enumerate(("CRC01", "CRC02", "CRC03", "CRC33_01", "CRC33_02")):
        make_slide(root, folder, seed=seed)
    return root
