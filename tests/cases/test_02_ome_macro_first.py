"""OME-TIFF whose first image is an overview, a macro or a label: the scan's own pixel size."""

from __future__ import annotations

import pytest

from lymphinfer.slides import open_slide

from .reading import assert_is_reference, predict, run_case

NAME = "02_ome_macro_first"
FILES = ("a_macro_first", "b_overview_first", "c_label_first", "d_scan_first")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return run_case(NAME, tmp_path_factory.mktemp(NAME))


@pytest.mark.parametrize("file", FILES)
def test_the_scan_is_read_at_its_own_size_and_the_other_image_named(case, file):
    with open_slide(case / f"{file}.ome.tif") as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "OME-XML")
        assert slide.level_dimensions == ((1200, 900),)
        (warning,) = slide.warnings
        other = next(image for image in slide.images if not image.is_read)
    assert repr(other.name) in warning and "--series" in warning


def test_another_image_is_read_where_it_is_named(case):
    path = case / "b_overview_first.ome.tif"
    for series in ("0", "overview", "OVER"):
        with open_slide(path, series=series) as slide:
            assert (slide.dimensions, slide.mpp) == ((600, 450), 0.5)
    with open_slide(path) as scan, open_slide(path, series="0") as overview:
        assert scan.identity() != overview.identity()


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_the_numbers_are_those_of_the_scan(case, tmp_path, file):
    result = predict(case / f"{file}.ome.tif", tmp_path)
    assert_is_reference(result, 0.08)
    assert any("other image" in warning for warning in result.summary["warnings"])
    assert len(result.summary["slide"]["images"]) == 2
