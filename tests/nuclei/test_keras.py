from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch

from lymphinfer.errors import BundleError
from lymphinfer.nuclei.stardist.keras import convert_keras
from lymphinfer.nuclei.stardist.network import StarDistConfig, StarDistNet, build_network

SMALL = {"n_rays": 8, "unet_n_filter_base": 4, "unet_n_depth": 2, "net_conv_after_unet": 8,
         "grid": [2, 2], "n_channel_in": 3, "n_dim": 2, "unet_batch_norm": False}  # fmt: skip


def write_model(folder, net: StarDistNet, style: str = "{0}/{0}/{1}") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL))
    (folder / "thresholds.json").write_text(json.dumps({"prob": 0.69, "nms": 0.3}))
    layers = {n: b.conv for n, b in net.blocks.items()} | {"prob": net.prob, "dist": net.dist}
    with h5py.File(folder / "weights_best.h5", "w") as file:
        for name, conv in layers.items():
            kernel = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
            file[style.format(name, "kernel")] = kernel
            file[style.format(name, "bias")] = conv.bias.detach().numpy()


@pytest.fixture
def net() -> StarDistNet:
    torch.manual_seed(1)
    return build_network(StarDistConfig(n_rays=8, n_filter_base=4, n_depth=2, n_conv_after_unet=8))


@pytest.mark.parametrize("style", ["{0}/{0}/{1}", "{0}/{0}/{1}:0", "model_weights/{0}/{0}/{1}:0"])
def test_a_model_converts_whichever_keras_wrote_it(tmp_path, net, style):
    write_model(tmp_path, net, style)
    model = convert_keras(tmp_path)
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.net(x).dist, net.eval()(x).dist)
    assert (model.prob_threshold, model.nms_threshold) == (0.69, 0.3)


def test_every_reason_why_a_model_cannot_be_converted_is_named_at_once(tmp_path, net):
    write_model(tmp_path, net)
    (tmp_path / "config.json").write_text(
        json.dumps({**SMALL, "n_channel_in": 1, "grid": [2, 3], "n_classes": 4})
    )
    with pytest.raises(BundleError, match=r"n_channel_in.*classif.*grid"):
        convert_keras(tmp_path)


def test_weights_of_another_network_name_the_layers_that_differ(tmp_path, net):
    write_model(tmp_path, net)
    with h5py.File(tmp_path / "weights_best.h5", "a") as file:
        del file["dist"]
        file["extra/extra/kernel"] = np.zeros((1, 1, 1, 1))
    with pytest.raises(BundleError, match=r"unknown layer extra.*layer dist is missing"):
        convert_keras(tmp_path)


def test_a_folder_without_a_model_says_what_was_expected(tmp_path):
    with pytest.raises(BundleError, match=r"config\.json"):
        convert_keras(tmp_path)


@pytest.mark.tensorflow
@pytest.mark.slow
def test_the_real_stardist2d_gives_the_same_probabilities_and_distances(tmp_path):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from stardist.models import Config2D, StarDist2D

    config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=3)
    real = StarDist2D(config, name="parity", basedir=str(tmp_path))
    rng = np.random.default_rng(0)
    real.keras_model.set_weights(
        [rng.normal(0, 0.08, w.shape).astype(np.float32) for w in real.keras_model.get_weights()]
    )
    weights = tmp_path / "parity" / "weights_best.h5"
    try:
        real.keras_model.save_weights(str(weights))
    except ValueError:  # Keras 3 insists on its own suffix
        real.keras_model.save_weights(str(weights.with_name("parity.weights.h5")))
        weights.with_name("parity.weights.h5").rename(weights)
    ours = convert_keras(tmp_path / "parity").net
    x = rng.random((128, 192, 3)).astype(np.float32)
    prob, dist = real.keras_model.predict(x[None], verbose=0)
    with torch.inference_mode():
        output = ours(torch.from_numpy(x).permute(2, 0, 1)[None])
    assert np.abs(output.prob_logit.sigmoid()[0, 0].numpy() - prob[0, ..., 0]).max() < 1e-3
    assert np.abs(output.dist[0].permute(1, 2, 0).numpy() - dist[0]).max() < 1e-3
    assert prob.std() > 1e-3
