"""OME-TIFF sets of several files: pages of this file only, the others named."""

from __future__ import annotations

import numpy as np
import pytest

from lymphinfer.slides import open_slide

from .reading import assert_is_reference, pixels, predict, run_case

NAME = "09_ome_multifile"
FILES = {
    "companion/a.ome.tif": ("A", ""),
    "half/sec_0.ome.tif": ("A", "sec_1.ome.tif"),
    "renamed/P001.ome.tif": ("A", ""),
    "renamed/P002.ome.tif": ("A", ""),
    "set_None/sec_0.ome.tif": ("A", "sec_1.ome.tif"),
    "set_None/sec_1.ome.tif": ("B", "sec_0.ome.tif"),
    "set_deflate/sec_0.ome.tif": ("A", "sec_1.ome.tif"),
    "set_deflate/sec_1.ome.tif": ("B", "sec_0.ome.tif"),
    "set_padded/sec_0.ome.tif": ("A", "sec_1.ome.tif"),
    "set_padded/sec_1.ome.tif": ("B", "sec_0.ome.tif"),
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return run_case(NAME, tmp_path_factory.mktemp(NAME))


@pytest.mark.parametrize("file", FILES)
def test_the_file_s_own_pixels_are_read_and_the_others_named(case, file):
    content, other = FILES[file]
    assert np.array_equal(pixels(case / file), pixels(case / f"plain_{content}.tif"))
    with open_slide(case / file) as slide:
        assert slide.mpp == pytest.approx(0.25)
        assert slide.other_files == ((other,) if other else ())
        assert any(other in warning for warning in slide.warnings) or not other


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file, (content, _) in FILES.items() if content == "A"])
def test_the_numbers_are_those_of_the_file_alone(case, tmp_path, file):
    assert_is_reference(predict(case / file, tmp_path))
