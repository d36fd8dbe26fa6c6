"""Pooling by an integral image, and one pass for detection and markers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.markers.dense import DenseMarkers, pool_windows
from lymphinfer.markers.hovernet import (
    HoVerNetFeatures,
    backbone_config,
    features_state,
    load_hovernet,
    side_problem,
)
from lymphinfer.nuclei.hovernet.detector import HoVerNetDetector
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig, build_network

REASON = "TIAToolbox is not installed (extra hovernet)"


def cells_of(maps, cell):
    c, h, w = maps.shape
    return maps.reshape(c, h // cell, cell, w // cell, cell).mean((2, 4))


def naive(maps, center, window):
    x, y = np.rint(center).astype(int) - window // 2
    h, w = maps.shape[1:]
    return maps[:, max(0, y) : min(h, y + window), max(0, x) : min(w, x + window)].mean((1, 2))


def test_windows_are_averaged_exactly_and_cut_at_the_border():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 80, 96)).astype(np.float32)
    centers = np.array([[40.2, 30.7], [2, 3], [95, 79], [50, 0]])
    found = pool_windows(maps, centers, 20)
    for row, center in zip(found, centers, strict=True):
        np.testing.assert_allclose(row, naive(maps, center, 20), atol=1e-5)


def test_coarser_cells_are_exact_on_their_borders_and_near_elsewhere():
    rng = np.random.default_rng(0)
    maps = gaussian_filter(rng.normal(size=(2, 80, 96)), (0, 5, 5)).astype(np.float32)
    aligned = np.array([[42, 42], [22, 30]])
    found = pool_windows(cells_of(maps, 4), aligned, 20, 4)
    for row, center in zip(found, aligned, strict=True):
        np.testing.assert_allclose(row, naive(maps, center, 20), rtol=1e-4, atol=1e-4)
    anywhere = rng.uniform(20, 60, (50, 2))
    near = pool_windows(cells_of(maps, 4), anywhere, 20, 4)
    expected = np.array([naive(maps, c, 20) for c in anywhere])
    assert np.abs(near - expected).mean() < 0.1 * expected.std()
    assert pool_windows(maps, np.empty((0, 2)), 20).shape == (0, 2)


def test_backbones_have_names_and_sides():
    assert backbone_config("hovernet") == HoVerNetConfig("fast", ("any",), 1)
    assert backbone_config("hovernet-original-w4") == HoVerNetConfig("original", ("any",), 4)
    assert backbone_config("convnext_base") is None
    assert side_problem("hovernet", 112) is None
    assert side_problem("hovernet-original", 198) is None
    assert "96, 104, 112" in side_problem("hovernet", 100)
    assert "198, 206" in side_problem("hovernet-original", 112)


def small(types=("A", "B")):
    pytest.importorskip("tiatoolbox", reason=REASON)
    torch.manual_seed(0)
    config = HoVerNetConfig("fast", types, 8)
    net = build_network(config).eval()
    classifier = MarkerClassifier(ClassifierConfig(("CD45",), backbone="hovernet-w8", hidden=8))
    return net, config, classifier.eval()


def test_the_backbone_takes_any_checkpoint_of_its_shape(tmp_path):
    from safetensors.torch import save_file

    for types in ((), ("A",), tuple("ABCDE")):
        net, _, classifier = small(types)
        backbone = classifier.backbones[0]
        save_file(net.state_dict(), tmp_path / "hovernet.safetensors")
        load_hovernet(backbone, tmp_path / "hovernet.safetensors")
        own, theirs = backbone.state_dict(), net.state_dict()
        for branch in ("np", "hv", "tp" if types else "np"):
            key = f"decoder.{branch}.u1.conva.weight"
            assert torch.equal(own[f"network.{key}"], theirs[key])
        mine = own["network.decoder.tp.u1.conva.weight"]
        assert types or torch.equal(mine, theirs["decoder.np.u1.conva.weight"])


def test_a_frozen_backbone_stays_as_it_is():
    _, _, classifier = small()
    backbone = classifier.backbones[0]
    backbone.freeze()
    classifier.train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    classifier(torch.rand(2, 3, 112, 112)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert all(p.grad is None for p in backbone.parameters())
    assert classifier.heads[0][0].weight.grad is not None


def test_detection_and_markers_share_a_pass_where_their_networks_are_one():
    net, config, classifier = small()
    backbone = classifier.backbones[0]
    assert isinstance(backbone, HoVerNetFeatures)
    image = np.random.default_rng(0).integers(0, 255, (96, 104, 3)).astype(np.uint8)

    def engine(mpp=0.25):
        detector = HoVerNetDetector(net, config, mpp=0.25, working_mpp=mpp)
        return DenseMarkers(detector, classifier, cell_px=1)

    apart = engine()
    assert not apart.shared
    backbone.load_state_dict(features_state(net.state_dict(), backbone))
    together = engine()
    assert together.shared and not engine(0.5).shared
    tile = together.infer(image)
    expected = apart._features(backbone, image)
    np.testing.assert_allclose(tile.features[0], expected, atol=1e-4 * expected.max())
    centers = np.array([[50.0, 40.0]])
    logits = together.logits(tile.features, centers)
    assert logits.shape == (1, 1)
    found = together.decode(tile)
    assert found.marker_logits.shape == (len(found), 1)
    assert together.halo_px >= 112
