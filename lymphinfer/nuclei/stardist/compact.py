"""A StarDist whose layers all lie below the output grid: for slides on a CPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.nuclei.stardist.blocks import (
    TYPICAL_RADIUS_PX,
    ConvBlock,
    ResidualBlock,
    StarDistNet,
    StarDistOutput,
)
from lymphinfer.nuclei.stardist.config import StarDistConfig


class CompactStarDistNet(StarDistNet):
    """Residual encoder and feature pyramid from half the output's resolution downwards.

    The output grid holds no layer but the stem's: the last layers predict two by two places of it
    at each pixel of the finest level, and are spread over them (Shi et al. 2016, sub-pixel
    convolution). Skips are added, not joined, which halves the decoder's cost. The features for
    marker models are read on the finest level, where `ResidualStarDistNet` has them too.

    Parameters
    ----------
    config : StarDistConfig
        ``n_filter_base`` filters in the stem, ``widths`` and ``blocks`` of the levels.
    """

    def __init__(self, config: StarDistConfig):
        super().__init__(config)
        base, widths, bn = config.n_filter_base, config.widths, config.batch_norm
        halvings = config.grid.bit_length() - 1
        stem = [ConvBlock(3, base, batch_norm=bn, stride=2 if halvings else 1)]
        stem += [ConvBlock(base, base, batch_norm=bn, stride=2) for _ in range(halvings - 1)]
        self.stem = nn.Sequential(*stem, ConvBlock(base, widths[0], batch_norm=bn, stride=2))
        self.level = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, width, batch_norm=bn) for _ in range(count)))
            for width, count in zip(widths, config.blocks, strict=True)
        )
        self.down = nn.ModuleList(
            ConvBlock(fine, coarse, batch_norm=bn, stride=2) for fine, coarse in pairwise(widths)
        )
        self.lateral = nn.ModuleList(
            ConvBlock(coarse, fine, batch_norm=bn, kernel=1, activation=False)
            for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(ConvBlock(w, w, batch_norm=bn) for w in widths[:-1])
        features = config.n_conv_after_unet
        self.features = ConvBlock(widths[0], features, batch_norm=bn)
        self.prob = nn.Conv2d(features, 4, 1)
        self.dist = nn.Conv2d(features, 4 * config.n_rays, 1)
        self.marker: nn.Conv2d | None = None
        self.near: nn.Conv2d | None = None
        if config.n_markers:
            read = config.n_marker_context or features
            self.marker = nn.Conv2d(read, config.n_markers, 1)
            if config.n_marker_context:
                self.near = nn.Conv2d(features, read, 1)
                self.coarse = nn.ModuleList(nn.Conv2d(w, read, 1, bias=False) for w in widths[1:])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias) if module.bias is not None else None
            if isinstance(module, ResidualBlock) and isinstance(module.second.norm, nn.BatchNorm2d):
                nn.init.zeros_(module.second.norm.weight)
        for layer in self.last_layers():
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(self.dist.bias, TYPICAL_RADIUS_PX)  # type: ignore[arg-type]

    def predict(self, x: Tensor) -> StarDistOutput:
        """See `StarDistNet.predict`."""
        features, *maps = self.read_around(x)
        prob, dist = (F.pixel_shuffle(layer(features), 2) for layer in (self.prob, self.dist))
        if self.marker is None:
            return StarDistOutput(prob, dist, None)
        read = features if self.near is None else self._read(features, maps)
        marker = F.interpolate(self.marker(read).float(), prob.shape[-2:], mode="bilinear")
        seen = read if self.config.marker_features else None
        return StarDistOutput(prob, dist, marker, seen)

    def read_around(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the features for marker models are made of: maps, the finest level's first.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W)
            RGB in [0, 1].

        Returns
        -------
        tuple of Tensor
            (B, n_conv_after_unet, h, w) and of each coarser level (B, width, h / 2, w / 2) and so
            on, h and w those of half the output grid.
        """
        maps = [self.level[0](self.stem(x))]
        for down, level in zip(self.down, list(self.level)[1:], strict=True):
            maps.append(level(down(maps[-1])))
        for i in reversed(range(len(maps) - 1)):
            higher = F.interpolate(self.lateral[i](maps[i + 1]), scale_factor=2, mode="nearest")
            maps[i] = self.up[i](F.relu(maps[i] + higher, inplace=True))
        return self.features(maps[0]), *maps[1:]

    @property
    def readers(self) -> tuple[nn.Conv2d, ...]:
        """Layers that read `read_around`, a map each; empty without context."""
        return () if self.near is None else (self.near, *cast(Iterable[nn.Conv2d], self.coarse))

    def _read(self, features: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """What marker models read, (B, n_marker_context, h, w) on the finest level."""
        assert self.near is not None
        around: Tensor | None = None
        for layer, x in reversed(list(zip(self.coarse, maps, strict=True))):
            here: Tensor = layer(x)
            around = here if around is None else here + _twice(around)
        near: Tensor = self.near(features)
        return F.relu(near if around is None else near + _twice(around))

    def last_layers(self) -> list[nn.Conv2d]:
        """See `StarDistNet.last_layers`."""
        return [self.prob, self.dist] + ([] if self.marker is None else [self.marker])


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")
