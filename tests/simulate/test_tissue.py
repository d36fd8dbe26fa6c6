from __future__ import annotations

import numpy as np
import pytest

from lymphinfer.simulate.layout import LayoutSettings, make_layout, poisson_disc
from lymphinfer.simulate.stain import Stain, sample_stain, to_rgb
from lymphinfer.simulate.texture import band_noise, fibre_bank, smooth_noise, upsample
from lymphinfer.simulate.tissue import Tissue, TissueSettings, render_tissue


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return render_tissue((768, 640), seed=5, label_reach_px=5.0)


def test_shapes_and_types(tissue: Tissue) -> None:
    assert tissue.rgb.shape == (640, 768, 3)
    assert tissue.rgb.dtype == np.uint8
    assert tissue.labels is not None
    assert tissue.labels.labels.shape == (640, 768)
    assert tissue.labels.labels.dtype == np.int32
    assert len(tissue.cells) > 80


def test_the_same_seed_makes_the_same_tissue(tissue: Tissue) -> None:
    again = render_tissue((768, 640), seed=5, label_reach_px=5.0)
    np.testing.assert_array_equal(again.rgb, tissue.rgb)
    np.testing.assert_array_equal(again.cells.features, tissue.cells.features)
    other = render_tissue((768, 640), seed=6)
    assert not np.array_equal(other.rgb, tissue.rgb)


def test_centres_are_labelled_and_nuclei_hold_more_haematoxylin_than_the_rest(
    tissue: Tissue,
) -> None:
    cells, labels = tissue.cells, tissue.labels
    assert labels is not None
    y, x = np.rint(cells.y).astype(int), np.rint(cells.x).astype(int)
    inside = (y >= 0) & (y < 640) & (x >= 0) & (x < 768)
    own = labels.labels[y[inside], x[inside]] == np.flatnonzero(inside) + 1
    assert own.mean() > 0.9
    red = tissue.rgb[..., 0]
    assert np.median(red[labels.distance < -1]) < np.median(red[labels.labels == 0]) - 60
    at_centres = red[y[inside], x[inside]]
    assert (at_centres < np.median(red[labels.labels == 0]) - 25).mean() > 0.9


def test_a_mask_reaches_the_asked_distance_beyond_the_nucleus(tissue: Tissue) -> None:
    labels = tissue.labels
    assert labels is not None
    assert labels.distance[labels.labels > 0].max() < 5.0
    assert (labels.distance[labels.labels == 0] == 5.0).all()


def test_periodic_tissue_fits_its_opposite_edge() -> None:
    rgb = render_tissue((512, 512), seed=2, periodic=True).rgb.astype(float)
    seam = np.abs(rgb[0] - rgb[-1]).mean()
    inner = np.abs(np.diff(rgb, axis=0)).mean()
    assert seam < 1.5 * inner


def test_another_pixel_size_keeps_cells_in_micrometres() -> None:
    settings = TissueSettings(layout=LayoutSettings(aggregate_share=0))
    fine = render_tissue((1200, 1200), mpp=0.25, seed=1, settings=settings, label_reach_px=1.0)
    coarse = render_tissue((600, 600), mpp=0.5, seed=1, settings=settings, label_reach_px=1.0)
    assert fine.labels is not None
    assert coarse.labels is not None
    area = [
        np.median(np.bincount(t.labels.labels[t.labels.distance < 0])[1:]) * t.mpp**2
        for t in (fine, coarse)
        if t.labels is not None
    ]
    assert area[0] == pytest.approx(area[1], rel=0.3)
    assert 15 < area[0] < 90


def test_an_island_has_glass_at_its_borders_and_tissue_in_its_middle() -> None:
    settings = TissueSettings(layout=LayoutSettings(island=True))
    rgb = render_tissue((768, 768), seed=0, settings=settings).rgb.astype(float)
    border = np.concatenate([rgb[:12].reshape(-1, 3), rgb[-12:].reshape(-1, 3)])
    assert np.median(border) > 230
    assert rgb[300:460, 300:460].mean() < 225


def test_poisson_disc_keeps_the_distance_and_fills_the_space() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.random((2, 3000)) * 100
    kept = poisson_disc(rng, y, x, np.full(3000, 5.0))
    gaps = np.hypot(y[kept, None] - y[kept], x[kept, None] - x[kept])
    np.fill_diagonal(gaps, np.inf)
    assert gaps.min() >= 5.0
    to_all = np.hypot(y[:, None] - y[kept], x[:, None] - x[kept])
    assert to_all.min(axis=1).max() < 5.0
    assert len(poisson_disc(rng, y[:0], x[:0], x[:0])) == 0


def test_noise_is_standard_and_fibres_run_along_their_direction() -> None:
    rng = np.random.default_rng(0)
    for noise in (smooth_noise(rng, (96, 64), 3.0), band_noise(rng, (96, 64), 1.5)):
        assert noise.shape == (96, 64)
        assert noise.std() == pytest.approx(1, abs=1e-3)
    bank = fibre_bank(rng, 128, 12.0, 1.0)
    along_x = bank.images[0]
    assert np.abs(np.diff(along_x, axis=1)).mean() < 0.3 * np.abs(np.diff(along_x, axis=0)).mean()


def test_upsample_is_linear_and_wraps() -> None:
    field = np.arange(6, dtype=np.float32)[None, :].repeat(3, axis=0)
    row = upsample(field, 4, 0, 0, 12, 24)[0]
    np.testing.assert_allclose(row[2:22], (np.arange(2, 22) + 0.5) / 4 - 0.5, atol=1e-6)
    assert row[0] > row[1]


def test_beer_and_lambert_gives_the_dyes_optical_density() -> None:
    stain = Stain((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), white=(250, 250, 250), noise=0.0)
    densities = np.full((32, 32, 2), 0.3, np.float32)
    rgb = to_rgb(np.random.default_rng(0), densities, stain, 0.325)
    np.testing.assert_array_equal(rgb[..., 0], np.uint8(np.floor(250 * 10**-0.3 + 0.5)))
    np.testing.assert_array_equal(rgb[..., 2], 250)


def test_stains_differ_between_slides_and_the_mean_stain_does_not() -> None:
    first, second = (sample_stain(np.random.default_rng(i)) for i in range(2))
    assert first != second
    assert sample_stain(np.random.default_rng(0), 0.0) == sample_stain(
        np.random.default_rng(1), 0.0
    )


def test_layout_keeps_its_shares() -> None:
    rng = np.random.default_rng(0)
    settings = LayoutSettings(aggregate_share=0.1, tissue_share=0.8)
    layout = make_layout(rng, (2048, 2048), 0.325, settings)
    assert (layout.aggregate > 0).mean() == pytest.approx(0.1, abs=0.01)
    assert (layout.tissue > 0).mean() == pytest.approx(0.8, abs=0.01)
    assert layout.depth.shape == (512, 512)
