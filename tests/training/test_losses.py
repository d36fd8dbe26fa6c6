"""Weights are the inverse positive ratio, and a marker that cannot be learned is named."""

import numpy as np
import pytest
import torch

from lymphinfer.errors import DataError
from lymphinfer.markers.classifier import masked_bce
from lymphinfer.training.losses import positive_weights


def test_weighted_positives_pull_as_hard_as_all_negatives():
    labels = np.array([[1], [0], [0], [0], [-1]], np.int8)
    weights = positive_weights(labels, ("m",))
    assert weights.tolist() == [3.0]
    logits = torch.zeros(5, 1, requires_grad=True)
    masked_bce(logits, torch.from_numpy(labels), torch.from_numpy(weights)).backward()
    gradient = logits.grad[:, 0]
    assert float(gradient[0] + gradient[1:4].sum()) == pytest.approx(0)
    assert float(gradient[4]) == 0


def test_markers_without_a_class_are_all_named():
    labels = np.array([[1, 0, -1], [1, 0, 0]], np.int8)
    with pytest.raises(DataError) as error:
        positive_weights(labels, ("CD45", "CD3e", "CD4"))
    assert "CD45 has 2 positive and 0 negative" in str(error.value)
    assert "CD3e has 0 positive" in str(error.value)
    assert "CD4 has 0 positive and 1 negative" in str(error.value)
