"""Every backbone of Table 1 builds, has the paper's size, and sees what its original sees."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lymphinfer.bundles.registry import find_bundle
from lymphinfer.compute import half_type
from lymphinfer.errors import BundleError
from lymphinfer.markers.backbones import build_backbone
from lymphinfer.markers.classifier import (
    ClassifierConfig,
    MarkerClassifier,
    classify_patches,
    masked_bce,
)
from lymphinfer.markers.phikon import Phikon, build_phikon, from_hugging_face, load_phikon
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.training.config import DataConfig, ModelConfig, RetrainConfig
from lymphinfer.training.inputs import network_problems
from lymphinfer.training.plan import parameter_count
from lymphinfer.training.start import build_classifier, load_backbone

SMALL = {"image_px": 32, "patch_px": 8, "width": 32, "depth": 2, "heads": 4}


@pytest.fixture(scope="module")
def reference():
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    model = ViTModel(config).eval()
    with torch.no_grad():
        # Norms and biases begin as ones and zeros, which would hide a swapped pair.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def as_transformers_4(state):
    """The same tensors under the names of the published file."""
    names = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[key.replace("layers.", "encoder.layer.")] = value
    return renamed


@pytest.mark.parametrize("side", [32, 16, 48])
@pytest.mark.parametrize("names", [lambda s: s, as_transformers_4])
def test_phikon_equals_transformers_at_any_size(reference, side, names):
    net = Phikon(resize=False, **SMALL).eval()
    net.load_state_dict(from_hugging_face(names(reference.state_dict())))
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = reference(x, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        torch.testing.assert_close(net(x), expected, atol=2e-6, rtol=1e-5)


def test_phikon_resized_sees_the_size_that_it_was_trained_at(reference):
    net = Phikon(resize=True, **SMALL).eval()
    net.load_state_dict(from_hugging_face(reference.state_dict()))
    x = torch.randn(2, 3, 16, 16)
    large = torch.nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = reference(large).last_hidden_state[:, 0]
        torch.testing.assert_close(net(x), expected, atol=2e-6, rtol=1e-5)


def test_phikon_s_full_state_is_covered_key_by_key():
    from transformers import ViTConfig, ViTModel

    with torch.device("meta"):
        full = ViTModel(ViTConfig())
        own = Phikon(resize=False)
    for state in (full.state_dict(), as_transformers_4(full.state_dict())):
        mapped = from_hugging_face({f"vit.{k}": v for k, v in state.items()})
        assert {k: v.shape for k, v in mapped.items()} == {
            k: v.shape for k, v in own.state_dict().items()
        }


def test_phikon_refuses_other_files_and_sizes(tmp_path, reference):
    net = Phikon(resize=False, **SMALL)
    with pytest.raises(BundleError, match="multiple of 8"):
        net(torch.zeros(1, 3, 20, 20))
    state = reference.state_dict()
    with pytest.raises(BundleError, match="unknown"):
        from_hugging_face({**state, "classifier.weight": torch.zeros(1)})
    path = tmp_path / "part.safetensors"
    save_file({k: v.contiguous() for k, v in state.items() if "layers.1" not in k}, path)
    with pytest.raises(BundleError, match=path.name):
        load_phikon(net, path)


def test_phikon_loads_a_local_file(tmp_path, reference):
    path = tmp_path / "model.safetensors"
    save_file(as_transformers_4(reference.state_dict()), path)
    net = Phikon(resize=False, **SMALL)
    load_backbone(net, path)
    expected = from_hugging_face(reference.state_dict())
    assert all(torch.equal(v, expected[k]) for k, v in net.state_dict().items())


def test_weights_that_cannot_be_had_are_an_error_or_a_warning(monkeypatch, caplog):
    import timm

    real = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return real(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    auto = ModelConfig(backbone="test_resnet", hidden=8, pretrained="auto")
    _, start = build_classifier(auto, ("m",), 32)
    assert "random" in start
    assert "no route to host" in caplog.text
    with pytest.raises(BundleError, match="backbone_weights"):
        build_classifier(ModelConfig(backbone="test_resnet", pretrained="yes"), ("m",), 32)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        build_phikon(resize=True, pretrained=True)


def test_a_local_file_fills_every_network_of_an_independent_classifier(tmp_path):
    path = tmp_path / "resnet.safetensors"
    import timm

    source = timm.create_model("test_resnet", num_classes=10)
    save_file(source.state_dict(), path)
    config = ModelConfig(
        backbone="test_resnet", hidden=8, independent=True, backbone_weights=str(path)
    )
    net, start = build_classifier(config, ("a", "b"), 32)
    assert path.name in start
    expected = source.state_dict()
    for backbone in net.backbones:
        assert all(torch.equal(v, expected[k]) for k, v in backbone.state_dict().items())
    other = build_backbone("test_resnet").module
    with pytest.raises(BundleError, match="not the weights"):
        load_backbone(torch.nn.Sequential(other), path)


def test_hovernet_names_its_extra_where_tiatoolbox_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "tiatoolbox.models.architecture", None)
    with pytest.raises(BundleError, match=r"lymphinfer\[hovernet\]"):
        build_backbone("hovernet")


def test_an_unknown_backbone_is_an_error():
    with pytest.raises(BundleError, match="unknown to timm"):
        build_backbone("resnet_of_dreams")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "millions"),
    [("convnext_base", 88), ("hovernet", 39), ("phikon", 88), ("phikon-resize", 88)],
)
def test_every_backbone_of_table_1_takes_a_step_and_scores_at_112_px(backbone, millions):
    if backbone == "hovernet":
        pytest.importorskip("tiatoolbox")
    net = MarkerClassifier(ClassifierConfig(TCELL_PANEL.names, backbone=backbone))
    net.to(memory_format=torch.channels_last)
    # The paper's numbers; it does not say how many heads they count.
    assert parameter_count(net) / 1e6 == pytest.approx(millions, abs=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    before = net.heads[0][0].weight.detach().clone()
    # As `retrain` does on this CPU: without instructions for it, bfloat16 takes ten times as long.
    half = half_type("cpu")
    with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
        logits = net(torch.rand(2, 3, 112, 112).contiguous(memory_format=torch.channels_last))
    loss = masked_bce(logits, torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0]]))
    loss.backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None]
    assert not missing
    optimizer.step()
    assert not torch.equal(before, net.heads[0][0].weight)
    patches = np.random.default_rng(0).integers(0, 255, (2, 112, 112, 3)).astype(np.uint8)
    scores = classify_patches(net.eval(), patches)
    assert scores.shape == (2, 4)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("freeze", [False, True])
def test_the_backbone_of_the_shipped_patch_classifier_can_be_retrained(freeze):
    """It begins from the shipped detector, as the shipped classifier did."""
    model = ModelConfig(backbone="stardist-resnet", hidden=8, freeze=freeze)
    config = RetrainConfig(data=DataConfig(patch_px=80), model=model)
    assert network_problems(config) == []
    net, start = build_classifier(model, ("CD45",), 80)
    file = find_bundle("he-v1-fast") / "stardist.safetensors"
    assert str(file) in start and ("kept as they are" in start) == freeze
    taught = load_file(file)["features.conv.weight"].float()
    assert torch.equal(net.backbones[0].net.features.conv.weight, taught)
    wrong = replace(config, data=DataConfig(patch_px=90))
    assert "needs a patch_px that 16 divides" in network_problems(wrong)[0]


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "lcnet_050", "vgg11", "resnet10t"])
def test_the_heads_are_as_wide_as_what_a_model_of_timm_ends_in(name):
    with torch.device("meta"):
        config = ClassifierConfig(TCELL_PANEL.names, name, hidden=8, patch_px=64)
        assert MarkerClassifier(config)(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    config = RetrainConfig(data=DataConfig(patch_px=64), model=ModelConfig(backbone=name))
    assert network_problems(config) == []


def test_a_model_that_takes_one_size_alone_is_told_before_anything_is_computed():
    config = RetrainConfig(model=ModelConfig(backbone="vit_tiny_patch16_224"))
    (problem,) = network_problems(config)
    assert problem.startswith("backbone vit_tiny_patch16_224 cannot take patches of 112 px (")
    assert "224" in problem
    assert network_problems(replace(config, data=DataConfig(patch_px=224))) == []
