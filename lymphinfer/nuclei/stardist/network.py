"""StarDist's networks in PyTorch: its own U-Net layer for layer, and one of residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.convolutions import mend_convolutions
from lymphinfer.nuclei.stardist.blocks import TYPICAL_RADIUS_PX as TYPICAL_RADIUS_PX
from lymphinfer.nuclei.stardist.blocks import ConvBlock as ConvBlock
from lymphinfer.nuclei.stardist.blocks import ResidualBlock as ResidualBlock
from lymphinfer.nuclei.stardist.blocks import StarDistNet as StarDistNet
from lymphinfer.nuclei.stardist.blocks import StarDistOutput as StarDistOutput
from lymphinfer.nuclei.stardist.compact import CompactStarDistNet as CompactStarDistNet
from lymphinfer.nuclei.stardist.config import StarDistConfig as StarDistConfig


def build_network(config: StarDistConfig) -> StarDistNet:
    """Build the network that a configuration describes, with random weights.

    Raises
    ------
    ValueError
        Unknown ``config.encoder``, or one that has no maps for ``config.n_marker_context``.
    """
    kinds: dict[str, type[StarDistNet]] = {
        "unet": UNetStarDistNet,
        "resnet": ResidualStarDistNet,
        "compact": CompactStarDistNet,
    }
    if config.encoder not in kinds:
        raise ValueError(f"encoder {config.encoder!r}: expected one of {', '.join(kinds)}")
    if config.n_marker_context and (config.encoder == "unet" or config.n_depth < 2):
        raise ValueError(
            f"encoder {config.encoder!r} with {config.n_depth} levels: the context of a marker "
            "head is read from a compact network or resnet of two levels or more"
        )
    if config.marker_features and not (config.n_markers and config.n_marker_context):
        raise ValueError("the features of a marker head are those of one with context")
    return mend_convolutions(kinds[config.encoder](config))


class UNetStarDistNet(StarDistNet):
    """Layer for layer the graph of ``stardist.models.StarDist2D``.

    The keys of `blocks` are the names of the Keras layers: official weights convert by name.

    Parameters
    ----------
    config : StarDistConfig
        Shape of the network.
    """

    def __init__(self, config: StarDistConfig):
        super().__init__(config)
        base, depth, bn = config.n_filter_base, config.n_depth, config.batch_norm
        blocks: dict[str, nn.Module] = {}

        def block(name: str, c_in: int, c_out: int) -> int:
            # Keras' StarDist never normalises the layers outside the U-Net block.
            inside = not name.startswith(("conv2d", "features"))
            blocks[name] = ConvBlock(c_in, c_out, batch_norm=bn and inside)
            return c_out

        channels = 3
        for i in range(config.grid.bit_length() - 1):
            for j in range(2):
                n = 2 * i + j
                channels = block(f"conv2d_{n}" if n else "conv2d", channels, base)
        skips = []
        for level in range(depth):
            for i in range(2):
                channels = block(f"down_level_{level}_no_{i}", channels, base * 2**level)
            skips.append(channels)
        channels = block("middle_0", channels, base * 2**depth)
        channels = block("middle_2", channels, base * 2 ** max(0, depth - 1))
        for level in reversed(range(depth)):
            channels = block(f"up_level_{level}_no_0", channels + skips[level], base * 2**level)
            channels = block(f"up_level_{level}_no_2", channels, base * 2 ** max(0, level - 1))
        features = block("features", channels, config.n_conv_after_unet)
        if config.n_markers:
            block("features_class", channels, config.n_conv_after_unet)
            self.marker: nn.Conv2d | None = nn.Conv2d(features, config.n_markers, 1)
        else:
            self.marker = None
        self.blocks = nn.ModuleDict(blocks)
        self.prob = nn.Conv2d(features, 1, 1)
        self.dist = nn.Conv2d(features, config.n_rays, 1)
        self.apply(_initialise)

    def predict(self, x: Tensor) -> StarDistOutput:
        """See `StarDistNet.predict`."""
        cfg = self.config
        b = self.blocks
        for i in range(cfg.grid.bit_length() - 1):
            x = b[f"conv2d_{2 * i}" if i else "conv2d"](x)
            x = F.max_pool2d(b[f"conv2d_{2 * i + 1}"](x), 2)
        skips = []
        for level in range(cfg.n_depth):
            x = b[f"down_level_{level}_no_1"](b[f"down_level_{level}_no_0"](x))
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = b["middle_2"](b["middle_0"](x))
        for level in reversed(range(cfg.n_depth)):
            x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips[level]], dim=1)
            x = b[f"up_level_{level}_no_2"](b[f"up_level_{level}_no_0"](x))
        features = b["features"](x)
        marker = None if self.marker is None else self.marker(b["features_class"](x))
        return StarDistOutput(self.prob(features), self.dist(features), marker)

    def last_layers(self) -> list[nn.Conv2d]:
        """See `StarDistNet.last_layers`."""
        return [self.prob, self.dist] + ([] if self.marker is None else [self.marker])


class ResidualStarDistNet(StarDistNet):
    """Residual encoder (He et al. 2016) and U-Net decoder with StarDist's heads.

    Little is computed at the input's own resolution, most at a quarter of it and below; the marker
    head reads the decoder at twice the output's stride, and its logits are brought to the output
    grid by bilinear interpolation. With ``n_marker_context`` it also reads `MarkerContext`.

    Parameters
    ----------
    config : StarDistConfig
        ``n_filter_base`` filters on the output grid, doubled at each of the ``n_depth`` levels.
    """

    def __init__(self, config: StarDistConfig):
        super().__init__(config)
        base, depth, bn = config.n_filter_base, config.n_depth, config.batch_norm
        halvings = config.grid.bit_length() - 1
        stem = [ConvBlock(3, base, batch_norm=bn, kernel=5, stride=2 if halvings else 1)]
        stem += [ConvBlock(base, base, batch_norm=bn, stride=2) for _ in range(halvings - 1)]
        self.stem = nn.Sequential(*stem, ConvBlock(base, base, batch_norm=bn))
        widths = [base * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(c_in, c_out, batch_norm=bn, stride=2),
                *(ResidualBlock(c_out, c_out, batch_norm=bn) for _ in range(config.n_blocks - 1)),
            )
            for c_in, c_out in pairwise(widths)
        )
        self.lateral = nn.ModuleList(
            ConvBlock(c_in, c_out, batch_norm=bn, kernel=1) for c_out, c_in in pairwise(widths)
        )
        self.up = nn.ModuleList(ConvBlock(2 * c, c, batch_norm=bn) for c in widths[:-1])
        features = config.n_conv_after_unet
        self.features = ConvBlock(base, features, batch_norm=bn)
        self.prob = nn.Conv2d(features, 1, 1)
        self.dist = nn.Conv2d(features, config.n_rays, 1)
        self.marker: nn.Sequential | None = None
        self.marker_context: MarkerContext | None = None
        if config.n_markers:
            context = config.n_marker_context
            self.marker = nn.Sequential(
                ConvBlock(widths[min(1, depth)], features, batch_norm=bn),
                nn.Conv2d(context or features, config.n_markers, 1),
            )
            if context:
                self.marker_context = MarkerContext(widths[1], features, context)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias) if module.bias is not None else None
            if isinstance(module, ResidualBlock) and isinstance(module.second.norm, nn.BatchNorm2d):
                nn.init.zeros_(module.second.norm.weight)
        # Training begins from the radius of a nucleus, not from none.
        nn.init.constant_(self.dist.bias, TYPICAL_RADIUS_PX)  # type: ignore[arg-type]

    def predict(self, x: Tensor) -> StarDistOutput:
        """See `StarDistNet.predict`."""
        encoded = self.encode(x)
        decoded = self.decode(encoded)
        features = self.features(decoded[0])
        marker = read = None
        if self.marker is not None:
            read = self.marker[0](decoded[min(1, self.config.n_depth)])
            if self.marker_context is not None:
                around = self.marker_context.inputs(encoded, decoded, features, read)
                read = self.marker_context(*around)
            size = decoded[0].shape[-2:]
            marker = F.interpolate(self.marker[1](read).float(), size, mode="bilinear")
        seen = read if self.config.marker_features else None
        return StarDistOutput(self.prob(features), self.dist(features), marker, seen)

    def read_around(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a `MarkerContext` reads of an input: see `MarkerContext.inputs`.

        Also of a network whose own marker head has no context.
        """
        encoded = self.encode(x)
        decoded = self.decode(encoded)
        read = cast(nn.Sequential, self.marker)[0](decoded[1])
        return MarkerContext.inputs(encoded, decoded, self.features(decoded[0]), read)

    @property
    def readers(self) -> tuple[nn.Conv2d, ...]:
        """Layers of the marker head's context that read `read_around`; empty without context."""
        context = self.marker_context
        return () if context is None else (context.near, context.coarse, context.around)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Maps of the encoder, finest first: the output grid's, then each half as fine."""
        maps = [self.stem(x)]
        for level in self.down:
            maps.append(level(maps[-1]))
        return maps

    def decode(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the decoder, finest first; the last is the encoder's."""
        maps = [encoded[-1]]
        for level in reversed(range(len(encoded) - 1)):
            maps.insert(0, self.ascend(maps[0], encoded[level], level))
        return maps

    def ascend(self, x: Tensor, skip: Tensor, level: int) -> Tensor:
        """One step of the decoder, to the resolution of the encoder's map of that level."""
        x = F.interpolate(self.lateral[level](x), scale_factor=2, mode="nearest")
        higher: Tensor = self.up[level](torch.cat([x, skip], dim=1))
        return higher

    def last_layers(self) -> list[nn.Conv2d]:
        """See `StarDistNet.last_layers`."""
        marker = [] if self.marker is None else [cast(nn.Conv2d, self.marker[1])]
        return [self.prob, self.dist, *marker]


class MarkerContext(nn.Module):
    """A hidden layer of the marker head that reads more than the decoder's map.

    The decoder learns outlines and drops what they do not need. Besides what the head reads there,
    this layer sees the encoder's maps on the head's own and on the next coarser grid, both maps of
    its grid averaged over some 4 µm, what the outlines are measured from, and the mean over some
    16 µm around: a nucleus is told by its neighbours too.

    Parameters
    ----------
    width : int
        Filters on the head's grid; the next coarser one has twice as many.
    features : int
        Filters before the heads.
    c_out : int
        Filters of this layer.
    """

    def __init__(self, width: int, features: int, c_out: int):
        super().__init__()
        self.near = nn.Conv2d(4 * width + 2 * features, c_out, 1)
        self.coarse = nn.Conv2d(2 * width, c_out, 1, bias=False)
        self.around = nn.Conv2d(width, c_out, 1, bias=False)

    @staticmethod
    def inputs(
        encoded: Sequence[Tensor], decoded: Sequence[Tensor], features: Tensor, read: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments of `forward` from the maps of a `ResidualStarDistNet`.

        Parameters
        ----------
        encoded, decoded : sequence of Tensor
            The output grid's maps first.
        features : Tensor, (B, features, 2 H, 2 W)
            What probability and distances are read from.
        read : Tensor, (B, features, H, W)
            What the head without context would read.

        Returns
        -------
        tuple of Tensor
            (B, 4 width + 2 features, H, W), (B, 2 width, H / 2, W / 2), (B, width, H / 4, W / 4).
        """

        def mean3(x: Tensor) -> Tensor:
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)

        fine = (encoded[1], decoded[1])
        near = (*fine, *(mean3(x) for x in fine), read, F.avg_pool2d(features, 2))
        return torch.cat(near, dim=1), encoded[2], mean3(F.avg_pool2d(decoded[1], 4))

    def forward(self, near: Tensor, coarse: Tensor, around: Tensor) -> Tensor:
        """`inputs` to (B, c_out, H, W)."""
        size = near.shape[-2:]
        total: Tensor = self.near(near)
        for x in (self.coarse(coarse), self.around(around)):
            total = total + F.interpolate(x, size, mode="bilinear")
        return F.relu(total)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
