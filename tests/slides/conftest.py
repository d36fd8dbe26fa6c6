"""Pixels for made slides, and the real slide where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture(scope="session")
def real_svs() -> Path:
    beside = Path(__file__).resolve().parents[3] / "shared"
    shared = Path(os.environ.get("LYMPHINFER_SHARED", beside))
    path = shared / "data" / "slides" / "CMU-1-Small-Region.svs"
    if not path.exists():
        pytest.skip(f"needs {path}; set LYMPHINFER_SHARED to the folder of shared data")
    return path


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """(500, 603, 3) uint8: smooth structure and fine texture; sides that no tile size divides."""
    rng = np.random.default_rng(7)
    coarse = ndimage.gaussian_filter(rng.normal(size=(500, 603, 3)), (12, 12, 0))
    fine = ndimage.gaussian_filter(rng.normal(size=(500, 603, 3)), (1, 1, 0))
    image = 160 + 900 * coarse + 60 * fine
    return np.clip(image, 0, 255).astype(np.uint8)
