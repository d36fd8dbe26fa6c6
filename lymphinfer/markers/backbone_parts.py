"""What the backbones of the marker heads have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from lymphinfer.markers.patch_graph import IMAGENET_MEAN as IMAGENET_MEAN
from lymphinfer.markers.patch_graph import IMAGENET_STD as IMAGENET_STD


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone as built.

    Attributes
    ----------
    module : nn.Module
        (B, 3, S, S) normalised images to (B, width) features.
    width : int
        Number of features.
    """

    module: nn.Module
    width: int


class FreezableBackbone(nn.Module):
    """A backbone on which heads can be trained while it stays as it is."""

    frozen = False

    def freeze(self) -> None:
        """Keep the weights and statistics as they are, whatever is trained on top of them."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a frozen backbone stays in evaluation mode."""
        return super().train(mode and not self.frozen)


class Normalise(nn.Module):
    """Subtract a mean and divide by a deviation, per RGB channel; part of the saved network."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to the same shape, normalised."""
        return (x - self.mean) / self.std
