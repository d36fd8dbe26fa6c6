"""OpenVINO in torch's place: the same numbers, and nothing sent anywhere."""

import gc
import os
import signal
import sys

import numpy as np
import pytest
import torch

from lymphinfer.errors import LymphinferError
from lymphinfer.markers import classifier
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier, classify_patches
from lymphinfer.nuclei.stardist import infer
from lymphinfer.nuclei.stardist.infer import predict_dense
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network
from lymphinfer.runtime import choose_runtime

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(
    choose_runtime(CPU) != "openvino", reason="OpenVINO is not installed"
)


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def trained_looking(**changes) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(
        StarDistConfig(n_filter_base=8, n_conv_after_unet=16, n_markers=1, **changes)
    ).eval()


@needs_openvino
@pytest.mark.parametrize("encoder", ["unet", "resnet"])
def test_openvino_predicts_what_torch_does_for_any_size(encoder):
    net = trained_looking(encoder=encoder)
    run = infer.compiled(net, None)
    for size in ((64, 96), (150, 131)):
        pixels = image(*size)[None]
        own, theirs = (predict_dense(net, pixels, run=r)[0] for r in (None, run))
        assert own.marker_features is None and theirs.marker_features is None
        for a, b in zip(own[:3], theirs[:3], strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)


@needs_openvino
def test_bfloat16_by_openvino_is_near_float32():
    net = trained_looking(encoder="resnet")
    pixels = image(128, 128)[None]
    full = predict_dense(net, pixels)[0]
    half = predict_dense(net, pixels, run=infer.compiled(net, torch.bfloat16))[0]
    assert np.abs(full.prob - half.prob).max() < 0.05
    assert 0 < np.abs(full.dist - half.dist).max() < 0.5


@needs_openvino
@pytest.mark.parametrize("count", [1, classifier.BATCH, classifier.BATCH + 3])
def test_patches_get_the_same_logits_whatever_their_number(count):
    torch.manual_seed(0)
    net = MarkerClassifier(ClassifierConfig(("CD45", "CD3e"), "resnet10t", hidden=8, patch_px=32))
    patches = np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), np.uint8)
    run = classifier.compiled(net.eval(), None)
    expected = classify_patches(net, patches)
    np.testing.assert_allclose(classify_patches(net, patches, run=run), expected, atol=1e-4)


@needs_openvino
def test_signals_are_heard_after_networks_have_come_and_gone():
    """With a stack of their own, as pytest's faulthandler has one."""
    nets = [trained_looking() for _ in range(3)]
    runs = [infer.compiled(net, None) for net in nets]
    for net, run in zip(nets, runs, strict=True):
        predict_dense(net, image(64, 64)[None], run=run)
    while runs:
        del runs[0], run
        run = None
        gc.collect()
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(True))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert heard


@needs_openvino
def test_nothing_is_sent_while_a_network_is_compiled_and_run():
    heard = []
    sys.addaudithook(
        lambda event, args: heard.append(args) if event.startswith("socket.") else None
    )
    net = trained_looking()
    predict_dense(net, image(64, 64)[None], run=infer.compiled(net, None))
    assert heard == []


def test_a_runtime_that_cannot_be_had_is_refused_with_the_fix(monkeypatch):
    with pytest.raises(LymphinferError, match="choose one of auto, torch, openvino"):
        choose_runtime(CPU, "tensorrt")
    with pytest.raises(LymphinferError, match="leave --runtime out"):
        choose_runtime(torch.device("cuda"), "openvino")
    monkeypatch.setattr("lymphinfer.runtime.find_spec", lambda name: None)
    with pytest.raises(LymphinferError, match="pip install openvino"):
        choose_runtime(CPU, "openvino")
    assert choose_runtime(CPU) == "torch"
