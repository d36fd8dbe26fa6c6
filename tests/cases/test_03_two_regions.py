"""Several regions in one file, of the scan's proportions: the largest alone is the slide."""

from __future__ import annotations

import numpy as np
import pytest

from lymphinfer.slides import open_slide

from .reading import pixels, predict, run_case

NAME = "03_two_regions"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return run_case(NAME, tmp_path_factory.mktemp(NAME))


@pytest.mark.parametrize(("file", "others"), [("regions.ome.tif", 2), ("pages.tif", 1)])
def test_another_region_is_no_level_and_is_named(case, file, others):
    with open_slide(case / file) as slide, open_slide(case / "alone.ome.tif") as alone:
        assert slide.level_dimensions == ((1600, 1200),)
        assert sum(not image.is_read for image in slide.images) == others
        assert len(slide.warnings) == 1
        size = (0, 0, 800, 600, 0.325)
        assert np.array_equal(slide.read_region(*size), alone.read_region(*size))
    assert np.array_equal(pixels(case / file), pixels(case / "alone.ome.tif"))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["regions.ome.tif", "pages.tif"])
def test_the_numbers_are_those_of_the_region_alone(case, tmp_path, file):
    alone = predict(case / "alone.ome.tif", tmp_path / "alone")
    several = predict(case / file, tmp_path / "several")
    assert alone.n_nuclei > 400
    assert several.n_nuclei == alone.n_nuclei
