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
        self.run = CpuGraph(build_graph(config, weights, int8), precision)

    def predict(self, images: NDArray[np.uint8]) -> list[DensePrediction]:
        """See `DenseNet.predict`."""
        cfg = self.config
        h, w = -(-images.shape[1] // cfg.grid), -(-images.shape[2] // cfg.grid)
        maps = self.run(padded(images, cfg.stride))
        outlines = maps[0][:, :h, :w]
        # In bytes there are two to be added, see `Layers.side_by_side`.
        logit = outlines[..., : -cfg.n_rays].sum(axis=-1)
        dist = outlines[..., -cfg.n_rays :].transpose(0, 3, 1, 2)
        marker = maps[1][:, :, :h, :w] if cfg.n_markers else None
        seen = maps[2].transpose(0, 3, 1, 2) if cfg.marker_features else None
        return [
            DensePrediction(
                expit(logit[i]),
                dist[i],
                None if marker is None else marker[i],
                None if seen is None else seen[i],
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
        the logit comes in two parts, to be added.

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
    return [_outlines(net, cfg, features), marker]


def _outlines(net: Layers, cfg: StarDistConfig, features: Any, places: int = 1) -> Any:
    """Logits and distances as one layer, a pixel's numbers side by side: nothing is sorted anew."""
    read = net.side_by_side(features, {"prob": places, "dist": places * cfg.n_rays}, "prob")
    return net.channels_last(read if places == 1 else net.spread(read))


def _resnet(net: Layers, cfg: StarDistConfig, x: Any) -> list[Any]:
    encoded, decoded, features, read = residual_maps(net, cfg, x)
    outlines = _outlines(net, cfg, features)
    if not cfg.n_markers:
        return [outlines]
    if cfg.n_marker_context:
        read = _context(net, cfg, encoded, decoded, features, read)
    marker = net.conv(read, "marker.1", cfg.n_markers, kernel=1)
    marker = net.larger(marker, 2, "bilinear")
    return [outlines, marker, net.channels_last(read) if cfg.marker_features else None]


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
    features = net.block(decoded[0], f"{prefix}features", cfg.n_conv_after_unet)
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
        return _narrow_context(net, name, width, encoded, decoded, features, read)
    near, coarse, wide = around(net, encoded, decoded, features, read)
    total = net.conv(near, f"{name}.near", width, kernel=1)
    for x, part, times in ((coarse, "coarse", 2), (wide, "around", 4)):
        seen = net.conv(x, f"{name}.{part}", width, kernel=1, bias=False)
        total = net.ops.add(total, net.larger(seen, times, "bilinear"))
    return net.ops.relu(total)


def _narrow_context(
    net: Layers,
    name: str,
    width: int,
    encoded: Sequence[Any],
    decoded: Sequence[Any],
    features: Any,
    read: Any,
) -> Any:
    """What `_context` says, through few channels: means are taken of those, in float32."""
    few = net.width_of(f"{name}.near")

    def part(x: Any, part: str, *, bias: bool = False) -> Any:
        return net.conv(x, f"{name}.{part}", few, kernel=1, bias=bias)

    fine = net.joined(encoded[1], decoded[1])
    total = part(net.joined(encoded[1], decoded[1], read), "near", bias=True)
    total = net.ops.add(total, net.mean(part(fine, "blurred"), 3, stride=1))
    total = net.ops.add(total, part(net.mean(features, 2), "outlines"))
    wide = net.mean(net.mean(decoded[1], 4), 3, stride=1)
    for x, source, times in ((encoded[2], "coarse", 2), (wide, "around", 4)):
        total = net.ops.add(total, net.larger(part(x, source), times, "bilinear"))
    return net.ops.relu(net.conv(total, f"{name}.out", width, kernel=1))


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
        return [outlines]
    read = _read(net, cfg, features, maps[1:]) if cfg.n_marker_context else features
    marker = net.larger(net.conv(read, "marker", cfg.n_markers, kernel=1), 2, "bilinear")
    return [outlines, marker, net.channels_last(read) if cfg.marker_features else None]


def _read(net: Layers, cfg: StarDistConfig, features: Any, maps: Sequence[Any]) -> Any:
    total = None
    for i, x in reversed(list(enumerate(maps))):
        here = net.conv(x, f"coarse.{i}", cfg.n_marker_context, kernel=1, bias=False)
        total = here if total is None else net.ops.add(here, net.larger(total, 2, "bilinear"))
    near = net.conv(features, "near", cfg.n_marker_context, kernel=1)
    if total is not None:
        near = net.ops.add(near, net.larger(total, 2, "bilinear"))
    return net.ops.relu(near)
