from __future__ import annotations

import numpy as np
import pytest

from lymphinfer.cohorts.register import register
from lymphinfer.errors import DataError
from lymphinfer.slides import open_slide
from tests.cohorts.made_pair import (
    HE_MPP,
    IF_MPP,
    SIDE_UM,
    made_nuclei,
    true_transform,
    write_he,
    write_if,
    write_image,
)


@pytest.fixture(scope="module")
def he(tmp_path_factory):
    path = tmp_path_factory.mktemp("pair") / "he.ome.tif"
    write_he(path, made_nuclei())
    return path


def test_a_pair_turned_by_3_degrees_and_shifted_by_200_um_is_registered_within_1_um(he):
    truth = true_transform(3.0, 200.0)
    write_if(he.with_name("if.ome.tif"), made_nuclei(), truth)
    with open_slide(he) as slide:
        found = register(slide, he.with_name("if.ome.tif"), 0, IF_MPP)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(300, SIDE_UM - 300, 9)]), -1).reshape(-1, 2)
    wanted = grid @ truth[:, :2].T + truth[:, 2]
    got = (found.to_if(grid / HE_MPP - 0.5) + 0.5) * IF_MPP
    assert np.hypot(*(got - wanted).T).max() < 1.0
    assert found.is_good and found.error_um < 1.0
    assert found.angle_deg == pytest.approx(3.0, abs=0.1)
    assert found.shift_um == pytest.approx(200.0, abs=1.0)


def test_an_unrelated_pair_is_refused_with_its_numbers(he):
    other = he.with_name("other.ome.tif")
    write_if(other, made_nuclei(seed=9), true_transform(3.0, 200.0), seed=11)
    with open_slide(he) as slide:
        found = register(slide, other, 0, IF_MPP)
    assert not found.is_good
    assert "patches agree" in str(found.problem(other))


def test_an_immunofluorescence_without_anything_agrees_nowhere(he):
    empty = he.with_name("empty.ome.tif")
    side = round(SIDE_UM / IF_MPP)
    write_image(empty, np.zeros((2, side, side), np.uint16), "CYX", IF_MPP)
    with open_slide(he) as slide:
        found = register(slide, empty, 0, IF_MPP)
    assert not found.is_good
    assert "patches agree" in str(found.problem(empty))


def test_a_slide_without_tissue_is_refused(he, tmp_path):
    write_he(tmp_path / "he.ome.tif", np.array([[400.0, 400.0]]), side_um=800)
    with open_slide(tmp_path / "he.ome.tif") as slide, pytest.raises(DataError, match="tissue"):
        register(slide, he, 0, HE_MPP)
