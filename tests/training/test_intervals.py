"""Intervals from resampled patients are those of really repeating the patients' cells."""

import math
import time

import numpy as np
import pytest
from sklearn import metrics as reference

from lymphinfer.markers.calibration import expected_calibration_error
from lymphinfer.training.intervals import PatientBootstrap, draw_patients, measure


def cells(n_patients=5, per_patient=80, seed=0, ties=True):
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"C{i}" for i in range(n_patients)], per_patient)
    shift = np.repeat(rng.normal(0, 0.1, n_patients), per_patient)
    labels = (rng.random(len(patients)) < 0.3).astype(np.int8)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels + shift, 0.2), 0, 1)
    labels[rng.random(len(labels)) < 0.1] = -1
    return labels, (np.round(scores, 2) if ties else scores), patients


def naive(metric, labels, scores, patients, draws):
    names = np.unique(patients)
    values = []
    for draw in draws:
        rows = np.concatenate(
            [
                np.flatnonzero(patients == p)
                for p, k in zip(names, draw, strict=True)
                for _ in range(int(k))
            ]
        )
        rows = rows[labels[rows] >= 0]
        values.append(metric(labels[rows], scores[rows]))
    return np.percentile(values, [2.5, 97.5])


METRICS = {
    "auroc": reference.roc_auc_score,
    "average_precision": reference.average_precision_score,
    "calibration_error": lambda y, p: expected_calibration_error(p, y),
}


@pytest.mark.parametrize("name", METRICS)
def test_interval_equals_that_of_repeated_cells(name):
    labels, scores, patients = cells()
    boot = PatientBootstrap(labels, patients, replicates=60, seed=4)
    estimate = getattr(boot, name)(scores)
    known = labels >= 0
    assert estimate.value == pytest.approx(METRICS[name](labels[known], scores[known]))
    expected = naive(METRICS[name], labels, scores, patients, draw_patients(5, 60, 4))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected))


def test_balanced_accuracy_interval_equals_that_of_repeated_cells():
    labels, scores, patients = cells()
    estimate = PatientBootstrap(labels, patients, replicates=60, seed=1).balanced_accuracy(
        scores, 0.5
    )
    expected = naive(
        lambda y, s: reference.balanced_accuracy_score(y, s >= 0.5),
        *(labels, scores, patients, draw_patients(5, 60, 1)),
    )
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected))


def test_one_patient_has_a_value_and_no_interval():
    labels, scores, patients = cells(n_patients=1)
    estimate = PatientBootstrap(labels, patients).auroc(scores)
    assert math.isfinite(estimate.value)
    assert math.isnan(estimate.low)
    assert "one patient" in estimate.reason


def test_a_missing_class_is_said_in_words():
    labels, scores, patients = cells()
    row = measure("CD4", np.minimum(labels, 0), scores, scores, patients, threshold=math.nan)
    assert str(row.auroc) == "- (no positive cell)"
    assert row.to_dict()["auroc"]["value"] is None
    assert row.to_dict()["threshold"] is None


def test_the_paper_s_test_set_takes_seconds():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(9), 20_000)
    labels = (rng.random(len(patients)) < 0.1).astype(np.int8)
    scores = rng.random(len(patients)) + 0.3 * labels
    began = time.process_time()
    measure("CD45", labels, scores / 1.3, scores / 1.3, patients, threshold=0.5)
    assert time.process_time() - began < 10
