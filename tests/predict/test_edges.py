"""A field that was cut out of tissue has at its edges the nuclei that it had there before."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial import cKDTree

from lymphinfer.batch.single import predict_slide
from lymphinfer.export.results import open_result
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides import open_slide
from lymphinfer.slides.edges import read_with_edges

from .conftest import MPP, write_svs

CORNER, SIZE = np.array([100, 60]), np.array([300, 180])


def nuclei(folder, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroids (N, 2), px, and P(CD45) (N,) by the default bundle."""
    folder.mkdir()
    slide = write_svs(folder / "field.svs", np.ascontiguousarray(pixels))
    settings = PredictSettings(device="cpu", precision="fp32", force=True)
    predict_slide(slide, folder / "out", settings=settings)
    table = pa.concat_tables(open_result(folder / "out").tables())
    return np.stack([table["x"], table["y"]], axis=1), np.array(table["p_cd45"])


def test_cut_out_of_tissue_it_has_the_nuclei_and_probabilities_that_it_had(tmp_path):
    from stardist.data import test_image_he_2d

    picture = test_image_he_2d()
    (x0, y0), (x1, y1) = CORNER, CORNER + SIZE
    whole, p_whole = nuclei(tmp_path / "whole", picture)
    part, p_part = nuclei(tmp_path / "part", picture[y0:y1, x0:x1])
    # Of those whose centroids lie in the mirror image none is left, nor any twice.
    assert ((part >= 0) & (part <= SIZE)).all()
    assert cKDTree(part).query(part, 2)[0][:, 1].min() > 2
    within = ((whole > CORNER) & (whole < CORNER + SIZE)).all(axis=1)
    assert len(part) == pytest.approx(within.sum(), rel=0.1)
    distance, nearest = cKDTree(whole).query(part + CORNER)
    from_edge = np.minimum(part, SIZE - part).min(axis=1) * MPP
    near = (distance * MPP < 1.5) & (from_edge < 20)
    assert near.sum() > 60
    # Beside white it is 0.20.
    assert np.abs(p_part[near] - p_whole[nearest[near]]).mean() < 0.14


def test_beyond_its_edges_a_slide_is_its_mirror_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    with open_slide(write_svs(tmp_path / "a.svs", pixels), 0.5) as slide:
        inner = slide.read_region(0, 0, 400, 300, 0.5)
        found = read_with_edges(slide, (-20, 250, 100, 340), 0.5)
        assert found.shape == (90, 120, 3)
        np.testing.assert_array_equal(found[:50, 20:], inner[250:, :100])
        np.testing.assert_array_equal(found[:50, :20], inner[250:, 19::-1])
        np.testing.assert_array_equal(found[50:, 20:], inner[299:259:-1, :100])
        inside = read_with_edges(slide, (10, 20, 50, 60), 0.5)
        np.testing.assert_array_equal(inside, inner[20:60, 10:50])
