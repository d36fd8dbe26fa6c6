"""The far scale's numbers in bytes, by the recipe that makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stardist.data import test_image_he_2d as he_image

from lymphinfer.bundles.torch_networks import weights_of
from lymphinfer.markers.configs import FarConfig
from lymphinfer.markers.far_graph import GraphFar
from lymphinfer.markers.far_scale import FarNet
from recipes.he.far_int8 import LAST, with_last_layer

pytest.importorskip("openvino")


def test_the_last_layer_makes_up_for_what_rounding_moves():
    torch.manual_seed(0)
    config = FarConfig((8, 12), (1, 1), 8, ("a", "b"), hidden=10)
    weights = weights_of(FarNet(config).eval())
    inner = {k: v for k, v in weights.items() if not k.startswith("tell.")}
    picture = np.ascontiguousarray(he_image()[None, :96, :128])
    # A map that loses all above a half.
    cut = {"up.0.conv.top": np.full(1, 0.5, np.float32)}
    made_up = with_last_layer(config, inner, cut, [picture])
    assert set(made_up) == {*cut, f"{LAST}.weight", f"{LAST}.bias"}

    def features(numbers):
        return GraphFar(config, weights, "int8", None, numbers).look(picture[0])

    whole = GraphFar(config, weights).look(picture[0])
    before, after = (np.square(features(n) - whole).mean() for n in (cut, made_up))
    assert 0 < after < 0.9 * before
