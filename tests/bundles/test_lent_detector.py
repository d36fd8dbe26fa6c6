"""Bundles of markers alone, whose nuclei another bundle's detector finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lymphinfer.bundles.composing import compose, used_manifest
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.schema import Evidence, MarkerSpec, read_manifest
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.errors import BundleError
from lymphinfer.markers.classifier import (
    ClassifierConfig,
    MarkerClassifier,
    classify_patches,
    compiled,
)
from lymphinfer.panel import PANELS
from tests.bundles.test_bundles import edit, folder

__all__ = ["folder"]


@pytest.fixture
def alone(folder, monkeypatch):
    """Markers alone; the bundle `tiny` lends its detector."""
    monkeypatch.setenv("LYMPHINFER_WEIGHTS", str(folder.parent))
    torch.manual_seed(1)
    panel = PANELS["t-cell"]
    config = ClassifierConfig(panel.names, "test_resnet", hidden=8, patch_px=28, enlarge=4)
    write_bundle(
        folder.parent / "alone",
        modules={"classifier.safetensors": MarkerClassifier(config)},
        header={"name": "alone", "version": "1", "summary": "markers", "licence": "Apache-2.0",
                "panel": "t-cell", "mpp": 0.325, "hierarchy": "conditional"},
        detector={"kind": "bundle", "bundle": "tiny"},
        classifier={"kind": "patch", "file": "classifier.safetensors", "mpp": 1.3,
                    "network": config.to_dict()},
        markers=[MarkerSpec(n, Evidence.STAIN, "made", threshold=0.5) for n in panel.names],
    )  # fmt: skip
    return folder.parent / "alone"


def test_a_bundle_of_markers_alone_finds_nuclei_with_the_detector_that_it_names(alone, folder):
    bundle, lender = load_bundle(alone), load_bundle(folder)
    assert type(bundle.detector) is type(lender.detector)
    for own, lent in zip(
        bundle.detector.net.parameters(), lender.detector.net.parameters(), strict=True
    ):
        assert torch.equal(own, lent)
    assert bundle.manifest.name == "alone"
    assert bundle.manifest.identity["detector"]["name"] == "tiny"
    assert bundle.markers.patch_px == 28 and bundle.markers.patch_reach_px == 56


def test_another_version_of_the_lender_makes_another_result(alone, folder):
    before = used_manifest(alone).sha256
    assert before not in (read_manifest(alone).sha256, read_manifest(folder).sha256)
    edit(folder, 'version = "1"', 'version = "2"')
    assert used_manifest(alone).sha256 != before


def test_the_lender_s_files_are_verified_too(alone, folder):
    path = folder / "stardist.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"stardist\.safetensors has sha256"):
        load_bundle(alone)


def test_the_named_lender_and_another_detector_can_be_asked_for(alone, folder):
    base = read_manifest(alone)
    assert compose(base, folder)[0] == compose(base)[0]
    # A bundle of markers alone lends on what it is lent.
    assert compose(read_manifest(folder), alone)[0].name == "tiny"
    other, source = compose(base, "stardist")
    assert source.name == "he-v2" and other.name == "alone with the detector of he-v2"


def test_a_lender_that_is_missing_or_lends_itself_is_named(alone):
    edit(alone, 'bundle = "tiny"', 'bundle = "gone"')
    with pytest.raises(
        BundleError, match="has markers alone and takes its nuclei from bundle gone"
    ):
        load_bundle(alone)
    edit(alone, 'bundle = "gone"', 'bundle = "alone"')
    with pytest.raises(BundleError, match="which has no detector of its own"):
        load_bundle(alone)


def test_markers_off_a_detector_s_own_features_cannot_be_alone(alone):
    text = (alone / "bundle.toml").read_text()
    start, end = text.index("[classifier]"), text.index("[[marker]]")
    edit(alone, text[start:end], '[classifier]\nkind = "feature"\nmarkers = ["CD45"]\n\n')
    with pytest.raises(BundleError, match='kind "feature" are read off the bundle\'s own detector'):
        read_manifest(alone)


def test_an_enlarged_patch_is_seen_at_the_backbone_s_size():
    torch.manual_seed(0)
    small = MarkerClassifier(ClassifierConfig(("CD45",), "test_resnet", hidden=8, patch_px=28))
    config = ClassifierConfig(("CD45",), "test_resnet", hidden=8, patch_px=28, enlarge=4)
    large = MarkerClassifier(config).eval()
    large.load_state_dict(small.state_dict())
    seen = []
    large.backbones[0].register_forward_hook(lambda m, x, y: seen.append(x[0].shape))
    patches = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    told = classify_patches(large, patches)
    assert tuple(seen[0]) == (2, 3, 112, 112)
    assert "enlarge" not in small.config.to_dict() and config.to_dict()["enlarge"] == 4
    pytest.importorskip("openvino")
    np.testing.assert_allclose(compiled(large, "fp32").logits(patches), told, atol=1e-3)
