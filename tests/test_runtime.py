"""OpenVINO in torch's place: the same numbers, and nothing sent anywhere."""

import gc
import os
import signal
import sys

import numpy as np
import pytest
import torch

from lymphinfer import runtime
from lymphinfer.bundles.torch_networks import weights_of
from lymphinfer.markers import classifier
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier, classify_patches
from lymphinfer.markers.far_graph import GraphFar
from lymphinfer.markers.far_scale import FarConfig, FarNet, TorchFar
from lymphinfer.markers.patch_graph import GraphPatches, build_graph, has_graph
from lymphinfer.nuclei.stardist.graph import GraphStarDist
from lymphinfer.nuclei.stardist.infer import TorchStarDist
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network
from lymphinfer.runtime import core

pytest.importorskip("openvino")

SMALL = {"n_filter_base": 8, "n_conv_after_unet": 16}
CONTEXT = {"n_markers": 2, "n_marker_context": 12, "marker_features": True}
COMPACT = {"encoder": "compact", "widths": (8, 12, 16), "blocks": (1, 0, 2)}
SHAPES = {
    "unet": {"n_markers": 1},
    "unet without markers": {},
    "unet of one level": {"grid": 1, "n_depth": 1},
    "unet of grid 4": {"grid": 4, "n_depth": 2},
    "resnet": {"encoder": "resnet", "n_markers": 1},
    "resnet of one level": {"encoder": "resnet", "n_markers": 1, "n_depth": 1, "grid": 1},
    "resnet of grid 4": {"encoder": "resnet", "n_depth": 2, "grid": 4},
    "resnet with context": {"encoder": "resnet", "n_blocks": 3, **CONTEXT},
    "compact": {**COMPACT, "n_markers": 1},
    "compact with context": {**COMPACT, **CONTEXT},
    "compact of grid 4": {**COMPACT, "grid": 4},
}


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def trained_looking(**changes) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(StarDistConfig(**SMALL, **changes)).eval()


def graph_of(net, precision="fp32") -> GraphStarDist:
    return GraphStarDist(net.config, weights_of(net), precision)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_graph_predicts_what_torch_does_for_any_size(shape):
    net = trained_looking(**SHAPES[shape])
    graph, plain = graph_of(net), TorchStarDist(net)
    for size in ((64, 96), (150, 131)):
        pixels = image(*size)[None]
        own, theirs = plain.predict(pixels)[0], graph.predict(pixels)[0]
        for a, b in zip(own[:4], theirs[:4], strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, atol=3e-5 * max(1, np.abs(a).max()))


def test_several_images_are_predicted_at_once():
    net = trained_looking(encoder="resnet")
    pixels = np.stack([image(70, 90), 255 - image(70, 90)])
    both = graph_of(net).predict(pixels)
    for own, alone in zip(both, pixels, strict=True):
        np.testing.assert_allclose(own.dist, graph_of(net).predict(alone[None])[0].dist, atol=1e-4)


def test_what_was_predicted_stays_while_more_is():
    graph = graph_of(trained_looking(encoder="resnet"))
    first = graph.predict(image(64, 96)[None])[0]
    before = first.dist.copy(), first.prob.copy()
    for value in range(4):
        graph.predict(np.full((1, 64, 96, 3), 60 * value, np.uint8))
        gc.collect()
    np.testing.assert_array_equal(first.dist, before[0])
    np.testing.assert_array_equal(first.prob, before[1])


def test_memory_of_a_prediction_is_used_again_once_nobody_holds_any_of_it():
    graph = graph_of(trained_looking(encoder="resnet", n_markers=1))
    (held,) = graph.predict(image(64, 96)[None])
    where = held.dist.__array_interface__["data"][0]
    logits = held.marker_logit
    del held
    gc.collect()
    # One of its maps is still there.
    other = graph.predict(image(64, 96)[None])[0]
    assert other.dist.__array_interface__["data"][0] != where
    del logits
    gc.collect()
    again = graph.predict(image(64, 96)[None])[0]
    assert again.dist.__array_interface__["data"][0] == where


def test_sizes_that_come_and_go_give_what_they_gave():
    graph = graph_of(trained_looking(encoder="resnet"))
    sizes = [(64, 64), (64, 96), (96, 96), (32, 128)]
    first = [graph.predict(image(*size)[None])[0] for size in sizes]
    for size, before in reversed(list(zip(sizes, first, strict=True))):
        np.testing.assert_array_equal(graph.predict(image(*size)[None])[0].dist, before.dist)


def test_a_size_is_compiled_once_and_memory_of_others_is_given_back(monkeypatch):
    monkeypatch.setattr(runtime, "PX_WITH_MEMORY", 64 * 96 + 64 * 64)
    compiled = []
    plain = runtime.CpuGraph._compile

    def compile_(self, shape):
        compiled.append(shape[1:3])
        return plain(self, shape)

    monkeypatch.setattr(runtime.CpuGraph, "_compile", compile_)
    graph = graph_of(trained_looking(encoder="resnet"))
    held = graph.predict(image(64, 96)[None])[0]
    before = held.dist.copy()
    for size in ((64, 64), (96, 96), (64, 96), (64, 64)):
        graph.predict(image(*size)[None])
    assert compiled == [(64, 96), (64, 64), (96, 96)]
    np.testing.assert_array_equal(held.dist, before)
    resting = {shape[1:3] for shape, one in graph.run._compiled.items() if one.at_rest}
    assert resting == {(96, 96)}
    # What is let go of late is not kept either.
    graph.predict(image(96, 96)[None])
    del held
    gc.collect()
    assert not graph.run._compiled[1, 64, 96, 3].idle


def test_bfloat16_by_openvino_is_near_float32():
    net = trained_looking(encoder="resnet")
    pixels = image(128, 128)[None]
    full, half = (graph_of(net, name).predict(pixels)[0] for name in ("fp32", "bfloat16"))
    assert np.abs(full.prob - half.prob).max() < 0.05
    # A CPU without its instructions computes in float32 all the same.
    able = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert able == bool(np.abs(full.dist - half.dist).max())
    assert np.abs(full.dist - half.dist).max() < 0.5


def test_the_far_scale_is_seen_as_torch_sees_it():
    torch.manual_seed(0)
    net = FarNet(FarConfig((8, 12, 16), (1, 0, 2), 8, ("a", "b", "c"), hidden=10)).eval()
    plain, graph = TorchFar(net), GraphFar(net.config, weights_of(net))
    pixels = image(96, 128)
    # Nuclei beyond the rectangle too.
    nuclei = np.random.default_rng(1).uniform(-5, 140, (300, 2))
    own, theirs = (e.tell(e.look(pixels), nuclei) for e in (plain, graph))
    np.testing.assert_allclose(own, theirs, atol=1e-5 * np.abs(own).max())
    for engine in (plain, graph):
        whole = engine.look(pixels)
        again = engine.join(whole, whole, 2, 20, 20)
        np.testing.assert_array_equal(engine.tell(again, nuclei), engine.tell(whole, nuclei))


@pytest.mark.parametrize("count", [1, classifier.BATCH, classifier.BATCH + 3])
def test_patches_get_the_same_logits_whatever_their_number(count):
    torch.manual_seed(0)
    net = MarkerClassifier(ClassifierConfig(("CD45", "CD3e"), "resnet10t", hidden=8, patch_px=32))
    patches = np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), np.uint8)
    run = classifier.compiled(net.eval(), "fp32")
    np.testing.assert_allclose(run.logits(patches), classify_patches(net, patches), atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "independent", "side", "enlarge"),
    [
        ("stardist-resnet", False, 64, 1),
        ("stardist-resnet", True, 64, 1),
        ("stardist-resnet", False, 16, 4),
        ("resnet10t", False, 112, 1),
        ("convnext_atto", True, 112, 1),
        ("convnext_atto", False, 28, 4),
        # Its blocks have linear layers in the place of 1x1 convolutions, and are three to a stage.
        ("convnext_tiny", False, 64, 1),
    ],
)
def test_patches_are_told_by_a_graph_as_by_torch(backbone, independent, side, enlarge):
    torch.manual_seed(0)
    config = ClassifierConfig(("CD45", "CD3e"), backbone, independent, 8, side, enlarge)
    net = MarkerClassifier(config).eval()
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.5, 1)
    patches = np.random.default_rng(1).integers(0, 256, (5, side, side, 3), np.uint8)
    assert has_graph(config)
    graph = GraphPatches(config, build_graph(config, weights_of(net)), "fp32")
    expected = classify_patches(net, patches)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(graph.logits(patches), expected, atol=1e-4 * np.abs(expected).max())


def test_weights_of_another_network_are_refused_by_name():
    net = trained_looking(encoder="resnet")
    weights = weights_of(net)
    with pytest.raises(ValueError, match=r"prob\.weight is missing"):
        GraphStarDist(net.config, {k: v for k, v in weights.items() if k != "prob.weight"})
    with pytest.raises(ValueError, match=r"prob\.weight is \(2,\), not \(1, 16, 1, 1\)"):
        GraphStarDist(net.config, {**weights, "prob.weight": np.zeros(2)})
    with pytest.raises(ValueError, match="more belong to no layer"):
        GraphStarDist(net.config, {**weights, "more": np.zeros(2)})
    normalised = trained_looking(encoder="resnet", batch_norm=True)
    with pytest.raises(ValueError, match="folded away"):
        graph_of(normalised)


def test_signals_are_heard_after_networks_have_come_and_gone():
    """With a stack of their own, as pytest's faulthandler has one."""
    runs = [graph_of(trained_looking()) for _ in range(3)]
    for run in runs:
        run.predict(image(64, 64)[None])
    while runs:
        del runs[0], run
        run = None
        gc.collect()
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(True))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert heard


def test_nothing_is_sent_while_networks_are_built_traced_and_run():
    heard = []
    sys.addaudithook(
        lambda event, args: heard.append(args) if event.startswith("socket.") else None
    )
    graph_of(trained_looking()).predict(image(64, 64)[None])
    net = MarkerClassifier(ClassifierConfig(("CD45",), "test_resnet", hidden=8, patch_px=28))
    classifier.compiled(net.eval(), "fp32").logits(image(28, 28)[None])
    assert heard == []
