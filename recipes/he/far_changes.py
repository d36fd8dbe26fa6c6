"""How crops of the far scale are changed, a batch at once and on its device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def draw_turns(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Matrices that take the place in a crop to that in its source, (n, 2, 2)."""
    quarter = np.array([[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]])
    turns = quarter[rng.integers(4, size=n)].astype(np.float32)
    turns[rng.random(n) < 0.5] @= np.array([[-1, 0], [0, 1]], np.float32)
    scaled = rng.random(n) < 0.5
    return turns * np.where(scaled, rng.uniform(0.85, 1.2, n), 1.0)[:, None, None].astype(
        np.float32
    )


def inverse(turns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of `draw_turns` for row vectors, (n, 2, 2)."""
    return np.linalg.inv(turns).transpose(0, 2, 1)


def turn(source: Tensor, turns: NDArray[np.float32], side: int) -> Tensor:
    """Crops of `side` px out of the middle of their sources."""
    theta = np.zeros((len(turns), 2, 3), np.float32)
    theta[:, :, :2] = turns * (side / source.shape[-1])
    grid = F.affine_grid(
        torch.from_numpy(theta).to(source), [len(turns), source.shape[1], side, side], False
    )
    return F.grid_sample(source, grid, align_corners=False, padding_mode="reflection")


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of a batch, px."""
    reach = 3
    taps = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2)).to(x)
    taps = (taps / taps.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, (reach,) * 4, mode="reflect")
    x = F.conv2d(x, taps, groups=x.shape[1])
    return F.conv2d(x, taps.transpose(2, 3), groups=x.shape[1])


def jpeg(x: Tensor, quality: NDArray[np.int64]) -> Tensor:
    """JPEG compression of the crops whose quality is not 0, where they are."""
    from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

    chosen = np.flatnonzero(quality)
    if x.is_cuda:
        # A GPU's encoder takes many pictures of one quality.
        chosen = chosen[np.argsort(quality[chosen])]
        for part in np.array_split(chosen, 4):
            if not len(part):
                continue
            index = torch.from_numpy(part).to(x.device)
            pixels = list((x[index] * 255).round().to(torch.uint8).contiguous())
            squeezed = encode_jpeg(pixels, quality=int(quality[part].mean()))
            files = [s.cpu() for s in squeezed]
            found = decode_jpeg(files, mode=ImageReadMode.RGB, device=x.device)
            x[index] = torch.stack(found).to(x) / 255
        return x
    for i in chosen:
        pixels_ = (x[i] * 255).round().to(torch.uint8).contiguous()
        squeezed_ = encode_jpeg(pixels_, quality=int(quality[i]))
        x[i] = decode_jpeg(squeezed_, mode=ImageReadMode.RGB).to(x) / 255
    return x
