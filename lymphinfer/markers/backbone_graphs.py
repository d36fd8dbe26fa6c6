"""timm's ConvNeXt and its smallest ResNet as graphs for OpenVINO, layer for layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from lymphinfer.layers import Layers, channels

Encode = Callable[[Layers, Any, str], Any]
"""A backbone: layers, normalised patches (B, 3, S, S) and its name to features (B, C)."""

# Those whose stem is a plain 4x4 convolution; a tag behind the name says where weights began.
_CONVNEXT = re.compile(r"convnext_(atto|femto|pico|nano|tiny|small|base|large|xlarge)(\..*)?")
_NORM_EPSILON, _LAYER_EPSILON = 1e-5, 1e-6


def find_encoder(backbone: str) -> Encode | None:
    """The graph of a backbone by timm's name, None for one that has none."""
    if _CONVNEXT.fullmatch(backbone):
        return encode_convnext
    return encode_resnet10t if backbone.split(".")[0] == "resnet10t" else None


def encode_convnext(net: Layers, x: Any, name: str) -> Any:
    """ConvNeXt (Liu et al. 2022) of any depth and width, which the weights tell.

    Parameters
    ----------
    net : Layers
    x : node, (B, 3, S, S)
    name : str
        Of the backbone, before its weights' names.

    Returns
    -------
    node, (B, C)
    """
    x = _patches(net, x, f"{name}.stem.0", 4)
    x = _layer_norm(net, x, f"{name}.stem.1")
    for stage in range(4):
        at = f"{name}.stages.{stage}"
        if stage:
            x = _layer_norm(net, x, f"{at}.downsample.0")
            x = _patches(net, x, f"{at}.downsample.1", 2)
        block = 0
        while f"{at}.blocks.{block}.gamma" in net.weights:
            x = _convnext_block(net, x, f"{at}.blocks.{block}")
            block += 1
    pooled = net.ops.reduce_mean(x, np.array([2, 3]), True)
    return _flat(net, _layer_norm(net, pooled, f"{name}.head.norm"))


def _patches(net: Layers, x: Any, name: str, side: int) -> Any:
    """Convolution of patches side by side."""
    weight = net.take(f"{name}.weight")
    y = net.ops.convolution(x, weight, [side] * 2, [0, 0], [0, 0], [1, 1])
    return _biased(net, y, f"{name}.bias")


def _biased(net: Layers, x: Any, name: str) -> Any:
    return net.ops.add(x, net.take(name, (channels(x),)).reshape(1, -1, 1, 1))


def _layer_norm(net: Layers, x: Any, name: str) -> Any:
    """Over the channels of each pixel."""
    centred = net.ops.mvn(x, np.array([1]), True, _LAYER_EPSILON, "inside_sqrt")
    weight = net.take(f"{name}.weight", (channels(x),)).reshape(1, -1, 1, 1)
    return _biased(net, net.ops.multiply(centred, weight), f"{name}.bias")


def _convnext_block(net: Layers, x: Any, name: str) -> Any:
    width = channels(x)
    kernels = net.take(f"{name}.conv_dw.weight", (width, 1, 7, 7))
    y = net.ops.group_convolution(x, kernels[:, :, None], [1, 1], [3, 3], [3, 3], [1, 1])
    y = _layer_norm(net, _biased(net, y, f"{name}.conv_dw.bias"), f"{name}.norm")
    y = net.ops.gelu(_pointwise(net, y, f"{name}.mlp.fc1"), "erf")
    y = _pointwise(net, y, f"{name}.mlp.fc2")
    y = net.ops.multiply(y, net.take(f"{name}.gamma", (width,)).reshape(1, -1, 1, 1))
    return net.ops.add(x, y)


def _pointwise(net: Layers, x: Any, name: str) -> Any:
    """A linear layer on each pixel, which timm stores as such or as a 1x1 convolution."""
    weight = net.take(f"{name}.weight")
    weight = weight.reshape(len(weight), -1, 1, 1)
    y = net.ops.convolution(x, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    return _biased(net, y, f"{name}.bias")


def encode_resnet10t(net: Layers, x: Any, name: str) -> Any:
    """Timm's ``resnet10t``: a stem of three convolutions and a basic block a stage.

    Parameters and returns as `encode_convnext`.
    """
    for i, (width, stride) in enumerate(((24, 2), (32, 1), (64, 1))):
        norm = "bn1" if i == 2 else f"conv1.{3 * i + 1}"
        x = _normed(net, x, f"{name}.conv1.{3 * i}", f"{name}.{norm}", width, stride=stride)
        x = net.ops.relu(x)
    x = net.ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    for stage in range(4):
        x = _basic_block(net, x, f"{name}.layer{stage + 1}.0", 64 * 2**stage)
    return _flat(net, net.ops.reduce_mean(x, np.array([2, 3]), True))


def _basic_block(net: Layers, x: Any, name: str, width: int) -> Any:
    wider = channels(x) != width
    y = _normed(net, x, f"{name}.conv1", f"{name}.bn1", width, stride=1 + wider)
    y = _normed(net, net.ops.relu(y), f"{name}.conv2", f"{name}.bn2", width)
    if wider:
        x = net.ops.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], True, "ceil")
        x = _normed(net, x, f"{name}.downsample.1", f"{name}.downsample.2", width, kernel=1)
    return net.ops.relu(net.ops.add(y, x))


def _normed(
    net: Layers, x: Any, conv: str, norm: str, width: int, *, kernel: int = 3, stride: int = 1
) -> Any:
    """Convolution without bias and the batch normalisation behind it."""
    y = net.conv(x, conv, width, kernel=kernel, stride=stride, bias=False)
    scale, offset, mean, variance = (
        net.take(f"{norm}.{part}", (width,))
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    net.taken.add(f"{norm}.num_batches_tracked")
    scale = scale / np.sqrt(variance + _NORM_EPSILON)
    y = net.ops.multiply(y, scale.reshape(1, -1, 1, 1))
    return net.ops.add(y, (offset - mean * scale).reshape(1, -1, 1, 1))


def _flat(net: Layers, x: Any) -> Any:
    """(B, C, 1, 1) to (B, C)."""
    return net.ops.squeeze(x, np.array([2, 3]))
