"""A marker context that learns on maps in bytes."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from stardist.data import test_image_he_2d as he_image

from lymphinfer.bundles.registry import find_bundle
from lymphinfer.layers import Layers
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.graph import GraphStarDist
from recipes.he.context_train import NAME, PARTS, Places, reader_of, teach

pytest.importorskip("openvino")
FOLDER = find_bundle("he-v2")


@pytest.fixture(scope="module")
def shipped():
    """Configuration, weights and numbers in bytes of he-v2."""
    detector = tomllib.loads((FOLDER / "bundle.toml").read_text("utf-8"))["detector"]
    config = StarDistConfig(**detector["network"])
    return config, load_file(FOLDER / detector["file"]), load_file(FOLDER / detector["int8"])


@pytest.fixture(scope="module")
def context(shipped):
    layers = Layers(shipped[1], shipped[2])
    names = [*(f"{part}.weight" for part in PARTS), "near.bias", "out.weight", "out.bias"]
    return {f"{NAME}.{name}": layers.take(f"{NAME}.{name}") for name in names}


@pytest.fixture(scope="module")
def pixels():
    return np.ascontiguousarray(he_image()[None, :128, :128])


def rows_of(shipped, pixels):
    maps = reader_of(*shipped)(pixels)
    return torch.cat([torch.from_numpy(m[0].copy()).flatten(1) for m in maps]).T


def test_at_single_places_it_says_what_the_graph_says(shipped, context, pixels):
    config, weights, numbers = shipped
    (seen,) = GraphStarDist(config, weights, "fp32", None, numbers).predict(pixels)
    said = Places(context)(rows_of(shipped, pixels)).detach().numpy()
    step = seen.features_step
    told = seen.marker_features.reshape(len(step), -1).T * step
    # They leave the graph as bytes, up to a top, and means of bytes are bytes too.
    steps = np.abs(np.minimum(said, 255 * step) - told) / step
    assert steps.mean() < 0.5 and steps.max() < 5


def test_it_learns_what_it_is_told_with_its_weights_rounded(shipped, context, pixels):
    torch.manual_seed(0)
    rows = rows_of(shipped, pixels)
    wanted = Places(context)(rows).detach()
    changed = {k: v + np.float32(0.05) * v.std() * np.random.default_rng(0).normal(size=v.shape)
               for k, v in context.items()}  # fmt: skip
    seen = rows.half(), wanted.half(), torch.ones(len(rows), 1)

    def error(net):
        return float((net(rows) - wanted).detach().square().mean() / wanted.square().mean())

    start = Places(changed)
    before = error(start)
    after = teach(start, seen, torch.eye(wanted.shape[1]), steps=40)
    assert error(after) < 0.5 * before
    weights = after.weights()
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in context.items()}
    assert error(Places(weights)) == pytest.approx(error(after), rel=0.05)
