"""StarDist's 2-D U-Net in PyTorch, layer for layer the graph of ``stardist.models.StarDist2D``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class StarDistConfig:
    """Shape of the network; the field names are those of stardist's ``Config2D``.

    Attributes
    ----------
    n_rays : int
        Rays of a star-convex polygon.
    grid : int
        Stride of the output, a power of two: one prediction every `grid` input pixels.
    n_filter_base : int
        Filters of the first U-Net level, doubled at every further one.
    n_depth : int
        Poolings inside the U-Net.
    n_conv_after_unet : int
        Filters of the 3x3 layer before the heads.
    batch_norm : bool
        Batch normalisation between convolution and activation. Folded away for inference.
    n_markers : int
        Channels of the dense marker head (stardist's ``prob_class`` branch, with a sigmoid a
        marker in place of its softmax over classes); 0 builds none.
    """

    n_rays: int = 32
    grid: int = 2
    n_filter_base: int = 32
    n_depth: int = 3
    n_conv_after_unet: int = 128
    batch_norm: bool = False
    n_markers: int = 0

    @property
    def stride(self) -> int:
        """Input sides must be multiples of this many pixels."""
        return int(self.grid * 2**self.n_depth)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a bundle's TOML."""
        return asdict(self)


class StarDistOutput(NamedTuple):
    """Dense prediction on the output grid (h = H / grid, w = W / grid).

    Attributes
    ----------
    prob_logit : Tensor, (B, 1, h, w)
        Logit of the object probability.
    dist : Tensor, (B, n_rays, h, w)
        Distances to the boundary, input px.
    marker_logit : Tensor or None, (B, n_markers, h, w)
        Logits of the dense marker head.
    """

    prob_logit: Tensor
    dist: Tensor
    marker_logit: Tensor | None


class ConvBlock(nn.Module):
    """3x3 convolution, optional batch normalisation, ReLU."""

    def __init__(self, c_in: int, c_out: int, *, batch_norm: bool):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm: nn.Module = nn.BatchNorm2d(c_out) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H, W)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class StarDistNet(nn.Module):
    """U-Net with a probability, a distance and an optional marker head.

    The keys of `blocks` are the names of the Keras layers: official weights convert by name.

    Parameters
    ----------
    config : StarDistConfig
        Shape of the network.
    """

    def __init__(self, config: StarDistConfig):
        super().__init__()
        self.config = config
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

    def forward(self, x: Tensor) -> StarDistOutput:
        """Predict densely.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W)
            RGB in [0, 1]; H and W multiples of ``config.stride``.

        Returns
        -------
        StarDistOutput

        Raises
        ------
        ValueError
            H or W is no multiple of the stride.
        """
        cfg = self.config
        if x.shape[-2] % cfg.stride or x.shape[-1] % cfg.stride:
            raise ValueError(
                f"input {tuple(x.shape[-2:])} px: both sides must be multiples of {cfg.stride}"
            )
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


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def fold_batch_norm(net: StarDistNet) -> StarDistNet:
    """Return the same function without batch normalisation (evaluation mode, running statistics).

    Parameters
    ----------
    net : StarDistNet
        Any network; one without batch normalisation is copied.

    Returns
    -------
    StarDistNet
        In evaluation mode, ``config.batch_norm`` False, outputs equal up to rounding.
    """
    plain = StarDistNet(StarDistConfig(**{**net.config.to_dict(), "batch_norm": False}))
    state = {k: v for k, v in net.state_dict().items() if ".norm." not in k}
    for name, block in net.blocks.items():
        if isinstance(block, ConvBlock) and isinstance(block.norm, nn.BatchNorm2d):
            fused = torch.nn.utils.fuse_conv_bn_eval(block.conv.eval(), block.norm.eval())
            state[f"blocks.{name}.conv.weight"] = fused.weight.detach()
            state[f"blocks.{name}.conv.bias"] = cast(Tensor, fused.bias).detach()
    plain.load_state_dict(state)
    return plain.eval()
