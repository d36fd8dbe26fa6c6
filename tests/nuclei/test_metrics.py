"""Scores against independent implementations and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from stardist.matching import matching

from lymphinfer.nuclei.metrics import (
    DetectionCounts,
    aggregated_jaccard,
    count_detections,
    pair_centroids,
    score_segmentation,
)


def scattered(seed: int, n: int = 30) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros((128, 128), np.int32)
    yy, xx = np.mgrid[:128, :128]
    for i, (y, x, r) in enumerate(rng.uniform((0, 0, 3), (128, 128, 9), (n, 3)), start=1):
        labels[(yy - y) ** 2 + (xx - x) ** 2 < r**2] = i
    return labels


def aji_by_the_book(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Kumar et al. 2017, algorithm 1, with loops."""
    inter = union = 0
    used = set()
    for i in np.unique(truth[truth > 0]):
        mask = truth == i
        best, score = 0, 0.0
        for j in np.unique(predicted[mask]):
            if j:
                other = predicted == j
                iou = (mask & other).sum() / (mask | other).sum()
                if iou > score:
                    best, score = j, iou
        if not best:
            union += mask.sum()
            continue
        used.add(best)
        inter += (mask & (predicted == best)).sum()
        union += (mask | (predicted == best)).sum()
    for j in np.unique(predicted[predicted > 0]):
        if j not in used:
            union += (predicted == j).sum()
    return inter / union


@pytest.mark.parametrize("seed", range(4))
def test_aji_is_that_of_its_paper(seed):
    truth, predicted = scattered(seed), np.roll(scattered(seed), 2 + seed, axis=1)
    predicted[scattered(seed + 10, 5) > 0] = 77
    assert aggregated_jaccard(truth, predicted) == pytest.approx(aji_by_the_book(truth, predicted))


def test_aji_of_the_same_and_of_nothing():
    labels, nothing = scattered(0), np.zeros((128, 128), np.int32)
    assert aggregated_jaccard(labels, labels) == 1
    assert aggregated_jaccard(nothing, nothing) == 1
    assert aggregated_jaccard(labels, nothing) == 0 == aggregated_jaccard(nothing, labels)


def test_scores_are_those_of_stardists_matching():
    truth, predicted = scattered(1), np.roll(scattered(1), 2, axis=0)
    ours, theirs = score_segmentation([truth], [predicted]), matching(truth, predicted, 0.5)
    assert (ours.f1, ours.sq, ours.pq) == pytest.approx(
        (theirs.f1, theirs.mean_matched_score, theirs.panoptic_quality)
    )


def test_pairs_are_one_to_one_and_near():
    truth = np.array([[0.0, 0.0], [10.0, 0.0], [50.0, 50.0]])
    predicted = np.array([[9.0, 0.0], [11.0, 0.0], [0.0, 1.0]])
    pairs = pair_centroids(truth, predicted, radius=3)
    assert dict(zip(pairs.truth.tolist(), pairs.predicted.tolist(), strict=True)) in (
        {0: 2, 1: 0},
        {0: 2, 1: 1},
    )
    assert not len(pair_centroids(truth, np.empty((0, 2)), 3).truth)


def test_class_f1_counts_a_wrong_class_twice_and_a_lost_nucleus_once():
    pairs = pair_centroids(np.eye(5, 2) * 100, np.eye(5, 2) * 100, 1)
    assert len(pairs.truth) == 5
    truth = np.array([1, 1, 0, 0, 1, 1], bool)
    predicted = np.array([1, 0, 1, 0, 1, 1, 1], bool)
    order = np.argsort(pairs.truth)
    pairs = type(pairs)(pairs.truth[order], np.arange(5))
    counts = count_detections(pairs, truth, predicted)
    assert counts == DetectionCounts(5, 1, 2, 2, 1, 1, 1, 2)
    assert counts.f1_detection == pytest.approx(10 / 13)
    assert counts.f1_class == pytest.approx(4 / (4 + 2 * 2 + 1 + 2))
    assert (counts + counts).f1_class == pytest.approx(counts.f1_class)
