"""One forward pass over an image in memory."""

from __future__ import annotations

from itertools import product
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lymphinfer.compute import channels_last
from lymphinfer.nuclei.stardist.dense import DensePrediction, padded
from lymphinfer.nuclei.stardist.network import StarDistNet, StarDistOutput
from lymphinfer.transfers import fetch, overlaps, to_device


class TorchStarDist:
    """A StarDist that torch computes. Implements `lymphinfer.nuclei.stardist.dense.DenseNet`.

    Parameters
    ----------
    net : StarDistNet
        Without batch normalisation.
    device : torch.device or str
    autocast : torch.dtype or None
        Half type for the convolutions, None for full precision.
    n_views : int
        Mirrored views averaged a tile: 1, 4 or 8 (`averaged_output`); costs as many passes.
    """

    in_bytes = False

    def __init__(
        self,
        net: StarDistNet,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        n_views: int = 1,
    ):
        self.device, self.autocast, self.n_views = torch.device(device), autocast, n_views
        self.net, self.config = channels_last(net.eval(), self.device), net.config

    def predict(self, images: NDArray[np.uint8]) -> list[DensePrediction]:
        """See `DenseNet.predict`. Returns before a GPU is done."""
        return predict_dense(
            self.net,
            images,
            device=self.device,
            autocast=self.autocast,
            n_views=self.n_views,
            wait=False,
        )


def to_input(images: NDArray[np.uint8], stride: int, device: torch.device | str = "cpu") -> Tensor:
    """Make a network input: [0, 1], channels last, edges `padded` to multiples of the stride.

    Parameters
    ----------
    images : ndarray of uint8, (B, H, W, 3)
    stride : int
        ``config.stride``.
    device : torch.device or str
        Where it goes. A GPU of CUDA makes it from the bytes itself, with the same values.

    Returns
    -------
    Tensor of float32, (B, 3, H', W')
        H' and W' are H and W rounded up.
    """
    there = device if overlaps(device) else "cpu"
    x = to_device(padded(images, stride), there).permute(0, 3, 1, 2).float()
    # By a tensor: CUDA multiplies with the reciprocal of a number.
    x.div_(torch.full((), 255.0, device=x.device))
    return x.contiguous(memory_format=torch.channels_last).to(device)


# Ways to look at a tile: (transpose, mirror x, mirror y).
_VIEWS = tuple(product((False, True), repeat=3))
N_VIEWS = (1, 4, 8)


def _mirror(x: Tensor, dim: int) -> Tensor:
    """Mirror so that sample 0 of a strided grid stays sample 0: position p takes S - p.

    An involution but for the first position, which takes the last one's value.
    """
    size = x.shape[dim]
    return torch.cat([x.narrow(dim, size - 1, 1), x.flip(dim).narrow(dim, 0, size - 1)], dim)


def averaged_output(net: StarDistNet, x: Tensor, n_views: int, n_rays: int) -> StarDistOutput:
    """Mean prediction over mirrored and transposed views of an input (test-time averaging).

    Parameters
    ----------
    net : StarDistNet
    x : Tensor, (B, 3, H, W)
        As `StarDistNet.forward` takes it.
    n_views : int
        1; 4, the mirror images; 8, these and their transposes (square or not).
    n_rays : int
        Of the network; a multiple of 4 where `n_views` is not 1.

    Returns
    -------
    StarDistOutput
        Means of the logits and distances, each brought back to the input's own orientation.

    Raises
    ------
    ValueError
        `n_views` is none of these, or the rays do not map onto each other.
    """
    if n_views not in N_VIEWS:
        raise ValueError(f"{n_views} views: choose 1, 4 or 8")
    if n_views == 1:
        return cast(StarDistOutput, net(x))
    if n_rays % 4:
        raise ValueError(f"{n_rays} rays do not map onto each other when mirrored")
    k = torch.arange(n_rays, device=x.device)
    total: list[Tensor] = []
    for transposed, mirror_x, mirror_y in _VIEWS[:n_views]:
        view = _mirror(x, 3) if mirror_x else x
        view = _mirror(view, 2) if mirror_y else view
        view = view.transpose(2, 3) if transposed else view
        output = net(view.contiguous(memory_format=torch.channels_last))
        rays = (n_rays // 2 - k) if mirror_x else k
        rays = -rays if mirror_y else rays
        rays = (n_rays // 4 - rays) if transposed else rays
        maps = []
        dist = output.dist[:, rays % n_rays]
        for values in (output.prob_logit, dist, output.marker_logit, output.marker_features):
            if values is None:
                continue
            values = values.float()
            values = values.transpose(2, 3) if transposed else values
            values = _mirror(values, 2) if mirror_y else values
            maps.append(_mirror(values, 3) if mirror_x else values)
        total = [a + b for a, b in zip(total, maps, strict=True)] if total else maps
    mean = [t / n_views for t in total]
    return StarDistOutput(mean[0], mean[1], *mean[2:], *[None] * (4 - len(mean)))


@torch.inference_mode()
def predict_dense(
    net: StarDistNet,
    images: NDArray[np.uint8],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    n_views: int = 1,
    wait: bool = True,
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
    n_views : int
        Of `averaged_output`.
    wait : bool
        False: return before a GPU is done; `DensePrediction.wait` waits.

    Returns
    -------
    list of DensePrediction
        On the grid of the unpadded image: h = ceil(H / grid), w = ceil(W / grid).
    """
    cfg = net.config
    h, w = -(-images.shape[1] // cfg.grid), -(-images.shape[2] // cfg.grid)
    x = to_input(images, cfg.stride, device)
    with torch.autocast(torch.device(device).type, dtype=autocast, enabled=autocast is not None):
        output = averaged_output(net, x, n_views, cfg.n_rays)
    logit, seen = output.marker_logit, output.marker_features
    found = {
        "prob": output.prob_logit[:, 0, :h, :w].float().sigmoid(),
        "dist": output.dist[:, :, :h, :w].float(),
        "marker_logit": None if logit is None else logit[:, :, :h, :w].float(),
        "marker_features": None if seen is None else seen.float(),
    }
    there = {name: values for name, values in found.items() if values is not None}
    arrays, ready = fetch(list(there.values()))
    if wait:
        ready.wait()
    maps = dict(zip(there, arrays, strict=True))
    logits, features = maps.get("marker_logit"), maps.get("marker_features")
    return [
        DensePrediction(
            maps["prob"][i],
            maps["dist"][i],
            None if logits is None else logits[i],
            None if features is None else features[i],
            ready,
        )
        for i in range(len(images))
    ]
