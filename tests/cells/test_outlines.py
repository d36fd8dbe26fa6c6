"""Outlines come out with few vertices, on QuPath's grid, and valid there."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lymphinfer.cells.outlines import (
    MAX_VERTICES,
    Rings,
    areas,
    bounds,
    centroids,
    clean,
    is_valid,
    simplify,
)


def star(radii, center=(1000.0, 2000.0)):
    radii = np.atleast_2d(np.asarray(radii, float))
    angle = np.linspace(0, 2 * np.pi, radii.shape[1], endpoint=False)
    return radii[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1) + np.asarray(center)


def lumpy(n, rays=32, seed=0):
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, rays, endpoint=False)
    phase = rng.uniform(0, 6, (n, 1))
    radii = 12 + 2.5 * np.cos(2 * angle + phase) + rng.normal(0, 1) * np.cos(3 * angle)
    return star(radii) + rng.uniform(0, 180_000, (n, 1, 2))


def qupath_accepts(ring):
    polygon = shapely.Polygon(ring)
    if not polygon.is_valid or polygon.area == 0:
        return False
    snapped = shapely.set_precision(polygon, 0.01)
    return snapped.geom_type == "Polygon" and snapped.area > 0


def assert_written_rules(cleaned):
    for ring in (cleaned.rings[i] for i in range(len(cleaned.rings))):
        assert 3 <= len(ring) <= MAX_VERTICES
        assert (ring != np.roll(ring, 1, axis=0)).any(axis=1).all()
        assert np.array_equal(ring, np.round(ring, 2))
        assert qupath_accepts(ring)


def test_a_nucleus_keeps_its_area_and_place_with_half_the_vertices():
    outlines = lumpy(200)
    cleaned = clean(outlines)
    before = shapely.polygons(outlines)
    after = [shapely.Polygon(cleaned.rings[i]) for i in range(200)]
    assert cleaned.dropped == cleaned.repaired == 0
    assert (cleaned.rings.counts == 16).all()
    assert shapely.area(after) == pytest.approx(shapely.area(before), rel=0.01)
    overlap = shapely.area(shapely.intersection(before, after))
    assert (overlap / shapely.area(shapely.union(before, after))).min() > 0.95
    assert_written_rules(cleaned)


def test_few_vertices_are_only_rounded():
    triangle = np.array([[[0.004, 0.0], [10.0, 0.006], [0.0, 10.0]]])
    assert clean(triangle).rings[0].tolist() == [[0.0, 0.0], [10.0, 0.01], [0.0, 10.0]]


def test_areas_centroids_and_bounds_agree_with_shapely():
    rings = clean(lumpy(50)).rings
    polygons = [shapely.Polygon(rings[i]) for i in range(50)]
    assert areas(rings) == pytest.approx(shapely.area(polygons))
    middle = shapely.get_coordinates(shapely.centroid(polygons))
    np.testing.assert_allclose(centroids(rings), middle, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(bounds(rings), shapely.bounds(polygons))


def test_the_outline_of_a_nucleus_is_the_same_wherever_its_tile_begins():
    outlines = lumpy(20) % 50_000
    here, there = clean(outlines).rings, clean(outlines + 100_000).rings
    assert np.abs(there.coords - here.coords - 100_000).max() < 0.011


def test_broken_outlines_are_repaired_or_dropped_and_counted():
    bow_tie = [[0, 0], [10, 10], [10, 0], [0, 12]]
    flat = [[0, 0], [5, 5], [10, 10], [5, 5]]
    point = [[3, 3]] * 4
    square = [[0, 0], [10, 0], [10, 10], [0, 10]]
    lost = [[np.nan, 0], [10, 0], [10, 10], [0, 10]]
    cleaned = clean(np.array([bow_tie, flat, point, square, lost], float))
    assert cleaned.kept.tolist() == [0, 3]
    assert (cleaned.repaired, cleaned.dropped) == (1, 3)
    assert areas(cleaned.rings)[1] == 100
    assert_written_rules(cleaned)


def test_thousands_of_rings_are_judged_as_each_is_alone():
    rings = clean(lumpy(5000)).rings
    crossed = [3, 2047, 2048, 4999]
    coords = rings.coords.copy()
    for i in crossed:
        first = rings.offsets[i]
        coords[[first + 2, first + 9]] = coords[[first + 9, first + 2]]
    found = is_valid(Rings(coords, rings.offsets))
    assert np.flatnonzero(~found).tolist() == crossed


def test_rings_of_whole_hundredths_are_those_of_their_px():
    rings = clean(lumpy(50)).rings
    made = Rings.of_hundredths(rings.hundredths, rings.offsets)
    assert np.array_equal(made.coords, rings.coords)
    assert np.array_equal(made.hundredths, rings.hundredths)
    part = made.between(7, 11)
    assert [part[i].tolist() for i in range(4)] == [rings[i].tolist() for i in range(7, 11)]
    assert len(made.between(45, 60)) == 5


def test_a_ring_that_only_snapping_breaks_is_not_valid():
    # A notch whose tip stays 0.004 px from the opposite side: valid, until it is snapped.
    hourglass = np.array([[0, 0], [10.01, 0], [5, 5], [10.01, 10], [0, 10], [4.99, 5]], float)
    needle = np.array([[0, 0], [10, 0], [10, 0.01], [0.01, 0.0]], float)
    for ring in (hourglass, needle):
        rings = Rings(ring, np.array([0, len(ring)]))
        assert is_valid(rings)[0] == qupath_accepts(ring)


def test_no_outlines_give_no_rings():
    cleaned = clean(np.empty((0, 32, 2)))
    assert len(cleaned.rings) == 0
    assert cleaned.dropped == 0
    assert areas(cleaned.rings).shape == (0,)
    assert centroids(cleaned.rings).shape == (0, 2)
    assert bounds(cleaned.rings).shape == (0, 4)


def test_a_wrong_shape_or_size_is_refused():
    with pytest.raises(ValueError, match="shape"):
        clean(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="max_vertices"):
        clean(np.zeros((1, 32, 2)), max_vertices=32)


def test_rings_are_taken_in_the_order_asked_for():
    rings = clean(lumpy(5)).rings
    taken = rings.take(np.array([3, 1]))
    assert np.array_equal(taken[0], rings[3])
    assert np.array_equal(taken[1], rings[1])


def test_the_vertex_that_matters_least_goes_first():
    square_with_dent = np.array([[[0, 0], [5, 0.1], [10, 0], [10, 10], [0, 10]]], float)
    kept = simplify(square_with_dent, 4)[0]
    assert np.allclose(kept, [[0, 0], [10, 0], [10, 10], [0, 10]], atol=0.05)


wild = arrays(
    float, (3, 24, 2), elements=st.floats(-0.3, 0.3) | st.floats(-40, 40) | st.just(1.005)
)
spiky = arrays(float, (3, 32), elements=st.floats(0, 0.05) | st.floats(0, 60)).map(star)


@settings(max_examples=60, deadline=None)
@given(wild | spiky)
def test_whatever_comes_in_only_valid_rings_come_out(outlines):
    cleaned = clean(outlines)
    assert len(cleaned.kept) == len(cleaned.rings)
    assert len(cleaned.kept) + cleaned.dropped == len(outlines)
    assert_written_rules(cleaned)


@settings(max_examples=100, deadline=None)
@given(arrays(int, (1, 8, 2), elements=st.integers(0, 60)))
def test_the_quick_verdict_never_contradicts_geos(hundredths):
    ring = hundredths[0] / 100
    rings = Rings(ring, np.array([0, len(ring)]))
    assert is_valid(rings)[0] == qupath_accepts(ring)
