"""The slide of true size, made small: its five files belong together and are whole."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from lymphinfer.orion.check import check_cohort
from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.manifest import CHANNELS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZE, CELLS = (1700, 1200), 400


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("true-size")
    load("true_size_piece")
    maker = load("true_size_slide")
    slide = maker.make_slide(
        root / "data" / "CRC01", size_px=SIZE, cells=CELLS, seed=1, piece_px=512
    )
    maker.link_patients(slide, 2)
    return root


def test_three_patients_have_the_slide_and_nothing_is_wrong_with_it(cohort):
    report = check_cohort(cohort)
    assert not report.errors and not report.warnings
    assert [(s.patient, s.size_level0, s.cells) for s in report.slides] == [
        (patient, SIZE, CELLS) for patient in ("C1", "C11", "C21")
    ]


def test_table_and_images_say_the_same_of_every_cell(cohort):
    slide = open_cohort(cohort).slides[0]
    table = np.genfromtxt(slide.cells, delimiter=",", names=True)
    mask = tifffile.imread(slide.mask)
    ids = np.arange(1, CELLS + 1)
    assert np.array_equal(np.unique(mask), np.r_[0, ids])
    assert np.array_equal(table["CellID"], ids)
    assert np.array_equal(np.bincount(mask.ravel())[1:], table["Area"])
    centers = np.array(ndimage.center_of_mass(np.ones_like(mask), mask, ids))
    assert np.allclose(centers, np.stack([table["Y_centroid"], table["X_centroid"]], 1), atol=1e-6)
    with slide.open_if() as image:
        counts = image.read_plane(CHANNELS.index("CD45"), 0, 0, *SIZE)
    seen = ndimage.mean(counts, mask, ids)
    # Copies of a cell differ by 5 % of their signal in the table, and by nothing in the image.
    assert np.abs(table["CD45"] / seen - 1).max() < 0.25


def test_equal_tiles_of_the_immunofluorescence_are_stored_once(cohort):
    path = open_cohort(cohort).slides[0].if_
    with tifffile.TiffFile(path) as tiff:
        levels = tiff.series[0].levels
        assert [level.shape for level in levels] == [
            (19, 1200, 1700), (19, 600, 850), (19, 300, 425)
        ]  # fmt: skip
        offsets = levels[0].pages[3].aspage().dataoffsets
        assert len(offsets) == 12 and len(set(offsets)) < 12
        assert levels[0].asarray().max() > 1000


def test_the_levels_of_the_h_and_e_show_the_same_tissue(cohort):
    path = open_cohort(cohort).slides[0].he
    fine, coarse = (tifffile.imread(path, level=i).astype(float) for i in (0, 1))
    mean = fine.reshape(600, 2, 850, 2, 3).mean(axis=(1, 3))
    assert np.abs(mean - coarse).mean() < 3
    assert (fine.std(axis=2) > 8).mean() > 0.3
