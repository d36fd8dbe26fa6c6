"""Calibration and operating points at the stain's frequencies, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from recipes.he.crc01 import MARKERS
from recipes.he.points import (
    Validation,
    calibrations,
    operating_points,
    rates,
    real_frequency,
)


def test_weights_bring_positives_to_the_share_that_is_asked_for():
    labels = np.array([1] * 40 + [0] * 60 + [-1] * 5)
    weights = real_frequency(labels, 0.2)
    assert weights[labels == 1].sum() / weights.sum() == pytest.approx(0.2)
    assert weights.sum() == pytest.approx(100)
    assert (weights[labels == -1] == 0).all()


def test_rates_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500)
    p = np.clip(0.3 * y + rng.random(500) * 0.7, 0, 1)
    w = rng.uniform(0.5, 2, 500)
    cuts = np.array([0.1, 0.42, 0.7])
    precision, recall = rates(p, y, w, cuts)
    for i, cut in enumerate(cuts):
        called = p >= cut
        assert precision[i] == pytest.approx(precision_score(y, called, sample_weight=w))
        assert recall[i] == pytest.approx(recall_score(y, called, sample_weight=w))


def sample(n: int, separation: float, share: float, seed: int) -> Validation:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int8)
    z = separation * y + rng.normal(size=n) - separation / 2 + np.log(share / (1 - share))
    p = np.repeat(1 / (1 + np.exp(-z))[:, None], len(MARKERS), axis=1)
    labels = np.repeat(y[:, None], len(MARKERS), axis=1)
    return Validation(str(seed), p, labels, np.ones(n))


def test_points_are_ordered_and_state_what_the_stain_s_set_says():
    stain, other = sample(4000, 3.0, 0.2, 0), sample(3000, 2.5, 0.3, 1)
    points, lines = operating_points([stain, other], 0)
    assert list(points) == ["precise", "balanced", "sensitive"]
    cuts = [points[name]["threshold"] for name in points]
    assert cuts == sorted(cuts, reverse=True)
    called = stain.p[:, 0] >= points["balanced"]["threshold"]
    y = stain.labels[:, 0]
    assert points["balanced"]["precision"] == pytest.approx(precision_score(y, called), abs=2e-3)
    assert points["balanced"]["recall"] == pytest.approx(recall_score(y, called), abs=2e-3)
    assert points["precise"]["precision"] >= points["balanced"]["precision"]
    assert points["sensitive"]["recall"] >= points["balanced"]["recall"]
    assert len(lines) == 3


def test_other_laboratories_have_a_say_in_what_is_called():
    stain, other = sample(4000, 3.0, 0.2, 0), sample(3000, 2.0, 0.1, 1)
    alone, _ = operating_points([stain, other], 0)
    careful, _ = operating_points([stain, other], 0, elsewhere=["1"], least_elsewhere=0.7)
    cut = careful["balanced"]["threshold"]
    assert cut > alone["balanced"]["threshold"]
    assert precision_score(other.labels[:, 0], other.p[:, 0] >= cut) >= 0.7


def test_a_marker_at_chance_has_no_points():
    points, lines = operating_points([sample(4000, 0.0, 0.05, 2)], 0)
    assert points == {} and "no threshold" in lines[0]


def test_calibrated_products_have_the_frequencies_of_their_labels():
    rng = np.random.default_rng(3)
    n = 20_000
    parent = rng.random(n) < 0.3
    child = parent & (rng.random(n) < 0.4)
    labels = np.stack([parent, child, child, child], axis=1).astype(np.int8)
    # Logits of the wrong scale and offset.
    logits = 2.5 * (2 * labels - 1) + rng.normal(size=(n, 4)) * 2 + 1.5
    logits[~parent, 1:] = rng.normal(size=((~parent).sum(), 3))
    found = calibrations(logits, labels, np.ones((n, 4)))
    p = found[0](logits[:, 0])
    assert p.mean() == pytest.approx(parent.mean(), rel=0.05)
    product = p * found[1](logits[:, 1])
    assert product.mean() == pytest.approx(child.mean(), rel=0.1)
