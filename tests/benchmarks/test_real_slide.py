"""The slide that the GPU's benchmark reads shows its piece of tissue and the mirror images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from lymphinfer.slides import open_slide

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def real_slide() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_slide", BENCHMARKS / "real_slide.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def smooth(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(40, 240, (height // 60, width // 60, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_the_slide_repeats_its_piece_by_mirroring(real_slide, tmp_path):
    piece = smooth(300, 420)
    real_slide.write_mosaic(tmp_path / "made.svs", piece, (1500, 1100), 0.25)
    with open_slide(tmp_path / "made.svs", None) as slide:
        assert slide.reader == "openslide:aperio" and slide.mpp == 0.25
        assert slide.dimensions == (1500, 1100)
        seen = slide.read_region(0, 0, 1500, 1100, 0.25)
        coarse = slide.read_region(0, 0, 375, 275, 1.0)
    twice = np.concatenate([piece, piece[:, ::-1]], axis=1)
    block = np.concatenate([twice, twice[::-1]])
    wanted = np.tile(block, (2, 2, 1))[:1100, :1500].astype(int)
    assert np.abs(seen - wanted).mean() < 3
    shrunk = wanted.reshape(275, 4, 375, 4, 3).mean(axis=(1, 3))
    assert np.abs(coarse - shrunk).mean() < 4


def test_images_of_a_folder_lie_side_by_side(real_slide, tmp_path):
    for number, value in enumerate((10, 60, 110, 160, 210)):
        Image.new("RGB", (40, 30), (value, 0, 0)).save(tmp_path / f"{number}.png")
    pixels = real_slide.tissue(tmp_path, 0.5, 0.25)
    assert pixels.shape == (120, 160, 3)
    assert [int(pixels[y, x, 0]) for y, x in ((5, 5), (5, 150), (110, 5), (110, 150))] == [
        10, 60, 110, 160,
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="--source-mpp"):
        real_slide.tissue(tmp_path, None, 0.25)
