from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lymphinfer.slides import TileGrid, TissueMask

TWO_BY_TWO = TileGrid((300, 240), 0.25, 0.25, tile_px=200, halo_px=16)

grids = st.builds(
    TileGrid,
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.sampled_from([0.25, 0.2528, 0.5]),
    st.sampled_from([0.25, 0.325, 1.0]),
    st.integers(100, 1024),
    st.integers(0, 128),
)


def test_two_by_two_grid_has_row_major_tiles_cut_at_the_far_edges():
    tiles = list(TWO_BY_TWO)
    assert [(t.index, t.row, t.col) for t in tiles] == [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]
    assert [t.core for t in tiles] == [
        (0, 0, 200, 200),
        (200, 0, 300, 200),
        (0, 200, 200, 240),
        (200, 200, 300, 240),
    ]
    assert tiles[3].halo == (184, 184, 316, 256)
    assert len(TWO_BY_TWO) == 4


@pytest.mark.parametrize(
    ("point", "owner"),
    [
        ((0, 0), 0),
        ((199.99, 199.99), 0),
        ((200, 199.99), 1),
        ((199.99, 200), 2),
        ((200, 200), 3),
        ((300, 0), 1),
        ((0, 240), 2),
        ((300, 240), 3),
    ],
)
def test_a_point_on_a_seam_or_the_far_edge_belongs_to_one_tile(point, owner):
    assert [t.index for t in TWO_BY_TWO if t.owns(*point)] == [owner]


def test_a_point_outside_the_slide_belongs_to_no_tile():
    points = np.array([[-0.01, 5], [300.01, 5], [5, -0.01], [5, 240.01]])
    assert not any(t.owns(points[:, 0], points[:, 1]).any() for t in TWO_BY_TWO)


@given(grids, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_every_point_of_any_slide_has_exactly_one_owner(grid, fractions):
    points = np.array(fractions) * np.array(grid.dimensions)
    owners = sum(t.owns(points[:, 0], points[:, 1]).astype(int) for t in grid)
    assert (owners == 1).all()


@given(grids)
def test_cores_partition_the_working_grid(grid):
    width, height = grid.dimensions
    covered = np.zeros((height, width), dtype=np.uint8)
    for t in grid:
        x0, y0, x1, y1 = t.core
        assert x1 > x0 and y1 > y0
        covered[y0:y1, x0:x1] += 1
    assert (covered == 1).all()


def test_working_size_rounds_up_but_not_by_float_noise():
    assert TileGrid((1000, 1001), 0.25, 0.5).dimensions == (500, 501)
    assert TileGrid((1300, 1300), 0.25, 0.325).dimensions == (1000, 1000)
    assert TileGrid((1301, 1300), 0.25, 0.325).dimensions == (1001, 1000)


def test_only_tiles_that_touch_tissue_are_kept_with_their_indices():
    mask = np.zeros((8, 10), dtype=bool)
    mask[7, 9] = True
    tissue = TissueMask(mask, mpp=7.5, downsample=30.0, area_mm2=0.0)
    assert [t.index for t in TWO_BY_TWO.tiles(tissue)] == [3]
    assert TWO_BY_TWO.tiles(tissue, min_fraction=0.5) == []
    assert [t.index for t in TWO_BY_TWO.tiles()] == [0, 1, 2, 3]


def test_tissue_is_found_through_the_working_resolution():
    mask = np.zeros((1, 10), dtype=bool)
    mask[0, 6] = True  # level-0 columns 600 to 700, working columns 300 to 350
    tissue = TissueMask(mask, mpp=25.0, downsample=100.0, area_mm2=0.0)
    grid = TileGrid((1000, 100), 0.25, 0.5, tile_px=100, halo_px=0)
    assert [t.col for t in grid.tiles(tissue)] == [3]


def test_shards_are_blocks_whose_names_do_not_depend_on_tissue():
    grid = TileGrid((1000, 600), 0.25, 0.25, tile_px=100, halo_px=0)  # 6 rows of 10
    full = {shard.id: shard.tiles for shard in grid.shards(grid)}
    assert list(full) == [f"shard-{r:04d}-{c:04d}" for r in range(2) for c in range(3)]
    assert [t.index for t in full["shard-0000-0002"]] == [8, 9, 18, 19, 28, 29, 38, 39]
    some = [t for t in grid if t.index % 7 == 3]
    for shard in grid.shards(reversed(some)):
        assert list(shard.tiles) == [t for t in full[shard.id] if t.index % 7 == 3]
    assert grid.shards([]) == []


@given(grids, st.integers(1, 40))
def test_shards_hold_each_tile_once_and_no_more_than_asked(grid, tiles_per_shard):
    shards = grid.shards(grid, tiles_per_shard)
    assert sorted(t.index for s in shards for t in s.tiles) == list(range(len(grid)))
    assert max(len(s.tiles) for s in shards) <= tiles_per_shard
    assert len({s.id for s in shards}) == len(shards)


def test_senseless_sizes_are_refused():
    for sizes in [{"tile_px": 0}, {"halo_px": -1}, {"mpp_work": 0.0}]:
        with pytest.raises(ValueError, match="positive"):
            TileGrid((10, 10), **({"mpp_slide": 0.25, "mpp_work": 0.25} | sizes))
    with pytest.raises(ValueError, match="at least one"):
        TWO_BY_TWO.shards([], 0)
    with pytest.raises(IndexError, match=r"\(2, 0\)"):
        TWO_BY_TWO.tile(2, 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([256, 512, 2048]), st.floats(0.2, 0.6))
def test_trimmed_cores_hold_all_tissue_and_do_not_overlap(seed, tile_px, mpp_slide):
    rng = np.random.default_rng(seed)
    mask = np.zeros((45, 55), bool)
    for row, column in rng.integers(0, (40, 50), (3, 2)):
        mask[row : row + 5, column : column + 5] = True
    grid = TileGrid((1500, 1200), mpp_slide, 0.325, tile_px=tile_px, halo_px=64)
    tissue = TissueMask(mask, 8.0, 8.0 / mpp_slide, 1.0)
    seen = np.zeros(grid.dimensions[::-1], np.uint8)
    for tile in grid.tiles(tissue):
        x0, y0, x1, y1 = tile.core
        whole = grid.tile(tile.row, tile.col)
        assert whole.core[0] <= x0 < x1 <= whole.core[2]
        assert whole.core[1] <= y0 < y1 <= whole.core[3]
        assert x0 % 64 == 0 and y0 % 64 == 0
        assert tile.halo == (x0 - 64, y0 - 64, x1 + 64, y1 + 64)
        seen[y0:y1, x0:x1] += 1
    assert seen.max(initial=0) <= 1
    of_mask = [
        np.minimum((np.arange(n) + 0.5) * 0.325 / 8.0, last - 1).astype(int)
        for n, last in zip(seen.shape, mask.shape, strict=True)
    ]
    assert (seen[mask[np.ix_(*of_mask)]] == 1).all()
