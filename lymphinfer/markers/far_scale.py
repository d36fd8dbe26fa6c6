"""The far scale: a network that sees the neighbourhood of every nucleus at 1.3 µm/px.

What surrounds a nucleus says much of what it is: a follicle, a crypt, loose stroma. At a sixteenth
of the pixels of the near scale that costs little.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.compute import channels_last
from lymphinfer.markers.configs import FAR_MPP as FAR_MPP
from lymphinfer.markers.configs import HALO_PX as HALO_PX
from lymphinfer.markers.configs import FarConfig as FarConfig
from lymphinfer.nuclei.stardist.batch_norm import adopt_folded, folded_state
from lymphinfer.nuclei.stardist.network import ConvBlock
from lymphinfer.transfers import Ready, beside, to_device


def _conv(c_in: int, c_out: int, *, batch_norm: bool, **shape: Any) -> ConvBlock:
    return ConvBlock(c_in, c_out, batch_norm=batch_norm, bias=not batch_norm, **shape)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside the identity (He et al. 2016, the basic block)."""

    def __init__(self, channels: int, *, batch_norm: bool):
        super().__init__()
        self.first = _conv(channels, channels, batch_norm=batch_norm)
        self.second = _conv(channels, channels, batch_norm=batch_norm, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)), inplace=True)


class FarNet(nn.Module):
    """Residual encoder and U-Net decoder from H&E at 1.3 µm/px to features on half its grid.

    `forward` gives the features of every place; `tell` takes those of a nucleus, (N, features), to
    logits, (N, outputs).

    Parameters
    ----------
    config : FarConfig
    """

    def __init__(self, config: FarConfig):
        super().__init__()
        self.config = config
        widths, bn = config.widths, config.batch_norm
        self.stem = _conv(3, widths[0], batch_norm=bn, kernel=5, stride=2)
        self.levels = nn.ModuleList(
            nn.Sequential(*(_Residual(width, batch_norm=bn) for _ in range(blocks)))
            for width, blocks in zip(widths, config.blocks, strict=True)
        )
        self.down = nn.ModuleList(
            _conv(fine, coarse, batch_norm=bn, stride=2) for fine, coarse in pairwise(widths)
        )
        self.lateral = nn.ModuleList(
            _conv(coarse, fine, batch_norm=bn, kernel=1) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(_conv(2 * fine, fine, batch_norm=bn) for fine in widths[:-1])
        self.out = _conv(widths[0], config.features, batch_norm=bn, kernel=1)
        self.tell = nn.Sequential(
            nn.Linear(config.features, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, len(config.outputs)),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, _Residual) and isinstance(module.second.norm, nn.BatchNorm2d):
                nn.init.zeros_(module.second.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Features of every place.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W)
            RGB in [0, 1]; H and W multiples of ``config.stride``.

        Returns
        -------
        Tensor, (B, features, H / 2, W / 2)

        Raises
        ------
        ValueError
            H or W is no multiple of the stride.
        """
        stride = self.config.stride
        if x.shape[-2] % stride or x.shape[-1] % stride:
            raise ValueError(
                f"input {tuple(x.shape[-2:])} px: both sides must be multiples of {stride}"
            )
        x = self.stem(optical_density(x))
        maps = [self.levels[0](x)]
        for down, level in zip(self.down, self.levels[1:], strict=True):
            maps.append(level(down(maps[-1])))
        x = maps.pop()
        for lateral, up in zip(reversed(self.lateral), reversed(self.up), strict=True):
            x = F.interpolate(lateral(x), scale_factor=2, mode="nearest")
            x = up(torch.cat([x, maps.pop()], dim=1))
        features: Tensor = self.out(x)
        return features


def optical_density(x: Tensor) -> Tensor:
    """Natural optical density of RGB in [0, 1], of any shape: 0 for white, 5.5 for black."""
    return -torch.log((x * 255 + 1) / 256)


def sample_features(features: Tensor, centers: Tensor, out_stride: int) -> Tensor:
    """Features at nuclei, by bilinear interpolation.

    Parameters
    ----------
    features : Tensor, (C, h, w)
        Of `FarNet.forward`.
    centers : Tensor of float, (N, 2)
        Nuclei (x, y), px of the network's input, the first pixel's outer corner at (0, 0).
    out_stride : int
        ``config.out_stride``.

    Returns
    -------
    Tensor of float32, (N, C)
        A nucleus beyond the map takes the border's values.
    """
    height, width = features.shape[-2:]
    size = torch.tensor([width, height], dtype=torch.float32, device=features.device)
    where = centers.to(features.device, torch.float32) / out_stride / size * 2 - 1
    sampled = F.grid_sample(
        features[None].float(), where[None, None], padding_mode="border", align_corners=False
    )
    return sampled[0, :, 0].T


class TorchFar:
    """A `FarNet` that torch computes. Implements `lymphinfer.markers.two_scale.FarEngine`.

    Parameters
    ----------
    net : FarNet
        Without batch normalisation.
    device : torch.device or str
    autocast : torch.dtype or None
        Half type for the convolutions, None for full precision.
    """

    def __init__(
        self,
        net: FarNet,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
    ):
        self.device, self.autocast = torch.device(device), autocast
        self.net = channels_last(net.eval(), self.device)
        self.config = net.config

    @torch.inference_mode()
    def look(self, pixels: NDArray[np.uint8]) -> FarFeatures:
        """See `FarEngine.look`."""
        x = to_device(pixels, self.device).permute(2, 0, 1)[None]
        x = (x.float() / 255).contiguous(memory_format=torch.channels_last)
        half = self.autocast is not None
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=half):
            features = self.net(x)
        return FarFeatures(features[0].float())

    @torch.inference_mode()
    def tell(self, features: FarFeatures, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """See `FarEngine.tell`."""
        where = torch.from_numpy(points.astype(np.float32))
        with beside(features.maps.device, features.ready):
            sampled = sample_features(features.maps, where, self.config.out_stride)
            logits: NDArray[np.float32] = self.net.tell(sampled).float().cpu().numpy()
        return logits

    @staticmethod
    def join(one: FarFeatures, other: FarFeatures, axis: int, kept: int, left: int) -> FarFeatures:
        """See `FarEngine.join`."""
        first = one.maps.narrow(axis, 0, kept)
        second = other.maps.narrow(axis, left, other.maps.shape[axis] - left)
        return FarFeatures(torch.cat([first, second], dim=axis))


class FarFeatures:
    """Features (C, h, w) of a rectangle on their device, and when they are there."""

    def __init__(self, maps: Tensor):
        self.maps, self.ready = maps, Ready(maps.device)


def fold_batch_norm(net: FarNet) -> FarNet:
    """Return the same function without batch normalisation (evaluation mode, running statistics).

    Parameters
    ----------
    net : FarNet
        One without batch normalisation is copied.

    Returns
    -------
    FarNet
        In evaluation mode, outputs equal up to rounding.
    """
    plain = FarNet(replace(net.config, batch_norm=False))
    plain.load_state_dict(folded_state(net))
    return plain.eval()


def unfold_batch_norm(net: FarNet, x: Tensor) -> FarNet:
    """Return the same function with batch normalisation, to train a shipped network further.

    Parameters
    ----------
    net : FarNet
        Without batch normalisation.
    x : Tensor, (B, 3, H, W)
        A batch of training images, as `FarNet.forward` takes them.

    Returns
    -------
    FarNet
        In evaluation mode, outputs equal up to rounding.
    """
    full = FarNet(replace(net.config, batch_norm=True)).eval()
    adopt_folded(full, net.state_dict(), x)
    return full
