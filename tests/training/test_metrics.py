"""Every metric agrees with scikit-learn, ties and missing classes included."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from lymphinfer.training import metrics


def cells(seed, ties=False, n=400):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.2).astype(np.int8)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    if ties:
        scores = np.round(scores, 1)
    return labels, scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
class TestAgreement:
    def test_auroc(self, seed, ties):
        labels, scores = cells(seed, ties)
        assert metrics.auroc(labels, scores) == pytest.approx(
            reference.roc_auc_score(labels, scores)
        )

    def test_average_precision(self, seed, ties):
        labels, scores = cells(seed, ties)
        assert metrics.average_precision(labels, scores) == pytest.approx(
            reference.average_precision_score(labels, scores)
        )

    @pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
    def test_balanced_accuracy(self, seed, ties, threshold):
        labels, scores = cells(seed, ties)
        assert metrics.balanced_accuracy(labels, scores, threshold) == pytest.approx(
            reference.balanced_accuracy_score(labels, scores >= threshold)
        )

    def test_curves(self, seed, ties):
        labels, scores = cells(seed, ties)
        fpr, tpr = metrics.roc_curve(labels, scores)
        expected = reference.roc_curve(labels, scores, drop_intermediate=False)
        np.testing.assert_allclose(fpr, expected[0])
        np.testing.assert_allclose(tpr, expected[1])
        recall, precision = metrics.precision_recall_curve(labels, scores)
        wanted = reference.precision_recall_curve(labels, scores)
        np.testing.assert_allclose(precision[::-1], wanted[0][:-1])
        np.testing.assert_allclose(recall[::-1], wanted[1][:-1])

    def test_best_threshold_is_the_best_of_all(self, seed, ties):
        labels, scores = cells(seed, ties)
        own = metrics.balanced_accuracy(labels, scores, metrics.best_threshold(labels, scores))
        every = [reference.balanced_accuracy_score(labels, scores >= t) for t in np.unique(scores)]
        assert own == pytest.approx(max(every))

    def test_reliability(self, seed, ties):
        from sklearn.calibration import calibration_curve

        labels, scores = cells(seed, ties)
        # Off the edges of bins, which scikit-learn closes on the other side.
        scores = scores * 0.98 + 0.0073
        mean, frequency, count = metrics.reliability(labels, scores, bins=10)
        expected = calibration_curve(labels, scores, n_bins=10)
        np.testing.assert_allclose(frequency[count > 0], expected[0])
        np.testing.assert_allclose(mean[count > 0], expected[1])
        error = metrics.expected_calibration_error(scores, labels, bins=10)
        gaps = np.abs(expected[0] - expected[1])
        assert error == pytest.approx(np.sum(gaps * count[count > 0]) / len(labels))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 0, -1], "no positive cell"),
        ([1, 1, -1], "no negative cell"),
        ([-1, -1, -1], "no labelled cell"),
    ],
)
def test_a_missing_class_gives_nan_and_its_reason(labels, reason):
    labels, scores = np.array(labels, np.int8), np.array([0.1, 0.6, 0.3])
    assert metrics.why_undefined(labels) == reason
    assert math.isnan(metrics.auroc(labels, scores))
    assert math.isnan(metrics.average_precision(labels, scores))
    assert math.isnan(metrics.best_threshold(labels, scores))
    assert math.isnan(metrics.balanced_accuracy(labels, scores))


def test_unknown_labels_are_left_out():
    labels, scores = cells(0)
    with_unknown = np.concatenate([labels, np.full(50, -1, np.int8)])
    more = np.concatenate([scores, np.linspace(0, 1, 50)])
    for metric in (metrics.auroc, metrics.average_precision, metrics.balanced_accuracy):
        assert metric(with_unknown, more) == metric(labels, scores)


def test_weights_count_like_repeated_cells():
    labels, scores = cells(3, ties=True)
    weights = np.random.default_rng(0).integers(1, 4, len(labels))
    assert metrics.best_threshold(labels, scores, weights) == metrics.best_threshold(
        np.repeat(labels, weights), np.repeat(scores, weights)
    )
