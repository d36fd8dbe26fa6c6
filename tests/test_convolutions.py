"""Gradients of the networks' convolutions against the same in float64, without oneDNN.

``ONEDNN_MAX_CPU_ISA`` is read once, so a CPU without AVX-512 is played by a process of its own.
"""

import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from lymphinfer.convolutions import FEW_CHANNELS, SubsampledConv2d, mend_convolutions
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network

CHANNELS = range(1, FEW_CHANNELS + 2)


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


def strided_layer(channels, stride=2):
    return mend_convolutions(nn.Sequential(nn.Conv2d(channels, 8, 1, stride=stride)))


def relative_error(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


def check_layer(channels, stride):
    """Weight gradient of a strided 1x1 convolution against its definition."""
    net = strided_layer(channels, stride).to(memory_format=torch.channels_last)
    x = last(torch.randn(2, channels, 33, 32))
    y = net(x)
    gradient = torch.randn(y.shape)
    y.backward(last(gradient))
    picked = x[:, :, ::stride, ::stride].double()
    expected = torch.einsum("bohw,bchw->oc", gradient.double(), picked)
    assert relative_error(net[0].weight.grad[:, :, 0, 0], expected) < 1e-5, (channels, stride)
    forward = torch.einsum("bchw,oc->bohw", picked, net[0].weight.detach()[:, :, 0, 0].double())
    forward += net[0].bias.detach().double()[:, None, None]
    assert relative_error(y.detach(), forward) < 1e-5, (channels, stride)


def check_network(config):
    """Every gradient of a network against that of its copy in float64, channels first."""
    torch.manual_seed(config.n_filter_base)
    net = build_network(config).to(memory_format=torch.channels_last)
    exact = deepcopy(net).to(memory_format=torch.contiguous_format).double()
    x = torch.rand(2, 3, 32, 32)
    for model, image in ((net, last(x)), (exact, x.double())):
        out = model(image)
        (out.prob_logit.sigmoid().mean() + out.dist.square().mean() / 100).backward()
    largest = max(float(p.grad.abs().max()) for p in exact.parameters() if p.grad is not None)
    for (name, found), expected in zip(net.named_parameters(), exact.parameters(), strict=True):
        if expected.grad is not None:
            error = float((found.grad.double() - expected.grad).abs().max())
            limit = 1e-3 * float(expected.grad.abs().max()) + 1e-5 * largest
            assert error < limit, (config, name, error, limit)


def check_all():
    # One thread first: with more of them a wrong kernel may hang where one dies.
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for channels in CHANNELS:
            for stride in (2, 4):
                check_layer(channels, stride)
        for encoder, base in (("resnet", 1), ("resnet", 3), ("resnet", 4), ("unet", 4)):
            check_network(
                StarDistConfig(
                    encoder=encoder, n_filter_base=base, n_blocks=1, n_depth=2,
                    n_conv_after_unet=8, n_rays=8,
                )
            )  # fmt: skip


@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_gradients_of_layers_and_networks_of_few_channels_are_right(instructions):
    code = "from tests.test_convolutions import check_all; check_all()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_only_strided_1x1_convolutions_of_few_channels_are_replaced():
    net = nn.Sequential(
        nn.Conv2d(7, 8, 1, stride=2), nn.Conv2d(8, 8, 1, stride=2), nn.Conv2d(3, 8, 1),
        nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(3, 8, 1, stride=2, padding=1),
        nn.Conv2d(16, 16, 1, stride=(1, 2), groups=4, bias=False),
    ).eval()  # fmt: skip
    before, plain = net.state_dict(), deepcopy(net)
    mend_convolutions(net)
    assert [isinstance(layer, SubsampledConv2d) for layer in net] == [True, *[False] * 4, True]
    assert net.state_dict().keys() == before.keys()
    assert not any(module.training for module in net.modules())
    for own, given in zip(net, plain, strict=True):
        x = torch.rand(1, own.in_channels, 9, 6)
        assert torch.allclose(own(x), given(x), atol=1e-6)


def test_the_network_s_own_shortcuts_of_few_channels_are_replaced():
    few = build_network(StarDistConfig(encoder="resnet", n_filter_base=4, n_conv_after_unet=8))
    kinds = {type(level[0].shortcut.conv) for level in few.down[:1]}
    assert kinds == {SubsampledConv2d}
    plain = build_network(StarDistConfig(encoder="resnet", n_filter_base=8, n_conv_after_unet=8))
    assert not any(isinstance(module, SubsampledConv2d) for module in plain.modules())
