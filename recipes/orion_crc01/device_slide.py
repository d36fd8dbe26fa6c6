"""The slide as it lies on the training device: patches are cut and changed there, many at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lymphinfer.markers.far_scale import optical_density
from lymphinfer.nuclei.augment import STAIN_VECTORS

MARGIN_PX = 64
"""White around the slide: half of the widest patch fits into it."""
PLAIN = 0.35
"""Share of the patches whose stain stays as it is."""


@dataclass(frozen=True)
class DeviceSlide:
    """Pixels and nuclei.

    Attributes
    ----------
    pixels : Tensor of uint8, (H + 2 margins, W + 2 margins, 3)
    centers : Tensor of int64, (N, 2)
        Pixel (x, y) of each nucleus, in the slide without margins.
    """

    pixels: Tensor
    centers: Tensor

    @classmethod
    def load(
        cls, he: NDArray[np.uint8], xy: NDArray[np.floating], device: torch.device
    ) -> DeviceSlide:
        """Put a slide (H, W, 3) and its nuclei (N, 2), px, on a device."""
        height, width = he.shape[:2]
        shape = height + 2 * MARGIN_PX, width + 2 * MARGIN_PX, 3
        pixels = torch.full(shape, 255, dtype=torch.uint8, device=device)
        inner = np.s_[MARGIN_PX : MARGIN_PX + height, MARGIN_PX : MARGIN_PX + width]
        pixels[inner] = torch.from_numpy(he).to(device)
        return cls(pixels, torch.from_numpy(np.rint(xy).astype(np.int64)).to(device))

    def cut(self, index: Tensor, side: int, generator: torch.Generator | None = None) -> Tensor:
        """Patches around nuclei, turned and mirrored at random where a generator is given.

        Parameters
        ----------
        index : Tensor of int64, (B,)
            On the device.
        side : int
            px; the nucleus' pixel lies at ``side // 2``, as `markers.patches.cut_patches` has it.
        generator : torch.Generator, optional

        Returns
        -------
        Tensor of float32, (B, 3, side, side)
            RGB in [0, 1], channels last.
        """
        device = self.pixels.device
        step = torch.arange(side, device=device).expand(len(index), side)
        turned = torch.zeros(len(index), 1, 1, dtype=torch.bool, device=device)
        along, down = step, step
        if generator is not None:
            flags = torch.rand(3, len(index), 1, generator=generator, device=device) < 0.5
            along = torch.where(flags[0], side - 1 - along, along)
            down = torch.where(flags[1], side - 1 - down, down)
            turned = flags[2][..., None]
        columns = torch.where(turned, down[:, :, None], along[:, None, :])
        rows = torch.where(turned, along[:, None, :], down[:, :, None])
        first = (self.centers[index] + MARGIN_PX - side // 2)[:, :, None, None]
        patches = self.pixels[first[:, 1] + rows, first[:, 0] + columns]
        return patches.permute(0, 3, 1, 2).float().div_(255)


def change_stain(x: Tensor, generator: torch.Generator) -> Tensor:
    """Another laboratory's stain and scanner, each patch its own.

    The same change as that of the far scale's crops: the stains' vectors and concentrations, each
    channel's gain, and a power of the optical density.

    Parameters
    ----------
    x : Tensor of float32, (B, 3, S, S)
        RGB in [0, 1].
    generator : torch.Generator
        On the same device.

    Returns
    -------
    Tensor
        Of the same shape, in [0, 1].
    """
    count, device = len(x), x.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, device=device)

    vectors = STAIN_VECTORS / np.linalg.norm(STAIN_VECTORS, axis=1, keepdims=True)
    unit = torch.from_numpy(vectors.astype(np.float32)).to(device)
    apart = torch.from_numpy(np.linalg.inv(vectors).astype(np.float32)).to(device)
    target = unit + 0.04 * normal(3, 3)
    target = target / target.norm(dim=2, keepdim=True)
    mix = (apart * torch.exp(0.22 * normal(1, 3))) @ target * torch.exp(0.1 * normal(1, 3))
    power = torch.exp(0.12 * normal(1, 1, 1))
    plain = torch.rand(count, generator=generator, device=device) < PLAIN
    mix = torch.where(plain[:, None, None], torch.eye(3, device=device), mix)
    power = torch.where(plain[:, None, None, None], torch.ones_like(power), power)
    density = torch.einsum("bchw,bcd->bdhw", optical_density(x), mix).clamp(min=1e-4)
    density = 0.5 * (density / 0.5) ** power
    return ((torch.exp(-density) * 256 - 1) / 255).clamp(0, 1)
