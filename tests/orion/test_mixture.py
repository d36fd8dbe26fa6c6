import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from lymphinfer.orion.autofluorescence import slope_on_autofluorescence
from lymphinfer.orion.mixture import find_background, fit_two_gaussians, split_in_two


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6])
def test_background_is_found_under_a_wide_signal(share):
    rng = np.random.default_rng(0)
    n = 20_000
    values = rng.normal(230, 12, n)
    values[: int(share * n)] += rng.lognormal(np.log(500), 0.6, int(share * n))
    found = find_background(values)
    assert found.mode == pytest.approx(230, abs=4)
    assert found.sigma == pytest.approx(12, rel=0.2)


def test_constant_values_have_a_background_too():
    found = find_background(np.full(500, 7.0))
    assert found.mode == pytest.approx(7.0, abs=0.01) and found.sigma > 0


def test_mixture_agrees_with_scikit_learn():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0, 1, 6000), rng.normal(4, 0.7, 1500)])
    ours = fit_two_gaussians(values, (0.5, 3.0), (1.0, 1.0))
    theirs = GaussianMixture(2, tol=1e-9, max_iter=2000, reg_covar=0).fit(values[:, None])
    order = np.argsort(theirs.means_[:, 0])
    assert ours.mean == pytest.approx(theirs.means_[order, 0], abs=2e-3)
    assert ours.sd == pytest.approx(np.sqrt(theirs.covariances_[order, 0, 0]), abs=2e-3)
    assert ours.weight == pytest.approx(theirs.weights_[order], abs=2e-3)
    between = np.linspace(*ours.mean, 50)
    assert ours.posterior(between) == pytest.approx(
        theirs.predict_proba(between[:, None])[:, order[1]], abs=5e-3
    )


def test_posterior_never_falls_beyond_the_means():
    fit = fit_two_gaussians(np.r_[np.linspace(-5, 5, 900), np.full(100, 3.0)], (0, 3), (3, 0.1))
    grid = np.linspace(-50, 50, 101)
    posterior = fit.posterior(grid)
    assert posterior[0] == fit.posterior(np.array(fit.mean))[0]
    assert posterior[-1] == fit.posterior(np.array(fit.mean))[1]


def test_clutter_takes_up_artefacts_that_would_widen_the_signal():
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.normal(0, 1, 900), rng.normal(6, 0.5, 100), [14.0, 17, 20, 25]])
    plain = fit_two_gaussians(values, (0, 6), (1, 1))
    robust = fit_two_gaussians(values, (0, 6), (1, 1), max_clutter=0.05)
    assert plain.sd[1] > 2
    assert robust.sd[1] == pytest.approx(0.5, abs=0.15)


def test_otsu_divides_two_heaps():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, 500), rng.normal(10, 1, 300)])
    assert (values <= split_in_two(values)).sum() == 500


def test_slope_is_that_of_the_negative_cells():
    rng = np.random.default_rng(4)
    af = 200 + rng.lognormal(5, 0.4, 30_000)
    values = 200 + 0.7 * (af - 200) + rng.normal(0, 8, 30_000)
    values[:9000] += rng.lognormal(6, 0.5, 9000)
    assert slope_on_autofluorescence(values, af) == pytest.approx(0.7, abs=0.05)
    assert slope_on_autofluorescence(values, np.full_like(af, 300.0)) == 0.0
    assert slope_on_autofluorescence(values[:80], af[:80]) == 0.0
