from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate import celltypes
from lymphinfer.simulate.design import IMBALANCES, marker_shares
from lymphinfer.simulate.layout import LayoutSettings, make_layout
from lymphinfer.simulate.sites import CONTEXTS, type_prior
from lymphinfer.simulate.tissue import Cells, sample_cells
from lymphinfer.simulate.truth import auroc


@cache
def _many_cells(imbalance: str, seed: int = 0) -> Cells:
    rng = np.random.default_rng(seed)
    layout = make_layout(rng, (6144, 6144), 0.325, LayoutSettings(aggregate_share=0.03))
    return sample_cells(rng, layout, 0.325, marker_shares(IMBALANCES[imbalance]))


@pytest.fixture(scope="module")
def rich() -> Cells:
    return _many_cells("rich")


def test_every_types_markers_contain_their_parents() -> None:
    for cell_type in celltypes.TYPES:
        for name in cell_type.markers:
            assert set(TCELL_PANEL.lineage(name)) <= set(cell_type.markers)


def test_the_posterior_of_a_type_is_bayes_rule() -> None:
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(len(celltypes.TYPES)), 50)
    types = celltypes.draw_types(rng, prior)
    features = celltypes.sample_features(rng, types)
    density = np.exp(celltypes.log_density(features))
    share = celltypes.LOOKALIKE
    expected = np.empty_like(prior)
    for i in range(50):
        for k in range(len(celltypes.TYPES)):
            looks = share * prior[i]
            looks[k] += 1 - share
            expected[i, k] = prior[i, k] * (looks * density[i]).sum()
        expected[i] /= expected[i].sum()
    np.testing.assert_allclose(celltypes.type_posterior(features, prior), expected, rtol=1e-9)


def test_posteriors_are_calibrated(rich: Cells) -> None:
    for k in range(len(TCELL_PANEL)):
        posterior, truth = rich.posterior[:, k], rich.markers[:, k]
        for low, high in ((0.0, 0.05), (0.05, 0.3), (0.3, 0.7), (0.7, 1.0)):
            chosen = (posterior >= low) & (posterior < high)
            expected = posterior[chosen].sum()
            deviation = np.sqrt((posterior[chosen] * (1 - posterior[chosen])).sum())
            assert abs(truth[chosen].sum() - expected) < 4 * deviation + 1


@pytest.mark.parametrize("imbalance", [pytest.param("rich", marks=pytest.mark.slow), "paper"])
def test_best_auroc_falls_along_the_hierarchy_and_is_below_one(imbalance: str) -> None:
    cells = [_many_cells(imbalance, seed) for seed in range(2)]
    truth = np.concatenate([c.markers for c in cells])
    score = np.concatenate([c.posterior for c in cells])
    cd45, cd3e, cd4, cd8a = (auroc(truth[:, k], score[:, k]) for k in range(4))
    assert 0.995 > cd45 > cd3e > max(cd4, cd8a)
    assert min(cd4, cd8a) > 0.85
    t_cells = truth[:, 2] | truth[:, 3]
    apart = auroc(truth[t_cells, 2], score[t_cells, 2] - score[t_cells, 3])
    assert 0.6 < apart < 0.8


@pytest.mark.parametrize("imbalance", ["rich", "paper"])
def test_marker_frequencies_are_as_asked(imbalance: str) -> None:
    asked = marker_shares(IMBALANCES[imbalance])
    cells = _many_cells(imbalance)
    for k, name in enumerate(TCELL_PANEL.names):
        expected = asked[name] * len(cells)
        assert abs(cells.markers[:, k].sum() - expected) < 5 * np.sqrt(expected)


def test_type_prior_rows_are_probabilities_and_keep_lymphocytes_in_aggregates() -> None:
    context = np.repeat(np.arange(len(CONTEXTS)), (6000, 900, 800, 2500, 100))
    prior = type_prior(context, marker_shares(IMBALANCES["rich"]))
    np.testing.assert_allclose(prior.sum(axis=1), 1)
    b_cell = celltypes.type_index("b-cell")
    assert prior[CONTEXTS.index("aggregate"), b_cell] > 3 * prior[CONTEXTS.index("stroma"), b_cell]


def test_type_prior_refuses_children_that_exceed_their_parent() -> None:
    with pytest.raises(ValueError, match="exceed"):
        type_prior(np.zeros(9, np.intp), {"CD45": 0.2, "CD3e": 0.1, "CD4": 0.09, "CD8a": 0.05})


def test_auroc_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth = rng.random(500) < 0.3
    score = np.round(rng.normal(size=500) + truth, 1)
    assert auroc(truth, score) == pytest.approx(metrics.roc_auc_score(truth, score))
    assert np.isnan(auroc(np.zeros(4, bool), np.arange(4.0)))
