"""Layers of a lean copy of the shipped detector (`recipes.he.lean`), for learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NarrowConv(nn.Conv2d):
    """A convolution to few channels, ReLU, and one of a single pixel behind it."""

    def __init__(self, like: nn.Conv2d, few: int):
        super().__init__(few, like.out_channels, 1)
        size, pad = cast(Any, like.kernel_size), cast(Any, like.padding)
        self.inner = nn.Conv2d(like.in_channels, few, size, padding=pad)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H, W)."""
        return super().forward(F.relu(self.inner(x)))


class FourPointConv(nn.Conv2d):
    """A convolution of 4 x 4 pixels, two by two pixels further each time.

    It sees what three by three pixels around each of two by two see.

    Parameters
    ----------
    c_in, c_out : int
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__(c_in, c_out, 4, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / 2, W / 2)."""
        return super().forward(F.pad(x, (1, 2, 1, 2)))


class NarrowContext(nn.Module):
    """What a `MarkerContext` says, through few channels.

    Parameters
    ----------
    width : int
        Filters on the head's grid.
    features : int
        Filters before the heads.
    few, c_out : int
    """

    def __init__(self, width: int, features: int, few: int, c_out: int):
        super().__init__()
        self.near = nn.Conv2d(2 * width + features, few, 1)
        self.blurred = nn.Conv2d(2 * width, few, 1, bias=False)
        self.outlines = nn.Conv2d(features, few, 1, bias=False)
        self.coarse = nn.Conv2d(2 * width, few, 1, bias=False)
        self.around = nn.Conv2d(width, few, 1, bias=False)
        self.out = nn.Conv2d(few, c_out, 1)

    @staticmethod
    def inputs(
        encoded: Sequence[Tensor], decoded: Sequence[Tensor], features: Tensor, read: Tensor
    ) -> tuple[Tensor, ...]:
        """Arguments of `forward`; see `MarkerContext.inputs` for those that are given.

        `features` are those that `FourPointConv` has, on the head's grid.
        """
        fine = torch.cat([encoded[1], decoded[1]], dim=1)
        wide = _mean3(F.avg_pool2d(decoded[1], 4))
        return fine, read, features, encoded[2], wide

    def forward(
        self, fine: Tensor, read: Tensor, features: Tensor, coarse: Tensor, around: Tensor
    ) -> Tensor:
        """`inputs` to (B, c_out, H, W)."""
        return F.relu(self.out(self.total(fine, read, features, coarse, around)))

    def total(
        self, fine: Tensor, read: Tensor, features: Tensor, coarse: Tensor, around: Tensor
    ) -> Tensor:
        """`inputs` to (B, few, H, W), of which `out` makes what is said."""
        total = self.near(torch.cat([fine, read], dim=1)) + _mean3(self.blurred(fine))
        total = total + self.outlines(features)
        for x in (self.coarse(coarse), self.around(around)):
            total = total + F.interpolate(x, total.shape[-2:], mode="bilinear")
        return cast(Tensor, total)


def _mean3(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
