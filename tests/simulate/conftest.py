from __future__ import annotations

from pathlib import Path

import pytest

from lymphinfer.simulate.cohort import CohortSummary, simulate_cohort


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortSummary:
    """Four small slides, two of them of patient 33; rich in positive cells."""
    out: Path = tmp_path_factory.mktemp("simulated") / "cohort"
    return simulate_cohort(out, slides=4, size=768, seed=3, imbalance="rich", workers=1)
