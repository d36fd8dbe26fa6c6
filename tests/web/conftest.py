from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.gates import AfCorrection, Gate, Gates, SlideGates
from lymphinfer.orion.gates_file import write_gates
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.web.session import GatingSession
from tests.orion.made_cohort import make_slide

PROPOSED = "lymphinfer gate propose (mixture, all cells, seed 0)"
WHEN = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def made_gates(*folders: str) -> Gates:
    af = AfCorrection(0.5, -60.0)
    own = {m: Gate(80.0, 150.0, 20_000.0, PROPOSED, WHEN, af) for m in TCELL_PANEL.names}
    return Gates({folder: SlideGates(own, 2000.0) for folder in folders})


@pytest.fixture
def cohort(tmp_path):
    root = tmp_path / "cohort"
    make_slide(root, "CRC01", n=3000, seed=1, full=True)
    make_slide(root, "CRC02", n=500, seed=2, number=30)
    return open_cohort(root)


@pytest.fixture
def gates_path(tmp_path, cohort):
    path = tmp_path / "gates.toml"
    write_gates(path, made_gates(*cohort.folders))
    return path


@pytest.fixture
def session(cohort, gates_path):
    made = GatingSession(cohort, gates_path, TCELL_PANEL, "A. Pathologist")
    yield made
    made.close()
