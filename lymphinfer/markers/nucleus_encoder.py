"""The residual StarDist network as a patch backbone, and what a detector taught it.

A network that has learned to outline nuclei and to tell leukocytes densely knows most of what a
patch classifier needs: what its marker head reads and says around the centre of a patch is the
feature from which the classifier begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lymphinfer.markers.backbones import IMAGENET_MEAN, IMAGENET_STD, FreezableBackbone
from lymphinfer.nuclei.stardist.network import (
    ResidualStarDistNet,
    StarDistConfig,
    build_network,
)

NAME = "stardist-resnet"
CONFIG = StarDistConfig(
    encoder="resnet", n_blocks=3, n_conv_after_unet=96, batch_norm=True, n_markers=1
)
# Of the Gaussians that weigh the centre, patch px; a nucleus is some 25 px wide at 0.325 µm/px. The
# narrow one stays inside it, the wide one sees its rim.
CENTRAL_SIGMAS_PX = (5.0, 11.0)
_UNUSED = ("features.", "prob.", "dist.", "up.0.", "lateral.0.")


class NucleusEncoder(FreezableBackbone):
    """(B, 3, S, S) normalised patches to (B, 2 (C + 1) + D) features.

    The C maps that the dense marker head reads and its logit, each by the two Gaussians of
    `CENTRAL_SIGMAS_PX`, then the means of the D coarsest maps: the nucleus in question, and its
    neighbourhood.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = cast(ResidualStarDistNet, build_network(CONFIG))
        for name in ("features", "prob", "dist"):
            setattr(self.net, name, nn.Identity())
        self.net.up[0], self.net.lateral[0] = nn.Identity(), nn.Identity()
        coarsest = CONFIG.n_filter_base * 2**CONFIG.n_depth
        self.num_features = len(CENTRAL_SIGMAS_PX) * (CONFIG.n_conv_after_unet + 1) + coarsest

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        marker = cast(nn.Sequential, self.net.marker)
        encoded = self.net.encode(x)
        read = marker[0](self.net.decode(encoded, until=1)[0])
        maps = torch.cat([read, marker[1](read)], dim=1)
        side, stride = maps.shape[-1], encoded[0].shape[-1] * CONFIG.grid // maps.shape[-1]
        position = (torch.arange(side, device=x.device, dtype=maps.dtype) + 0.5 - side / 2) * stride
        pooled = []
        for sigma in CENTRAL_SIGMAS_PX:
            line = torch.softmax(-0.5 * (position / sigma) ** 2, 0)
            pooled.append(torch.einsum("bcij,i,j->bc", maps, line, line))
        return torch.cat([*pooled, encoded[-1].mean(dim=(2, 3))], dim=1)


def from_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the backbone out of a trained detector's.

    Parameters
    ----------
    state : mapping of str to Tensor
        ``ResidualStarDistNet.state_dict()`` with batch normalisation, of the shape of `CONFIG`.

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
