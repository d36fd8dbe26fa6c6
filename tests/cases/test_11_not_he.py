"""Fluorescence, DAB, haematoxylin alone, stacks, grey images: refused with the true reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from lymphinfer.errors import SlideError
from lymphinfer.slides import check_stain, open_slide

from .reading import assert_is_reference, predict, run_case

NAME = "11_not_he"
REFUSED = {
    "fluor_rgb.tif": "immunofluorescence",
    "fluor_planes.ome.tif": "immunofluorescence",
    "fluor_named.ome.tif": "called CD3, CD8, Nuclei, as of immunofluorescence",
    "haematoxylin.tif": "haematoxylin alone",
    "dab.tif": "DAB",
    "dab_strong.tif": "DAB",
    "f32.tif": "colours as float32 data.*vips linear",
    "i8.tif": "colours as int8 data",
    "grey.tif": "1 channel of grey",
    "z_pages.tif": "a stack: 3 pages.*--series N",
    "z.ome.tif": "a stack of 3 focus planes.*Export one plane",
    "t.ome.tif": "a stack of 3 time points",
    "z_separate_pages.tif": "a stack: 3 pages",
    "imagej_stack.tif": "a stack of 3 focus planes",
}
READ = ("z1.ome.tif", "imagej_rgb.tif")
SCALED = {"u16.tif": "fit 16 bits", "u16_low.tif": "fit 8 bits"}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return run_case(NAME, tmp_path_factory.mktemp(NAME))


def look(path: Path, **options) -> list[str]:
    with open_slide(path, **options) as slide:
        return [*slide.warnings, *check_stain(slide, force=options.get("force", False))]


def test_every_file_of_the_case_is_spoken_of(case):
    assert {path.name for path in case.iterdir()} == {*REFUSED, *READ, *SCALED}


@pytest.mark.parametrize("file", REFUSED)
def test_what_is_no_h_and_e_is_refused_with_its_reason(case, file):
    with pytest.raises(SlideError, match=REFUSED[file]) as caught:
        look(case / file)
    assert "not an RGB H&E image" in str(caught.value)
    # The slide is the true reason only where it is fluorescence.
    assert ("fluorescence" in str(caught.value)) == ("fluor" in file or file in ("grey.tif",))


@pytest.mark.parametrize("file", ["fluor_rgb.tif", "dab.tif", "z.ome.tif", "z_pages.tif"])
def test_force_goes_on_with_a_warning(case, file):
    assert look(case / file, force=True)


def test_a_plane_of_a_stack_is_read_where_it_is_named(case):
    assert not any("stack" in text for text in look(case / "z_pages.tif", series="0"))


@pytest.mark.slow
@pytest.mark.parametrize("file", READ)
def test_what_is_h_and_e_in_an_unusual_dress_is_read(case, tmp_path, file):
    result = predict(case / file, tmp_path)
    assert_is_reference(result)
    assert result.summary["warnings"] == []


@pytest.mark.slow
@pytest.mark.parametrize("file", SCALED)
def test_colours_of_16_bits_are_read_with_a_word_on_their_scale(case, tmp_path, file):
    result = predict(case / file, tmp_path)
    assert_is_reference(result)
    (warning,) = result.summary["warnings"]
    assert SCALED[file] in warning


@pytest.mark.slow
def test_predict_refuses_and_force_warns_in_the_summary(case, tmp_path):
    with pytest.raises(SlideError, match="DAB"):
        predict(case / "dab.tif", tmp_path)
    result = predict(case / "dab.tif", tmp_path, force=True)
    assert any("DAB" in warning for warning in result.summary["warnings"])
