"""HoVer-Net's loss (Graham et al. 2019, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lymphinfer.nuclei.hovernet.network import HoVerNetOutput

_REACH = 2


class HoVerNetLoss(NamedTuple):
    """Scalar losses; `total` is what is minimised."""

    total: Tensor
    nucleus: Tensor
    distance: Tensor
    kind: Tensor


def hovernet_loss(
    output: HoVerNetOutput, nucleus: Tensor, distance: Tensor, kind: Tensor
) -> HoVerNetLoss:
    """Cross-entropy and Dice of nuclei and types; squared error of distances and their slopes.

    Parameters
    ----------
    output : HoVerNetOutput
    nucleus : Tensor of int, (B, h, w)
        1 nucleus, 0 background, -1 unknown.
    distance : Tensor, (B, 2, h, w)
        Of `distance_maps`.
    kind : Tensor of int, (B, h, w)
        Of `kind_map`.

    Returns
    -------
    HoVerNetLoss
    """
    assert output.nucleus is not None and output.distance is not None
    loss = _classes(output.nucleus.float(), nucleus)
    found = output.distance.float()
    known = (nucleus >= 0)[:, None].float()
    error = ((found - distance) ** 2 * known).sum() / (2 * known.sum()).clamp(min=1)
    inside = (nucleus > 0)[:, None].float()
    slope = (_slopes(found) - _slopes(distance)) ** 2 * inside
    distance_loss = error + slope.sum() / (2 * inside.sum()).clamp(min=1)
    kind_loss = loss.new_zeros(())
    if output.kind is not None:
        kind_loss = _classes(output.kind.float(), kind)
    total = loss + distance_loss + kind_loss
    return HoVerNetLoss(total, loss.detach(), distance_loss.detach(), kind_loss.detach())


def _classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus the Dice loss of each class, over the pixels whose class is known."""
    known = (labels >= 0).float()
    each = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    entropy = (each * known).sum() / known.sum().clamp(min=1)
    probability = logits.softmax(dim=1) * known[:, None]
    truth = F.one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1) * known[:, None]
    both = (probability * truth).sum(dim=(0, 2, 3))
    size = probability.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    return entropy + (1 - (2 * both + 1e-3) / (size + 1e-3)).mean()


def _slopes(maps: Tensor) -> Tensor:
    """Slope of the horizontal map along x and of the vertical map along y, (B, 2, h, w)."""
    line = torch.arange(-_REACH, _REACH + 1, dtype=maps.dtype, device=maps.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    kernel = x / (x * x + y * y + 1e-12)
    weight = torch.stack([kernel, kernel.T])[:, None]
    return F.conv2d(maps, weight, padding=_REACH, groups=2)
