from __future__ import annotations

import numpy as np
import pytest
import shapely

from lymphinfer.slides.outline import draw, outline


def ring(size=200, inner=30, outer=80):
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    radius = np.hypot(x, y)
    return (radius < outer) & (radius > inner)


def test_an_outline_keeps_holes_islands_and_area():
    mask = ring()
    mask[97:103, 97:103] = True
    mask[:20, :30] = True
    area = outline(mask, 8.0, (1600, 1600))
    assert area.is_valid and len(area.geoms) == 3
    assert sorted(len(part.interiors) for part in area.geoms) == [0, 0, 1]
    assert area.area == pytest.approx(mask.sum() * 64, rel=0.01)
    # Tissue that leaves the picture is cut by its edge.
    assert area.bounds[:2] == (0, 0)


def test_an_outline_drawn_again_is_the_mask():
    rng = np.random.default_rng(2)
    mask = rng.random((30, 40)) < 0.4
    mask = mask.repeat(6, axis=0).repeat(6, axis=1)
    area = outline(mask, 10.0, (2400, 1800))
    drawn = draw(area, mask.shape, 10.0)
    # Corners are cut, and nothing else.
    assert (drawn != mask).mean() < 0.01
    assert area.area == pytest.approx(mask.sum() * 100, rel=0.02)


def test_no_mask_has_no_outline():
    assert outline(np.zeros((20, 20), bool), 8.0, (160, 160)).is_empty


def test_drawing_agrees_with_shapely_on_any_shape():
    shape = shapely.difference(
        shapely.Point(300, 250).buffer(220), shapely.box(200.5, 100.5, 330.2, 290.7)
    ).union(shapely.box(501, 401, 901, 701))
    mask = draw(shape, (80, 100), 8.0)
    rows, columns = np.mgrid[:80, :100]
    centers = shapely.points((columns + 0.5) * 8, (rows + 0.5) * 8)
    np.testing.assert_array_equal(mask, shapely.contains(shape, centers))
