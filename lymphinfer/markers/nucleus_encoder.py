"""The residual encoder of the StarDist network as a patch backbone, and what a detector taught it.

A network that has learned to outline nuclei and to tell leukocytes densely knows most of what a
patch classifier needs; starting there needs a fraction of the patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lymphinfer.markers.backbones import IMAGENET_MEAN, IMAGENET_STD
from lymphinfer.nuclei.stardist.network import (
    ResidualStarDistNet,
    StarDistConfig,
    build_network,
)

NAME = "stardist-resnet"
CONFIG = StarDistConfig(encoder="resnet", n_blocks=3, n_conv_after_unet=8, batch_norm=True)
# Of the Gaussian that weighs the central nucleus, as a share of the patch's side: 112 px hold
# 36 µm, a nucleus some 8 µm.
CENTRAL_SIGMA = 0.12


class NucleusEncoder(nn.Module):
    """(B, 3, S, S) normalised patches to (B, 2 C) features: the patch's mean beside its centre's.

    The classifier's centre is the nucleus in question, its mean the neighbourhood.
    """

    def __init__(self) -> None:
        super().__init__()
        net = cast(ResidualStarDistNet, build_network(CONFIG))
        self.stem, self.down = net.stem, net.down
        self.num_features = 2 * CONFIG.n_filter_base * 2**CONFIG.n_depth

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.stem(x)
        for level in self.down:
            x = level(x)
        side = x.shape[-1]
        position = (torch.arange(side, device=x.device, dtype=x.dtype) + 0.5) / side - 0.5
        line = torch.softmax(-0.5 * (position / CENTRAL_SIGMA) ** 2, 0)
        central = torch.einsum("bcij,i,j->bc", x, line, line)
        return torch.cat([x.mean(dim=(2, 3)), central], dim=1)


def from_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder weights out of a trained detector's.

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
    own = {k: v.clone() for k, v in state.items() if k.startswith(("stem.", "down."))}
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    weight = own["stem.0.conv.weight"]
    own["stem.0.conv.weight"] = weight * std[None, :, None, None]
    own["stem.0.conv.bias"] = own["stem.0.conv.bias"] + (weight.sum(dim=(2, 3)) * mean).sum(dim=1)
    return own
