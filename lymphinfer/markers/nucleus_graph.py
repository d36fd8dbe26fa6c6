"""The residual StarDist network as a patch backbone, as a graph for OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.layers import Layers
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.graph import around, residual_maps

NAME = "stardist-resnet"
CONFIG = StarDistConfig(encoder="resnet", n_blocks=3, n_conv_after_unet=96, n_markers=1)
# Of the Gaussian that weighs the centre, patch px, and in cells of a map at least; a nucleus is
# some 25 px wide at 0.325 µm/px.
CENTRAL_SIGMA_PX, CENTRAL_SIGMA_CELLS = 3.0, 0.5


def encode_nucleus(net: Layers, x: Any, name: str, *, side: int) -> Any:
    """`lymphinfer.markers.nucleus_encoder.NucleusEncoder` on normalised patches.

    Parameters
    ----------
    net : Layers
    x : node, (B, 3, side, side)
    name : str
        Of the backbone, before its weights' names.
    side : int
        A multiple of 16.

    Returns
    -------
    node, (B, D)
    """
    maps = around(net, *residual_maps(net, CONFIG, x, f"{name}.net."))
    means = []
    for seen, stride in zip(maps, (4, 8, 16), strict=True):
        line = central_line(side // stride, stride)
        weights = (line[:, None] * line).reshape(1, 1, side // stride, side // stride)
        means.append(net.ops.reduce_sum(net.ops.multiply(seen, weights), np.array([2, 3])))
    return net.joined(*means)


def central_line(cells: int, stride: int) -> NDArray[np.float32]:
    """Weights (cells,), of sum 1, along a map of a stride: a Gaussian around its middle."""
    position = (np.arange(cells) + 0.5 - cells / 2) * stride
    sigma = max(CENTRAL_SIGMA_PX, CENTRAL_SIGMA_CELLS * stride)
    weights = np.exp(-0.5 * (position / sigma) ** 2)
    line: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return line
