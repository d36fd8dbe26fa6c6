"""JPEG tiles whose tag and own marker disagree on the colour space: the marker decides."""

from __future__ import annotations

import pytest

from .reading import assert_is_reference, mean_difference, pixels, predict, run_case

NAME = "07_jpeg_colours"
FILES = (
    "ycbcr_right.tif",
    "ycbcr_420.tif",
    "rgb_right.tif",
    "tag_rgb_data_ycbcr.tif",
    "tag_rgb_data_ycbcr.ome.tif",
    "tag_ycbcr_data_rgb.tif",
    "ycbcr_right.ome.tif",
    "rgb_right.ome.tif",
)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return run_case(NAME, tmp_path_factory.mktemp(NAME))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("suffix", [None, ".svs"])
def test_the_colours_are_right_whatever_tag_and_suffix_say(case, tmp_path, file, suffix):
    path = case / file
    if suffix is not None:
        path = tmp_path / f"a{suffix}"
        path.write_bytes((case / file).read_bytes())
    assert mean_difference(pixels(path), pixels(case / "ref.tif")) < 4


@pytest.mark.slow
@pytest.mark.parametrize("file", ["ref.tif", *FILES])
def test_the_numbers_are_those_of_the_right_colours(case, tmp_path, file):
    # 4:2:0 blurs the colours of nuclei's rims.
    assert_is_reference(predict(case / file, tmp_path), 0.1 if "420" in file else 0.04)
