"""Where the shared data lies, and small bundles made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

# Tests run beside each other; more threads than cores only slow them down. What a test starts
# inherits it, and OpenMP reads it once, when it is loaded.
if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

# Neither an example nor their making is timed: it says how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def one_thread_a_worker() -> None:
    """For torch, also where the number of threads is set above."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Openly licensed data that is not part of the project: ``$LYMPHINFER_SHARED/data``."""
    root = Path(os.environ.get("LYMPHINFER_SHARED", REPOSITORY.parent / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no shared data in {root}; set LYMPHINFER_SHARED to its folder")
    return root / "data"


@pytest.fixture(scope="session")
def real_slide(shared_data: Path) -> Path:
    return shared_data / "slides" / "CMU-1-Small-Region.svs"
