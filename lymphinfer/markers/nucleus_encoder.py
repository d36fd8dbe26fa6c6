"""The residual StarDist network as a patch backbone, and what a detector taught it.

A network that has learned to outline nuclei and to tell leukocytes densely knows most of what a
patch classifier needs: what its marker head reads around the centre of a patch is the feature from
which the classifier begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lymphinfer.markers.backbone_parts import IMAGENET_MEAN, IMAGENET_STD, FreezableBackbone
from lymphinfer.markers.nucleus_graph import CENTRAL_SIGMA_CELLS, CENTRAL_SIGMA_PX, CONFIG
from lymphinfer.markers.nucleus_graph import NAME as NAME
from lymphinfer.nuclei.stardist.network import ResidualStarDistNet, build_network

_UNUSED = ("prob.", "dist.", "marker.1.", "marker_context.")


class NucleusEncoder(FreezableBackbone):
    """(B, 3, S, S) normalised patches to (B, D) features.

    What a marker head with `MarkerContext` reads, by a Gaussian around the centre of the patch: the
    nucleus in question, and its neighbours.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = cast(ResidualStarDistNet, build_network(CONFIG))
        self.net.prob, self.net.dist = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        cast(nn.Sequential, self.net.marker)[1] = nn.Identity()
        self.num_features = 7 * 2 * CONFIG.n_filter_base + 2 * CONFIG.n_conv_after_unet

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        maps = self.net.read_around(x)
        return torch.cat([around_centre(m, x.shape[-1] / m.shape[-1]) for m in maps], dim=1)


def around_centre(maps: Tensor, stride: float) -> Tensor:
    """(B, C, H, H) maps to their (B, C) means around the centre, by a Gaussian.

    Parameters
    ----------
    maps : Tensor
    stride : float
        Of the maps, patch px.
    """
    side = maps.shape[-1]
    position = (torch.arange(side, device=maps.device, dtype=maps.dtype) + 0.5 - side / 2) * stride
    line = central_weights(position, stride)
    return torch.einsum("bcij,i,j->bc", maps, line, line)


def central_weights(position: Tensor, stride: float) -> Tensor:
    """Weights (N,), of sum 1, of cells at (N,) patch px from the centre, on a map of a stride."""
    sigma = max(CENTRAL_SIGMA_PX, CENTRAL_SIGMA_CELLS * stride)
    return torch.softmax(-0.5 * (position / sigma) ** 2, 0)


def from_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the backbone out of a trained detector's.

    Parameters
    ----------
    state : mapping of str to Tensor
        ``ResidualStarDistNet.state_dict()`` of the shape of `CONFIG`, with `MarkerContext` or
        without.

    Returns
    -------
    dict of str to Tensor
        For `NucleusEncoder.load_state_dict`. A patch classifier subtracts a mean and divides by a
        deviation, a detector does not: the first layer takes that back.
    """
    own = {f"net.{k}": v.clone() for k, v in state.items() if not k.startswith(_UNUSED)}
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    first = "net.stem.0.conv."
    weight = own[f"{first}weight"]
    own[f"{first}weight"] = weight * std[None, :, None, None]
    own[f"{first}bias"] = own[f"{first}bias"] + (weight.sum(dim=(2, 3)) * mean).sum(dim=1)
    return own
