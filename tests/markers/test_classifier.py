from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lymphinfer.errors import BundleError
from lymphinfer.markers.backbones import build_backbone
from lymphinfer.markers.calibration import (
    Calibration,
    expected_calibration_error,
    fit_calibration,
)
from lymphinfer.markers.classifier import (
    ClassifierConfig,
    MarkerClassifier,
    classify_patches,
    masked_bce,
)
from lymphinfer.validation import checked

MARKERS = ("CD45", "CD3e", "CD4", "CD8a")


def test_the_loss_is_the_mean_over_markers_of_the_known_labels_cross_entropy():
    torch.manual_seed(0)
    logits = torch.randn(6, 3)
    labels = torch.tensor(
        [[1, 0, -1], [0, 1, -1], [1, -1, -1], [0, 0, -1], [1, 1, -1], [1, -1, -1]]
    )
    expected = []
    for m in range(2):
        known = labels[:, m] >= 0
        expected.append(
            torch.nn.functional.binary_cross_entropy_with_logits(
                logits[known, m], labels[known, m].float()
            )
        )
    torch.testing.assert_close(masked_bce(logits, labels), torch.stack(expected).mean())


def test_an_unknown_label_sends_no_gradient():
    logits = torch.randn(4, 2, requires_grad=True)
    labels = torch.tensor([[1, -1], [0, -1], [1, 0], [-1, 1]])
    masked_bce(logits, labels).backward()
    assert logits.grad is not None
    assert (logits.grad[labels < 0] == 0).all() and (logits.grad[labels >= 0] != 0).all()


def test_a_batch_without_any_known_label_costs_nothing():
    assert float(masked_bce(torch.randn(3, 4), torch.full((3, 4), -1))) == 0


@pytest.mark.parametrize("independent", [False, True])
def test_four_heads_share_a_backbone_or_have_one_each(independent):
    config = ClassifierConfig(MARKERS, backbone="test_resnet", independent=independent, hidden=8)
    net = MarkerClassifier(config).eval()
    assert len(net.backbones) == (4 if independent else 1)
    patches = np.random.default_rng(0).integers(0, 255, (5, 112, 112, 3), dtype=np.uint8)
    logits = classify_patches(net, patches, batch_size=2)
    assert logits.shape == (5, 4)
    whole = classify_patches(net, patches, batch_size=5)
    np.testing.assert_allclose(logits, whole, atol=1e-4)
    assert checked(ClassifierConfig, config.to_dict(), BundleError, "made") == config


def test_an_unknown_backbone_is_named_with_near_ones():
    with pytest.raises(BundleError, match=r"convnext_huge.*convnext"):
        build_backbone("convnext_huge")


def test_calibration_agrees_with_scikit_learns_logistic_regression():
    rng = np.random.default_rng(0)
    y = (rng.random(4000) < 0.3).astype(int)
    logits = 3 * (y + rng.normal(0, 1, 4000))
    ours = fit_calibration(np.r_[logits, 5.0], np.r_[y, -1])
    theirs = LogisticRegression(C=1e6).fit(logits[:, None], y)
    assert ours.scale == pytest.approx(theirs.coef_[0, 0], rel=0.02)
    assert ours.offset == pytest.approx(theirs.intercept_[0], rel=0.02)
    assert expected_calibration_error(ours(logits), y) < 0.02
    assert expected_calibration_error(Calibration()(logits), y) > 0.1


def test_one_class_alone_leaves_the_logits_as_they_are():
    assert fit_calibration(np.array([1.0, 2.0]), np.array([1, 1])) == Calibration()
