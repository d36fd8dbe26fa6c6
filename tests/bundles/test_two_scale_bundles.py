# ruff: noqa: F811
"""Bundles whose markers read two scales: loading, and lending the markers to other detectors."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from lymphinfer.bundles.borrowing import NEAR_FILE, write_with_markers_of
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.schema import MANIFEST
from lymphinfer.errors import BundleError
from lymphinfer.markers.two_scale import NearMarkers
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network
from tests.predict.conftest import two_scale_bundle  # noqa: F401


def test_near_far_and_head_are_loaded(two_scale_bundle):
    bundle = load_bundle(two_scale_bundle)
    assert isinstance(bundle.detector, NearMarkers) and not bundle.detector.shared
    assert bundle.markers.learned == ("CD45", "CD3e")
    assert bundle.markers.far.mpp == 1.3
    assert bundle.markers.head(None, np.ones((3, 2), np.float32)).shape == (3, 2)
    assert bundle.markers.head(np.ones((3, 6), np.float32), None).shape == (3, 2)


@pytest.mark.parametrize("table", ["head", "far"])
def test_a_manifest_that_does_not_fit_the_weights_is_refused(
    two_scale_bundle,
    tmp_path,
    table,
):
    folder = shutil.copytree(two_scale_bundle, tmp_path / "broken")
    manifest = folder / MANIFEST
    text = manifest.read_text("utf-8")
    changed = {"head": ("hidden = 4", "hidden = 5"), "far": ("features = 5", "features = 7")}[table]
    assert changed[0] in text
    manifest.write_text(text.replace(*changed), "utf-8")
    with pytest.raises(BundleError, match="not the weights of the network"):
        load_bundle(folder)


def test_the_markers_are_lent_to_another_detector(two_scale_bundle, tmp_path):
    config = StarDistConfig(n_rays=8, n_filter_base=4, n_depth=1, n_conv_after_unet=4)
    detector = {"kind": "stardist", "file": "mine.safetensors", "mpp": 0.325,
                "prob_threshold": 0.5, "nms_threshold": 0.3,
                "network": config.to_dict()}  # fmt: skip
    made = write_with_markers_of(
        two_scale_bundle, tmp_path / "mine", net=build_network(config), detector=detector,
        name="my detector", licence="none", card="# mine",
    )  # fmt: skip
    assert set(made.files) == {
        "mine.safetensors", NEAR_FILE, "far.safetensors", "head.safetensors",
    }  # fmt: skip
    lent, own = load_bundle(made.folder), load_bundle(two_scale_bundle)
    assert lent.detector.detector.net.config == config
    tile = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    a, b = (x.detector.reader.infer(tile).dense.marker_features for x in (lent, own))
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert "marker model of two" in made.markers[0].source
