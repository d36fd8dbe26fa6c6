"""A photograph of the slide that happens to have the scan's proportions is no level of it."""

from __future__ import annotations

import numpy as np
import pytest

from lymphinfer.slides import open_slide, tissue_mask

from .reading import run_case

NAME = "23_macro_same_shape"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return run_case(NAME, tmp_path_factory.mktemp(NAME))


def test_the_mask_is_drawn_from_the_scan(case):
    masks = []
    for file in ("scan_then_macro.ome.tif", "scan_alone.ome.tif"):
        with open_slide(case / file) as slide:
            assert slide.level_dimensions == ((3000, 2250),)
            masks.append(tissue_mask(slide))
    assert np.array_equal(masks[0].mask, masks[1].mask)
    assert masks[0].area_mm2 > 0.2


def test_the_macro_is_named(case):
    with open_slide(case / "scan_then_macro.ome.tif") as slide:
        (warning,) = slide.warnings
    assert "100 x 75 px, 50 µm/px" in warning
