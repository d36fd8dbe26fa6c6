"""Runs the shared scripts that make inputs, and predicts with the bundle of the reference."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.loading import Bundle
from lymphinfer.predict.plan import load
from lymphinfer.predict.result import SlideResult
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides import open_slide

BUNDLE = "he-v1-fast"
# The same pixels as a plain tiled TIFF of 0.25 µm/px.
NUCLEI, TISSUE_MM2, CD45 = 260, 0.0397, 21.94


def run_case(name: str, folder: Path) -> Path:
    """Make the inputs of a case in a folder; skips where the shared scripts are not at hand."""
    beside = Path(__file__).resolve().parents[3] / "shared"
    script = Path(os.environ.get("LYMPHINFER_SHARED", beside)) / "cases" / f"{name}.py"
    if not script.exists():
        pytest.skip(f"needs {script}; set LYMPHINFER_SHARED to the folder of shared data")
    # One made-up UID is longer than pydicom likes, and it says so on stderr.
    subprocess.run([sys.executable, "-W", "ignore", str(script), str(folder)], check=True)
    return folder


@functools.cache
def fast_bundle() -> Bundle:
    return load(PredictSettings(bundle=BUNDLE, device="cpu", precision="fp32"))


def predict(slide: Path, out: Path, **options: object) -> SlideResult:
    # These pictures are made up: rounding moves what it sees in them more than in tissue.
    settings = PredictSettings(bundle=BUNDLE, device="cpu", precision="fp32", **options)
    return predict_slide(slide, out, settings=settings, bundle=fast_bundle())


def pixels(slide: Path, **options: object) -> np.ndarray:
    """All of level 0."""
    with open_slide(slide, **options) as opened:
        return opened.read_region(0, 0, *opened.dimensions, opened.mpp)


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


def assert_is_reference(result: SlideResult, tolerance: float = 0.03) -> None:
    """Assert the numbers of the reference: nuclei within 1, tissue within 2 %, CD45 as given."""
    summary = result.summary
    found = summary["nuclei"], summary["tissue_mm2"], summary["markers"]["CD45"]["expected"]
    assert abs(found[0] - NUCLEI) <= 1, found
    assert found[1] == pytest.approx(TISSUE_MM2, rel=0.02), found
    assert found[2] == pytest.approx(CD45, rel=tolerance), found
