from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lymphinfer.slides import TileGrid, TissueMask
from lymphinfer.slides.cover import (
    CELL_PX,
    SIZE_COSTS_PX,
    common_sizes,
    point_shards,
    tissue_shards,
)


def tiles_of(shards):
    return [tile for shard in shards for tile in shard.tiles]


def whole(grid):
    """A slide that is all tissue."""
    shape = tuple(int(np.ceil(n * grid.mpp_work / 8)) + 1 for n in grid.dimensions[::-1])
    return TissueMask(np.ones(shape, bool), 8.0, 8.0 / grid.mpp_slide, 1.0)


def pixels(tile):
    return (tile.halo[2] - tile.halo[0]) * (tile.halo[3] - tile.halo[1])


grids = st.builds(
    TileGrid,
    st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    st.sampled_from([0.25, 0.2528, 0.5]),
    st.sampled_from([0.25, 0.325]),
    st.sampled_from([256, 512, 2048]),
    st.sampled_from([0, 64, 128]),
)


@settings(deadline=None, max_examples=50)
@given(grids, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_every_point_of_a_slide_that_is_all_tissue_has_exactly_one_owner(grid, fractions):
    x, y = (np.array(fractions) * np.array(grid.dimensions)).T
    for shards in (tissue_shards(grid, whole(grid)), point_shards(grid, x, y)):
        owners = sum(tile.owns(x, y).astype(int) for tile in tiles_of(shards))
        assert (owners == 1).all()
        assert len({shard.id for shard in shards}) == len(shards)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from([256, 512, 2048]), st.floats(0.2, 0.6))
def test_cores_hold_all_tissue_and_do_not_overlap(seed, tile_px, mpp_slide):
    rng = np.random.default_rng(seed)
    mask = np.zeros((200, 250), bool)
    for row, column in rng.integers(0, (190, 240), (6, 2)):
        height, width = rng.integers(1, 60, 2)
        mask[row : row + height, column : column + width] = True
    size = int(2000 / mpp_slide), int(1600 / mpp_slide)
    grid = TileGrid(size, mpp_slide, 0.325, tile_px=tile_px, halo_px=64)
    tissue = TissueMask(mask, 8.0, 8.0 / mpp_slide, 1.0)
    seen = np.zeros(grid.dimensions[::-1], np.uint8)
    for tile in tiles_of(tissue_shards(grid, tissue)):
        x0, y0, x1, y1 = tile.core
        assert x0 % CELL_PX == y0 % CELL_PX == 0
        assert tile.halo[:2] == (x0 - 64, y0 - 64)
        assert tile.halo[2] >= x1 + 64 and tile.halo[3] >= y1 + 64
        assert pixels(tile) <= (tile_px + 128) ** 2
        seen[y0:y1, x0:x1] += 1
    assert seen.max(initial=0) <= 1
    of_mask = [
        np.minimum((np.arange(n) + 0.5) * 0.325 / 8.0, last - 1).astype(int)
        for n, last in zip(seen.shape, mask.shape, strict=True)
    ]
    assert (seen[mask[np.ix_(*of_mask)]] == 1).all()


def test_a_diagonal_strip_is_computed_with_little_glass():
    """A needle biopsy, 0.6 mm by 12 mm, across a slide."""
    mask = np.zeros((1200, 1200), bool)
    for i in range(1060):
        mask[i + 20 : i + 120, i + 20 : i + 60] = True
    grid = TileGrid((38400, 38400), 0.25, 0.325, tile_px=2048, halo_px=64)
    tissue = TissueMask(mask, 8.0, 32.0, float(mask.sum()) * 64e-6)
    tiles = tiles_of(tissue_shards(grid, tissue))
    computed = sum(pixels(tile) for tile in tiles) * 0.325**2 / 1e6
    side = 2048 * 0.325 / 8
    on_grid = {(y // side, x // side) for y, x in zip(*np.nonzero(mask), strict=True)}
    as_a_grid = len(on_grid) * (2048 + 128) ** 2 * 0.325**2 / 1e6
    assert computed < 1.7 * tissue.area_mm2 < as_a_grid * 0.7


def test_an_island_is_one_tile_wherever_it_lies():
    for corner in (0, 100, 240, 250):
        mask = np.zeros((1000, 1000), bool)
        mask[corner : corner + 60, corner : corner + 60] = True
        grid = TileGrid((32000, 32000), 0.25, 0.325, tile_px=2048, halo_px=64)
        (tile,) = tiles_of(tissue_shards(grid, TissueMask(mask, 8.0, 32.0, 0.2)))
        assert pixels(tile) < 1800**2


def test_a_shard_is_no_larger_for_large_tiles_and_small_for_small_ones():
    for tile_px, most in ((256, 1024), (1024, 4096), (4096, 4096)):
        grid = TileGrid((20000, 20000), 0.325, 0.325, tile_px=tile_px, halo_px=64)
        for shard in tissue_shards(grid, whole(grid)):
            cores = [tile.core for tile in shard.tiles]
            area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in cores)
            assert area <= (most + 1024) ** 2


def test_an_empty_slide_has_no_shards():
    grid = TileGrid((3000, 3000), 0.25, 0.325)
    assert tissue_shards(grid, TissueMask(np.zeros((94, 94), bool), 8.0, 32.0, 0.0)) == ()
    assert point_shards(grid, [], []) == ()


def test_sizes_grow_into_one_where_a_size_costs_more_than_its_pixels():
    near, far = (1000, 1000), (1000, 1010)
    assert common_sizes([near, far, far], 2_000_000) == {near: far, far: far}
    large = (1000, 1000 + SIZE_COSTS_PX // 1000 + 1)
    assert common_sizes([near, large], 10_000_000) == {near: near, large: large}
    # Neither holds the other, and what holds both is not allowed.
    wide, high = (1000, 900), (900, 1000)
    assert common_sizes([wide, high], 900_000) == {wide: wide, high: high}
    assert common_sizes([wide, high], 1_000_000) == dict.fromkeys([wide, high], (1000, 1000))


@pytest.mark.parametrize("order", [1, -1])
def test_points_in_any_order_have_the_same_tiles(order):
    grid = TileGrid((9000, 9000), 0.25, 0.325, tile_px=2048, halo_px=64)
    x, y = np.random.default_rng(3).uniform(0, 6900, (2, 50))
    assert point_shards(grid, x[::order], y[::order]) == point_shards(grid, x, y)


def test_each_of_many_sizes_grows_and_none_beyond_what_is_allowed():
    rng = np.random.default_rng(0)
    sizes = [(int(w) * 64, int(h) * 64) for w, h in rng.integers(4, 40, (400, 2))]
    most = max(w * h for w, h in sizes)
    grown = common_sizes(sizes, most)
    assert set(grown) == set(sizes) and len(set(grown.values())) < len(set(sizes))
    for (w, h), (width, height) in grown.items():
        assert width >= w and height >= h and width * height <= most
