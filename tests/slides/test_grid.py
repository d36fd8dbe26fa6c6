from __future__ import annotations

import pytest

from lymphinfer.slides import TileGrid


def test_working_size_rounds_up_but_not_by_float_noise():
    assert TileGrid((1000, 1001), 0.25, 0.5).dimensions == (500, 501)
    assert TileGrid((1300, 1300), 0.25, 0.325).dimensions == (1000, 1000)
    assert TileGrid((1301, 1300), 0.25, 0.325).dimensions == (1001, 1000)


def test_a_tile_ends_with_the_slide_and_owns_its_far_edges():
    grid = TileGrid((300, 240), 0.25, 0.25, halo_px=16)
    tile = grid.tile((200, 0, 400, 200))
    assert tile.core == (200, 0, 300, 200) and tile.halo == (184, -16, 316, 216)
    inside = [(200, 0), (299.99, 199.99), (300, 0)]
    outside = [(199.99, 0), (300.01, 0), (200, 200), (200, -0.01)]
    assert all(tile.owns(*point) for point in inside)
    assert not any(tile.owns(*point) for point in outside)


def test_senseless_sizes_are_refused():
    for sizes in [{"tile_px": 0}, {"halo_px": -1}, {"mpp_work": 0.0}]:
        with pytest.raises(ValueError, match="positive"):
            TileGrid((10, 10), **({"mpp_slide": 0.25, "mpp_work": 0.25} | sizes))
