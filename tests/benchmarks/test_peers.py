"""What stands in for StarDist's published weights finds about as many nuclei as there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lymphinfer.simulate.slide import write_slide
from lymphinfer.simulate.tissue import render_tissue

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# An interpreter that has stardist and tensorflow, where this one has no tensorflow.
STARDIST_PYTHON = os.environ.get("LYMPHINFER_STARDIST_PYTHON", sys.executable)


@pytest.fixture
def readout(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import readout

    return readout


def made(folder: Path, side: int) -> tuple[Path, Path, np.ndarray]:
    tissue = render_tissue((side, side), mpp=0.25, seed=3, label_reach_px=0.0)
    slide, labels = folder / "made.svs", folder / "labels.npz"
    write_slide(slide, tissue.rgb, 0.25)
    assert tissue.labels is not None
    truth = tissue.labels.labels
    np.savez_compressed(labels, labels=truth)
    return slide, labels, truth


def told(script: str, step: str, *paths: Path, python: str = sys.executable) -> int:
    command = [python, str(BENCHMARKS / script), step, *map(str, paths)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return int(json.loads((paths[-1] / "told.json").read_text())["nuclei"])


def test_a_fitted_layer_puts_out_what_it_was_fitted_to(readout):
    features = np.random.default_rng(0).normal(3, 2, (500, 4))
    wanted = features @ np.array([[1.0, 0], [0, 2], [0, 0], [-1, 1]]) + [5, -1]
    weights, bias = readout.fit(features, wanted, ridge=1e-9)
    assert np.abs(features @ weights + bias - wanted).max() < 1e-3


def test_the_threshold_is_the_one_with_the_nearest_count(readout):
    assert readout.nearest_count(lambda x: int(100 - x), (10, 40, 80), 55) == (40, 60)


def test_nuclei_that_a_border_cuts_count_half(readout):
    labels = np.zeros((20, 20), int)
    labels[0:3, 4:8], labels[5:9, 0:4], labels[10:14, 10:14] = 1, 2, 3
    assert readout.whole_nuclei(labels, slice(None), slice(None)) == 2


@pytest.mark.tensorflow
@pytest.mark.slow
def test_stardist_finds_about_as_many_nuclei(readout, tmp_path):
    code = "import importlib.util as u; exit(u.find_spec('tensorflow') is None)"
    if subprocess.run([STARDIST_PYTHON, "-c", code], check=False).returncode:
        pytest.skip("no TensorFlow; LYMPHINFER_STARDIST_PYTHON may name an interpreter that has it")
    slide, labels, truth = made(tmp_path, 512)
    model, python = tmp_path / "model", STARDIST_PYTHON
    command = [python, str(BENCHMARKS / "peer_stardist.py"), "prepare", str(slide)]
    subprocess.run([*command, str(labels), str(model)], check=True)
    found = told("peer_stardist.py", "run", slide, model, tmp_path / "out", python=python)
    wanted = readout.whole_nuclei(truth, slice(None), slice(None))
    assert wanted / 2 <= found <= wanted * 2
