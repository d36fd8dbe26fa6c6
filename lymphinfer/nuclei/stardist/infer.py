"""One forward pass over an image in memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lymphinfer.nuclei.stardist.network import StarDistNet


class DensePrediction(NamedTuple):
    """Numpy views of one image's prediction on the output grid.

    Attributes
    ----------
    prob : ndarray of float32, (h, w)
    dist : ndarray of float32, (n_rays, h, w)
    marker_logit : ndarray of float32 or None, (n_markers, h, w)
    """

    prob: NDArray[np.float32]
    dist: NDArray[np.float32]
    marker_logit: NDArray[np.float32] | None


def to_input(images: NDArray[np.uint8], stride: int) -> Tensor:
    """Make a network input: [0, 1], channels last, edges mirrored to multiples of the stride.

    Parameters
    ----------
    images : ndarray of uint8, (B, H, W, 3)
    stride : int
        ``config.stride``.

    Returns
    -------
    Tensor of float32, (B, 3, H', W')
        H' and W' are H and W rounded up.
    """
    x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(255)
    bottom, right = -x.shape[-2] % stride, -x.shape[-1] % stride
    if bottom or right:
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    return x.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def predict_dense(
    net: StarDistNet,
    images: NDArray[np.uint8],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> list[DensePrediction]:
    """Predict images of one size.

    Parameters
    ----------
    net : StarDistNet
        In evaluation mode, on `device`.
    images : ndarray of uint8, (B, H, W, 3)
    device : torch.device or str
    autocast : torch.dtype or None
        Half type for the convolutions, None for full precision.

    Returns
    -------
    list of DensePrediction
        On the grid of the unpadded image: h = ceil(H / grid), w = ceil(W / grid).
    """
    cfg = net.config
    h, w = -(-images.shape[1] // cfg.grid), -(-images.shape[2] // cfg.grid)
    x = to_input(images, cfg.stride).to(device)
    with torch.autocast(torch.device(device).type, dtype=autocast, enabled=autocast is not None):
        output = net(x)
    prob = output.prob_logit[:, 0, :h, :w].float().sigmoid().cpu().numpy()
    dist = output.dist[:, :, :h, :w].float().cpu().numpy()
    marker = (
        None
        if output.marker_logit is None
        else output.marker_logit[:, :, :h, :w].float().cpu().numpy()
    )
    return [
        DensePrediction(prob[i], dist[i], None if marker is None else marker[i])
        for i in range(len(images))
    ]
