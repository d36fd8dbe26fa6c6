"""Patch classifiers that OpenVINO computes on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.layers import Layers
from lymphinfer.markers.backbone_graphs import find_encoder
from lymphinfer.markers.configs import ClassifierConfig
from lymphinfer.markers.nucleus_graph import CONFIG, NAME, encode_nucleus
from lymphinfer.runtime import CpuGraph

BATCH = 64
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class GraphPatches:
    """A classifier as a graph. Implements `lymphinfer.markers.model.PatchReader`.

    Parameters
    ----------
    config : ClassifierConfig
    model : openvino.Model
        Bytes (B, S, S, 3) to logits (B, n_markers).
    precision : str
        ``bfloat16`` or ``fp32``.
    net : object
        The same network in torch, for whoever wants to change it.
    """

    def __init__(self, config: ClassifierConfig, model: Any, precision: str, net: Any = None):
        self.config, self.net = config, net
        self.run = CpuGraph(model, precision, batch=BATCH)

    def logits(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `PatchReader.logits`."""
        found = np.empty((len(patches), len(self.config.markers)), np.float32)
        for start in range(0, len(patches), BATCH):
            found[start : start + BATCH] = self.run(patches[start : start + BATCH])[0]
        return found


def has_graph(config: ClassifierConfig) -> bool:
    """Whether `build_graph` knows the backbone."""
    if config.backbone == NAME:
        return config.patch_px * config.enlarge % CONFIG.stride == 0
    return find_encoder(config.backbone) is not None


def build_graph(config: ClassifierConfig, weights: Mapping[str, NDArray[np.floating]]) -> Any:
    """Graph of a classifier, layer for layer that of torch (`MarkerClassifier`).

    Parameters
    ----------
    config : ClassifierConfig
        `has_graph` is True of it.
    weights : mapping of str to ndarray

    Returns
    -------
    openvino.Model

    Raises
    ------
    ValueError
        The weights are not those of the configuration.
    """
    net = Layers(weights)
    given, x = net.pixels()
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    x = net.ops.divide(net.ops.subtract(x, mean), std)
    if config.enlarge > 1:
        x = net.larger(x, config.enlarge, "bilinear")
    side = config.patch_px * config.enlarge
    count = len(config.markers) if config.independent else 1
    own = find_encoder(config.backbone) or partial(encode_nucleus, side=side)
    features = [own(net, x, f"backbones.{i}") for i in range(count)]
    logits = []
    for i in range(len(config.markers)):
        hidden = net.linear(features[i % count], f"heads.{i}.0", config.hidden)
        logits.append(net.linear(net.ops.gelu(hidden, "erf"), f"heads.{i}.3", 1))
    return net.model(given, [net.joined(*logits)])
