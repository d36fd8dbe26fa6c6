"""The numbers behind regions, against computations of another kind."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from scipy import stats

from lymphinfer.regions.aggregates import aggregates, neighbours
from lymphinfer.regions.border import Border, joined
from lymphinfer.regions.grid import Grid
from lymphinfer.regions.hotspots import gi_star, hot_spots
from lymphinfer.regions.intervals import blocks_interval, cells_interval


def star(rng, points=300):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = 2000 + 400 * np.sin(9 * angle) + rng.normal(0, 25, points)
    ring = np.stack([4000 + radius * np.cos(angle), 3000 + radius * np.sin(angle)], -1)
    return shapely.make_valid(shapely.Polygon(ring))


def test_distances_are_those_of_geos():
    rng = np.random.default_rng(0)
    area = shapely.difference(star(rng), shapely.box(3600, 2800, 4200, 3300))
    border = Border(area, (8000, 6000), 0.5)
    x, y = rng.uniform(0, 8000, 3000), rng.uniform(0, 6000, 3000)
    wanted = shapely.distance(area.boundary, shapely.points(x, y)) * 0.5
    got = border.distances_um(x, y)
    np.testing.assert_allclose(np.abs(got), wanted, atol=0.04)
    close = wanted < 5
    assert close.sum() > 20 and (wanted > 1000).sum() > 20
    np.testing.assert_allclose(np.abs(got[close]), wanted[close], atol=1e-9)
    assert ((got < 0) == shapely.contains_xy(area, x, y)).all()


def test_an_area_that_fills_the_image_has_no_border():
    border = Border(shapely.box(0, 0, 800, 600), (800, 600), 0.5)
    assert border.within(100).is_empty
    assert border.distances_um(np.array([5.0]), np.array([5.0])).tolist() == [-np.inf]


def test_joining_keeps_the_corners_of_annotations():
    halves = [shapely.box(0, 0, 100, 100), shapely.box(101, 0, 200, 100)]
    assert joined(halves, 0.5).equals(shapely.box(0, 0, 200, 100))
    apart = [shapely.box(0, 0, 100, 100), shapely.box(110, 0, 200, 100)]
    assert len(joined(apart, 0.5).geoms) == 2


@pytest.mark.parametrize("n", [1, 7, 60])
def test_the_interval_of_cells_is_the_poisson_binomials(n):
    p = np.random.default_rng(n).beta(0.4, 0.8, n)
    masses = np.ones(1)
    for q in p:
        masses = np.convolve(masses, [1 - q, q])
    below = np.cumsum(masses)
    low, high = cells_interval(p)
    assert (low, high) == (np.searchsorted(below, 0.025), np.searchsorted(below, 0.975))


def test_many_equal_cells_are_binomial():
    for n, q in ((400, 0.02), (300_000, 0.2), (1_000_000, 0.00002)):
        low, high = cells_interval(np.full(n, q))
        wanted = stats.binom.ppf([0.025, 0.975], n, q)
        assert np.abs(np.array([low, high]) - wanted).max() <= 1


def test_sure_cells_have_no_interval():
    assert cells_interval(np.array([1.0, 1.0, 0.0])) == (2, 2)
    assert cells_interval(np.empty(0)) == (0, 0)


def test_the_interval_between_blocks_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        mm2 = rng.uniform(0.02, 0.06, 30)
        cells = rng.poisson(800 * mm2 * rng.lognormal(-0.125, 0.5, 30))
        low, high = blocks_interval(cells.astype(float), mm2)
        held += low <= 800 <= high
    assert 0.88 <= held / 400 <= 0.98
    assert blocks_interval(np.ones(4), np.ones(4)) is None


def test_shares_of_squares_sum_to_the_area():
    area = star(np.random.default_rng(2))
    grid = Grid.over((8000, 6000), 500)
    assert grid.shares(area).sum() * 500**2 == pytest.approx(area.area, rel=0.005)
    where = grid.places(np.array([0.0, 7999.0]), np.array([0.0, 5999.0]))
    assert where.tolist() == [0, 16 * 12 - 1]


def gi_star_by_pairs(values, known):
    """Ord and Getis's formula, square by square."""
    rows, columns = np.nonzero(known)
    x = values[rows, columns]
    n, z = len(x), np.full(values.shape, np.nan)
    s = np.sqrt((x**2).mean() - x.mean() ** 2)
    for r, c in zip(rows, columns, strict=True):
        w = ((abs(rows - r) <= 1) & (abs(columns - c) <= 1)).astype(float)
        scale = s * np.sqrt((n * (w**2).sum() - w.sum() ** 2) / (n - 1))
        z[r, c] = ((w * x).sum() - x.mean() * w.sum()) / scale
    return z


def test_gi_star_is_its_formula():
    rng = np.random.default_rng(3)
    values, known = rng.gamma(2, 100, (14, 11)), rng.random((14, 11)) < 0.8
    np.testing.assert_allclose(gi_star(values, known), gi_star_by_pairs(values, known), rtol=1e-9)


def test_a_dense_corner_is_the_hot_spot_and_chance_is_none():
    grid = Grid(100.0, (20, 20))
    rng = np.random.default_rng(4)
    cells = rng.poisson(50, (20, 20)).astype(float)
    cells[2:6, 3:8] += 100
    found = hot_spots(cells.ravel(), np.ones(400), grid, 0.5)
    assert found["squares"] == 400 and len(found["spots"]) == 1
    spot = found["spots"][0]
    assert shapely.contains(spot["geometry"], shapely.box(300, 200, 800, 600))
    assert spot["geometry"].area < 1.8 * 500 * 400
    assert spot["expected"] / spot["tissue_mm2"] == pytest.approx(spot["expected_per_mm2"])
    even = hot_spots(rng.poisson(50, 400).astype(float), np.ones(400), grid, 0.5)
    assert even["spots"] == []
    assert "refused" in hot_spots(np.ones(400), np.zeros(400), grid, 0.5)
    assert hot_spots(np.ones(400), np.ones(400), grid, 0.5)["spots"] == []


def test_neighbours_are_counted_without_oneself():
    x, y = np.array([0.0, 3.0, 4.0, 100.0]), np.zeros(4)
    positive = np.array([True, False, True, True])
    assert neighbours(x, y, positive, 5).tolist() == [1, 2, 1, 0]
    assert neighbours(x, y, np.zeros(4, bool), 5).tolist() == [0, 0, 0, 0]


def test_aggregates_come_by_size_and_leave_the_lonely_out():
    rng = np.random.default_rng(5)
    small, large = rng.normal(1000, 20, (30, 2)), rng.normal(4000, 20, (80, 2))
    points = np.concatenate([small, large, [[2500, 2500]], [[4000, 4000]]])
    positive = np.ones(len(points), bool)
    positive[-1] = False
    numbers, found = aggregates(*points.T, positive, reach=40, least=10)
    assert [a.nuclei for a in found] == [80, 30]
    assert set(numbers[:30]) == {2} and set(numbers[30:110]) == {1}
    assert numbers[-2:].tolist() == [0, 0]
    assert found[1].x == pytest.approx(small[:, 0].mean())
    assert shapely.contains_xy(found[0].hull, 4000, 4000)
    assert aggregates(*points.T, np.zeros(len(points), bool), reach=40, least=10)[1] == []
