"""The far scale as a graph for OpenVINO: `lymphinfer.markers.far_scale.FarNet`, layer for layer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.layers import Layers
from lymphinfer.markers.configs import FarConfig
from lymphinfer.markers.sampling import bilinear
from lymphinfer.runtime import CpuGraph

F32 = NDArray[np.float32]
_TELL = ("tell.0.weight", "tell.0.bias", "tell.2.weight", "tell.2.bias")


class GraphFar:
    """A far network that OpenVINO computes. Implements `lymphinfer.markers.two_scale.FarEngine`.

    Parameters
    ----------
    config : FarConfig
        Without batch normalisation.
    weights : mapping of str to ndarray
        By the names of the torch network of that configuration.
    precision : str
        ``bfloat16`` or ``fp32``.
    net : object
        The same network in torch, for whoever wants to change it.
    int8 : mapping of str to ndarray, optional
        What is computed in bytes, see `lymphinfer.layers.Layers`.

    Raises
    ------
    ValueError
        The weights are not those of the configuration.
    """

    def __init__(
        self,
        config: FarConfig,
        weights: Mapping[str, NDArray[np.floating]],
        precision: str = "fp32",
        net: Any = None,
        int8: Mapping[str, NDArray[np.floating]] | None = None,
    ):
        self.config, self.net = config, net
        told = Layers(weights)
        shapes = ((config.hidden, config.features), (config.hidden,),
                  (len(config.outputs), config.hidden), (len(config.outputs),))  # fmt: skip
        self._tell = [told.take(name, shape) for name, shape in zip(_TELL, shapes, strict=True)]
        rest = {name: values for name, values in weights.items() if name not in _TELL}
        self.run = CpuGraph(build_graph(config, rest, int8), precision)

    def look(self, pixels: NDArray[np.uint8]) -> F32:
        """See `FarEngine.look`."""
        features: F32 = self.run(pixels[None])[0][0]
        # Its turn comes again after many tiles, which have that memory now.
        self.run.rest()
        return features

    def tell(self, features: F32, points: NDArray[np.floating]) -> F32:
        """See `FarEngine.tell`."""
        x, y = (np.asarray(points, np.float32) / self.config.out_stride - np.float32(0.5)).T
        weight, bias, last, offset = self._tell
        hidden = np.maximum(bilinear(features, x, y) @ weight.T + bias, 0)
        logits: F32 = hidden @ last.T + offset
        return logits

    @staticmethod
    def join(one: F32, other: F32, axis: int, kept: int, left: int) -> F32:
        """See `FarEngine.join`."""
        first, second = np.split(one, [kept], axis)[0], np.split(other, [left], axis)[1]
        return np.concatenate([first, second], axis)


def build_graph(
    config: FarConfig,
    weights: Mapping[str, NDArray[np.floating]],
    int8: Mapping[str, NDArray[np.floating]] | None = None,
) -> Any:
    """Graph from bytes (B, H, W, 3) to features (B, C, H / 2, W / 2).

    Parameters
    ----------
    config : FarConfig
        Without batch normalisation.
    weights : mapping of str to ndarray
        All but those of ``tell``.
    int8 : mapping of str to ndarray, optional
        What is computed in bytes, see `lymphinfer.layers.Layers`.

    Returns
    -------
    openvino.Model

    Raises
    ------
    ValueError
        The weights are not those of the configuration.
    """
    if config.batch_norm:
        raise ValueError("batch normalisation is folded away before a network is computed")
    net, widths = Layers(weights, int8), config.widths
    given, x = net.pixels()
    # Natural optical density, see `lymphinfer.markers.far_scale.optical_density`.
    light = net.ops.divide(
        net.ops.add(net.ops.multiply(x, np.float32(255)), np.float32(1)), np.float32(256)
    )
    x = net.ops.negative(net.ops.log(light))
    x = net.block(x, "stem", widths[0], kernel=5, stride=2)
    maps: list[Any] = []
    for level, (width, count) in enumerate(zip(widths, config.blocks, strict=True)):
        if level:
            x = net.block(x, f"down.{level - 1}", width, stride=2)
        for i in range(count):
            x = net.residual(x, f"levels.{level}.{i}", width)
        maps.append(x)
    for level, (fine, _) in reversed(list(enumerate(pairwise(widths)))):
        y = net.block(maps[level + 1], f"lateral.{level}", fine, kernel=1)
        y = net.joined(net.larger(y, 2, "nearest"), maps[level])
        maps[level] = net.block(y, f"up.{level}", fine)
    return net.model(given, [net.block(maps[0], "out", config.features, kernel=1)])
