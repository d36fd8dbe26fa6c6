"""StarDist's networks as graphs for OpenVINO: `network` and `compact`, layer for layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from lymphinfer.layers import Layers
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.dense import DensePrediction, padded
from lymphinfer.runtime import CpuGraph

Weights = Mapping[str, NDArray[np.floating]]
DIST_TOP, FEATURES_TOP = "dist.top", "marker_context.top"
"""Largest distance, and marker feature of each channel, that outputs as bytes can tell."""


class GraphStarDist:
    """A StarDist that OpenVINO computes on the CPU. Implements `DenseNet`.

    Parameters
    ----------
    config : StarDistConfig
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
        config: StarDistConfig,
        weights: Weights,
        precision: str = "fp32",
        net: Any = None,
        int8: Weights | None = None,
    ):
        self.config, self.net, self.in_bytes = config, net, int8 is not None
        said = int8 or {}
        self._dist_step = float(said[DIST_TOP][0]) / 255 if DIST_TOP in said else 1.0
        self._features_step: NDArray[np.float32] | None = None
        if config.marker_features and FEATURES_TOP in said:
            self._features_step = np.asarray(said[FEATURES_TOP], np.float32) / np.float32(255)
        self.run = CpuGraph(build_graph(config, weights, int8), precision)

    def predict(self, images: NDArray[np.uint8]) -> list[DensePrediction]:
        """See `DenseNet.predict`."""
        cfg = self.config
        h, w = -(-images.shape[1] // cfg.grid), -(-images.shape[2] // cfg.grid)
        maps = self.run(padded(images, cfg.stride))
        if self.in_bytes:
            # Two parts of the probability's logit, and the distances of squares of points.
            logit = maps.pop(0).sum(axis=1)[:, :h, :w]
            below, across = maps[0].shape[2:]
            dist = maps.pop(0).reshape(len(images), cfg.n_rays, 2, 2, below, across)
        else:
            outlines = maps.pop(0)[:, :h, :w]
            logit, dist = outlines[..., 0], outlines[..., 1:].transpose(0, 3, 1, 2)
        marker = maps[0][:, :, :h, :w] if cfg.n_markers else None
        seen = maps[1].transpose(0, 3, 1, 2) if cfg.marker_features else None
        return [
            DensePrediction(
                expit(logit[i]),
                dist[i],
                None if marker is None else marker[i],
                None if seen is None else seen[i],
                dist_step=self._dist_step,
                features_step=self._features_step,
            )
            for i in range(len(images))
        ]


def build_graph(config: StarDistConfig, weights: Weights, int8: Weights | None = None) -> Any:
    """Graph of a network.

    Parameters
    ----------
    config : StarDistConfig
        Without batch normalisation.
    weights : mapping of str to ndarray
    int8 : mapping of str to ndarray, optional
        What is computed in bytes, see `lymphinfer.layers.Layers`.

    Returns
    -------
    openvino.Model
        Bytes (B, H, W, 3) in, H and W multiples of ``config.stride``; out come the probability's
        logit and the distances, (B, h, w, 1 + n_rays), and, as far as the network has them, the
        marker logits, (B, n_markers, h, w), and the marker features, (B, h / 2, w / 2, C). In bytes
        the first is two: the logit in two parts to be added, (B, 2, h, w), and the distances of two
        by two points behind each other, (B, n_rays x 4, h / 2, w / 2); they and the features are
        bytes where they have a top.

    Raises
    ------
    ValueError
        The weights are not those of the configuration.
    """
    if config.batch_norm:
        raise ValueError("batch normalisation is folded away before a network is computed")
    layers = Layers(weights, int8)
    given, x = layers.pixels()
    build = {"unet": _unet, "resnet": _resnet, "compact": _compact}[config.encoder]
    return layers.model(given, [y for y in build(layers, config, x) if y is not None])


def _unet(net: Layers, cfg: StarDistConfig, x: Any) -> list[Any]:
    def block(x: Any, name: str, c_out: int) -> Any:
        return net.block(x, f"blocks.{name}", c_out)

    base, depth = cfg.n_filter_base, cfg.n_depth
    for i in range(cfg.grid.bit_length() - 1):
        x = block(x, f"conv2d_{2 * i}" if i else "conv2d", base)
        x = net.halved(block(x, f"conv2d_{2 * i + 1}", base))
    skips = []
    for level in range(depth):
        for i in range(2):
            x = block(x, f"down_level_{level}_no_{i}", base * 2**level)
        skips.append(x)
        x = net.halved(x)
    x = block(x, "middle_0", base * 2**depth)
    x = block(x, "middle_2", base * 2 ** max(0, depth - 1))
    for level in reversed(range(depth)):
        x = net.joined(net.larger(x, 2, "nearest"), skips[level])
        x = block(x, f"up_level_{level}_no_0", base * 2**level)
        x = block(x, f"up_level_{level}_no_2", base * 2 ** max(0, level - 1))
    features = block(x, "features", cfg.n_conv_after_unet)
    marker = None
    if cfg.n_markers:
        read = block(x, "features_class", cfg.n_conv_after_unet)
        marker = net.conv(read, "marker", cfg.n_markers, kernel=1)
    return [*_outlines(net, cfg, features), marker]


def _outlines(net: Layers, cfg: StarDistConfig, features: Any, places: int = 1) -> list[Any]:
    """Logits and distances; in numbers as one layer, a pixel's side by side."""
    if net.int8:
        prob = net.spread(net.in_two_parts(features, "prob", places))
        dist = net.conv(features, "dist", places * cfg.n_rays, kernel=1)
        return [prob, net.as_bytes(dist, "dist")]
    read = net.side_by_side(features, {"prob": places, "dist": places * cfg.n_rays})
    return [net.channels_last(read if places == 1 else net.spread(read))]


def _resnet(net: Layers, cfg: StarDistConfig, x: Any) -> list[Any]:
    encoded, decoded, features, read = residual_maps(net, cfg, x)
    outlines = _outlines(net, cfg, features, places=4 if net.is_even("features.conv") else 1)
    if not cfg.n_markers:
        return outlines
    if cfg.n_marker_context:
        read = _context(net, cfg, encoded, decoded, features, read)
    marker = net.conv(read, "marker.1", cfg.n_markers, kernel=1)
    marker = net.larger(marker, 2, "bilinear")
    seen = net.channels_last(net.as_bytes(read, "marker_context")) if cfg.marker_features else None
    return [*outlines, marker, seen]


def residual_maps(
    net: Layers, cfg: StarDistConfig, x: Any, prefix: str = ""
) -> tuple[list[Any], list[Any], Any, Any]:
    """Maps of a `ResidualStarDistNet`: encoder's, decoder's, before the outlines and the markers.

    Parameters
    ----------
    net : Layers
    cfg : StarDistConfig
    x : node, (B, 3, H, W)
    prefix : str
        Of its weights' names.
    """
    base, halvings = cfg.n_filter_base, cfg.grid.bit_length() - 1
    x = net.block(x, f"{prefix}stem.0", base, kernel=5, stride=2 if halvings else 1)
    for i in range(1, halvings):
        x = net.block(x, f"{prefix}stem.{i}", base, stride=2)
    x = net.block(x, f"{prefix}stem.{max(halvings, 1)}", base)
    encoded = [x]
    for level in range(cfg.n_depth):
        width = base * 2 ** (level + 1)
        x = net.residual(x, f"{prefix}down.{level}.0", width, stride=2)
        for i in range(1, cfg.n_blocks):
            x = net.residual(x, f"{prefix}down.{level}.{i}", width)
        encoded.append(x)
    decoded = [encoded[-1]]
    for level in reversed(range(cfg.n_depth)):
        width = base * 2**level
        y = net.block(decoded[0], f"{prefix}lateral.{level}", width, kernel=1)
        y = net.joined(net.larger(y, 2, "nearest"), encoded[level])
        decoded.insert(0, net.block(y, f"{prefix}up.{level}", width))
    # In bytes one map may be read for two by two points.
    kernel, stride = (4, 2) if net.is_even(f"{prefix}features.conv") else (3, 1)
    width = cfg.n_conv_after_unet
    features = net.block(decoded[0], f"{prefix}features", width, kernel=kernel, stride=stride)
    read = None
    if cfg.n_markers:
        on = decoded[min(1, cfg.n_depth)]
        read = net.block(on, f"{prefix}marker.0", cfg.n_conv_after_unet)
    return encoded, decoded, features, read


def around(
    net: Layers, encoded: Sequence[Any], decoded: Sequence[Any], features: Any, read: Any
) -> tuple[Any, Any, Any]:
    """`lymphinfer.nuclei.stardist.network.MarkerContext.inputs`."""
    fine = encoded[1], decoded[1]
    blurred = (net.mean(x, 3, stride=1) for x in fine)
    near = net.joined(*fine, *blurred, read, net.mean(features, 2))
    return near, encoded[2], net.mean(net.mean(decoded[1], 4), 3, stride=1)


def _context(
    net: Layers,
    cfg: StarDistConfig,
    encoded: Sequence[Any],
    decoded: Sequence[Any],
    features: Any,
    read: Any,
) -> Any:
    width, name = cfg.n_marker_context, "marker_context"
    if net.is_narrow(name):
        return _narrow_context(net, name, encoded, decoded, features, read)
    near, coarse, wide = around(net, encoded, decoded, features, read)
    total = net.conv(near, f"{name}.near", width, kernel=1)
    for x, part, times in ((coarse, "coarse", 2), (wide, "around", 4)):
        seen = net.conv(x, f"{name}.{part}", width, kernel=1, bias=False)
        total = net.ops.add(total, net.larger(seen, times, "bilinear"))
    return net.ops.relu(total)


def _narrow_context(
    net: Layers,
    name: str,
    encoded: Sequence[Any],
    decoded: Sequence[Any],
    features: Any,
    read: Any,
) -> Any:
    """What `_context` says, through few channels: means are taken of those, in float32.

    Outlines' features are those of two by two points, on the head's own grid.
    """
    few = net.width_of(f"{name}.near")

    def part(x: Any, part: str, *, bias: bool = False) -> Any:
        return net.conv(x, f"{name}.{part}", few, kernel=1, bias=bias)

    fine = net.joined(encoded[1], decoded[1])
    total = part(net.joined(encoded[1], decoded[1], read), "near", bias=True)
    total = net.ops.add(total, net.mean(part(fine, "blurred"), 3, stride=1))
    total = net.ops.add(total, part(features, "outlines"))
    wide = net.mean(net.mean(decoded[1], 4), 3, stride=1)
    for x, source, times in ((encoded[2], "coarse", 2), (wide, "around", 4)):
        total = net.ops.add(total, net.larger(part(x, source), times, "bilinear"))
    return net.ops.relu(net.conv(total, f"{name}.out", net.width_of(f"{name}.out"), kernel=1))


def _compact(net: Layers, cfg: StarDistConfig, x: Any) -> list[Any]:
    base, widths, halvings = cfg.n_filter_base, cfg.widths, cfg.grid.bit_length() - 1
    x = net.block(x, "stem.0", base, stride=2 if halvings else 1)
    for i in range(1, halvings):
        x = net.block(x, f"stem.{i}", base, stride=2)
    x = net.block(x, f"stem.{max(halvings, 1)}", widths[0], stride=2)
    maps: list[Any] = []
    for level, (width, count) in enumerate(zip(widths, cfg.blocks, strict=True)):
        if level:
            x = net.block(x, f"down.{level - 1}", width, stride=2)
        for i in range(count):
            x = net.residual(x, f"level.{level}.{i}", width)
        maps.append(x)
    for i in reversed(range(len(maps) - 1)):
        y = net.block(maps[i + 1], f"lateral.{i}", widths[i], kernel=1, relu=False)
        y = net.ops.relu(net.ops.add(maps[i], net.larger(y, 2, "nearest")))
        maps[i] = net.block(y, f"up.{i}", widths[i])
    features = net.block(maps[0], "features", cfg.n_conv_after_unet)
    outlines = _outlines(net, cfg, features, places=4)
    if not cfg.n_markers:
        return outlines
    read = _read(net, cfg, features, maps[1:]) if cfg.n_marker_context else features
    marker = net.larger(net.conv(read, "marker", cfg.n_markers, kernel=1), 2, "bilinear")
    return [*outlines, marker, net.channels_last(read) if cfg.marker_features else None]


def _read(net: Layers, cfg: StarDistConfig, features: Any, maps: Sequence[Any]) -> Any:
    total = None
    for i, x in reversed(list(enumerate(maps))):
        here = net.conv(x, f"coarse.{i}", cfg.n_marker_context, kernel=1, bias=False)
        total = here if total is None else net.ops.add(here, net.larger(total, 2, "bilinear"))
    near = net.conv(features, "near", cfg.n_marker_context, kernel=1)
    if total is not None:
        near = net.ops.add(near, net.larger(total, 2, "bilinear"))
    return net.ops.relu(near)
