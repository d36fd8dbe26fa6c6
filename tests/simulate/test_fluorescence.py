from __future__ import annotations

import numpy as np

from lymphinfer.simulate.celltypes import TYPE_NAMES, type_index
from lymphinfer.simulate.cohort import simulate_cohort
from lymphinfer.simulate.fluorescence import _artefacts, sample_acquisition
from lymphinfer.simulate.panel19 import CHANNEL_NAMES, CHANNELS, draw_expression
from lymphinfer.simulate.truth import read_truth


def test_there_are_19_channels_and_every_expressing_type_exists() -> None:
    assert len(CHANNELS) == len(set(CHANNEL_NAMES)) == 19
    for channel in CHANNELS:
        assert set(channel.expression) <= set(TYPE_NAMES)
        assert set(channel.share) <= set(channel.expression)


def test_a_neighbour_of_a_positive_cell_shows_some_of_its_membrane_signal() -> None:
    types = np.array([type_index("t-cell-cd8"), type_index("fibroblast"), type_index("fibroblast")])
    y, x = np.zeros(3), np.array([0.0, 15.0, 500.0])
    runs = [draw_expression(np.random.default_rng(i), types, y, x, 0.325) for i in range(40)]
    cd45 = np.mean(runs, axis=0)[:, CHANNEL_NAMES.index("CD45")]
    assert cd45[0] > 10 * cd45[1]
    assert cd45[1] > 1.5 * cd45[2]


def test_slides_of_a_batch_share_gains_and_a_bright_blank_is_bright() -> None:
    same = [
        sample_acquisition(np.random.default_rng(1), np.random.default_rng(i), bright_blank=False)
        for i in range(30)
    ]
    other = [
        sample_acquisition(
            np.random.default_rng(100 + i), np.random.default_rng(i), bright_blank=False
        )
        for i in range(30)
    ]
    spread = [np.log([a.gain for a in group]).std(axis=0).mean() for group in (same, other)]
    assert spread[0] < 0.75 * spread[1]
    bright = sample_acquisition(
        np.random.default_rng(1), np.random.default_rng(0), bright_blank=True
    )
    assert bright.blank > 5 * same[0].blank


def test_artefacts_are_over_exposed_and_spare_hoechst() -> None:
    specks = _artefacts(np.random.default_rng(0), (2000, 2000), 0.325, 30.0)
    assert len(specks) > 3
    amounts = np.array([s[3] for s in specks])
    assert (amounts[:, 0] == 0).all()
    assert amounts.max(axis=1).min() > 1000


def test_the_papers_imbalance_is_the_default(tmp_path) -> None:
    summary = simulate_cohort(tmp_path / "c", slides=1, size=512, seed=0, workers=1)
    truth = read_truth(summary.out / "truth" / f"{summary.folders[0]}.parquet")
    assert truth["CD45"].to_numpy().mean() < 0.3
    assert summary.positives["CD4"] <= 5
