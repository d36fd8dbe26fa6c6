"""Probabilities fitted on evenly drawn cells are those of the slides they came from."""

import math

import numpy as np
import pytest

from lymphinfer.panel import TCELL_PANEL
from lymphinfer.training.calibrate import (
    calibrate,
    count_labels,
    final_probabilities,
    population_weights,
    read_calibration,
    write_calibration,
)


@pytest.fixture
def slide():
    """200,000 cells whose logits tell them apart as well as can be, 1 in 50 positive."""
    rng = np.random.default_rng(0)
    true_logit = rng.normal(-5, 1.5, 200_000)
    positive = rng.random(len(true_logit)) < 1 / (1 + np.exp(-true_logit))
    labels = np.repeat(positive[:, None], 4, axis=1).astype(np.int8)
    return np.repeat(0.5 * true_logit[:, None] + 3, 4, axis=1), labels


def test_weighted_calibration_promises_as_many_cells_as_there_are(slide):
    logits, labels = slide
    rng = np.random.default_rng(1)
    positive = np.flatnonzero(labels[:, 0] == 1)
    negative = np.flatnonzero(labels[:, 0] == 0)
    half = min(len(positive), 2000)
    rows = np.concatenate([rng.choice(positive, half), rng.choice(negative, half)])
    options = {"hierarchy": "none"}
    even = calibrate(logits[rows], labels[rows], TCELL_PANEL, **options)
    real = calibrate(
        logits[rows], labels[rows], TCELL_PANEL, population=count_labels(labels), **options
    )
    truth = labels[:, 0].mean()
    promised = [
        final_probabilities(logits, c.calibrations, TCELL_PANEL, "none")[:, 0].mean()
        for c in (even, real)
    ]
    assert promised[0] > 3 * truth
    assert promised[1] == pytest.approx(truth, rel=0.1)


def test_weights_by_label_row_restore_the_population():
    rng = np.random.default_rng(0)
    population = rng.integers(-1, 2, (5000, 3)).astype(np.int8)
    sample = population[rng.random(len(population)) < np.where(population[:, 0] == 1, 0.9, 0.2)]
    weights = population_weights(sample, count_labels(population))
    assert weights.sum() == pytest.approx(len(population))
    for value in (-1, 0, 1):
        assert weights[sample[:, 1] == value].sum() == pytest.approx(
            (population[:, 1] == value).sum()
        )


def test_a_head_that_ranks_the_wrong_way_is_not_turned_about(slide):
    logits, labels = slide
    found = calibrate(-logits[:2000], labels[:2000], TCELL_PANEL, hierarchy="none")
    assert all(c.scale > 0 for c in found.calibrations)


def test_it_reads_back_as_written(tmp_path, slide):
    logits, labels = slide[0][:500], slide[1][:500].copy()
    labels[:, 2] = 0
    found = calibrate(logits, labels, TCELL_PANEL, hierarchy="conditional")
    assert math.isnan(found.thresholds[2])
    write_calibration(tmp_path / "c.json", found)
    again = read_calibration(tmp_path / "c.json")
    assert again.calibrations == found.calibrations
    np.testing.assert_equal(again.thresholds, found.thresholds)
