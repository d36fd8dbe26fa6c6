"""One forward pass over an image in memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lymphinfer.nuclei.stardist.network import StarDistNet, StarDistOutput
from lymphinfer.runtime import OpenVinoNet
from lymphinfer.transfers import Ready, fetch, overlaps, to_device


class DensePrediction(NamedTuple):
    """Numpy views of one image's prediction on the output grid.

    Attributes
    ----------
    prob : ndarray of float32, (h, w)
    dist : ndarray of float32, (n_rays, h, w)
    marker_logit : ndarray of float32 or None, (n_markers, h, w)
    marker_features : ndarray of float32 or None, (n_marker_context, h', w')
        On a grid half as fine, that of the padded image.
    ready : Ready or None
        To be waited for before the arrays are read, where they are still being copied.
    """

    prob: NDArray[np.float32]
    dist: NDArray[np.float32]
    marker_logit: NDArray[np.float32] | None
    marker_features: NDArray[np.float32] | None = None
    ready: Ready | None = None

    def wait(self) -> None:
        """Return when the arrays may be read."""
        if self.ready is not None:
            self.ready.wait()


def to_input(images: NDArray[np.uint8], stride: int, device: torch.device | str = "cpu") -> Tensor:
    """Make a network input: [0, 1], channels last, edges mirrored to multiples of the stride.

    Repeating the last pixel instead, which streaks, costs 0.002 of AUROC on CoNSeP's test images,
    where it is 15 px on two sides of 769.

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
    x = to_device(images, device if overlaps(device) else "cpu").permute(0, 3, 1, 2).float()
    # By a tensor: CUDA multiplies with the reciprocal of a number.
    x.div_(torch.full((), 255.0, device=x.device))
    bottom, right = -x.shape[-2] % stride, -x.shape[-1] % stride
    if bottom or right:
        # A mirror image shows one pixel less than there is.
        mirrored = bottom < x.shape[-2] and right < x.shape[-1]
        mode = "reflect" if mirrored else "replicate"
        x = F.pad(x, (0, right, 0, bottom), mode=mode)
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


Run = Callable[[Tensor], StarDistOutput]
"""A network, or what computes it: `StarDistNet` itself, or a `lymphinfer.runtime.OpenVinoNet`."""


def compiled(net: StarDistNet, autocast: torch.dtype | None) -> OpenVinoNet[StarDistOutput]:
    """Let OpenVINO compute a network on the CPU.

    Parameters
    ----------
    net : StarDistNet
        In evaluation mode, on the CPU.
    autocast : torch.dtype or None
        `torch.bfloat16`, or None for float32.

    Returns
    -------
    OpenVinoNet
    """

    def pack(maps: list[Tensor]) -> StarDistOutput:
        return StarDistOutput(maps[0], maps[1], *maps[2:], *[None] * (4 - len(maps)))

    side = net.config.stride * 4
    return OpenVinoNet(net, pack, autocast=autocast, example=(side, side))


def averaged_output(net: Run, x: Tensor, n_views: int, n_rays: int) -> StarDistOutput:
    """Mean prediction over mirrored and transposed views of an input (test-time averaging).

    Parameters
    ----------
    net : callable
        The network.
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
        return net(x)
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
    run: Run | None = None,
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
    run : callable, optional
        Computes the network in its place, see `compiled`; knows its own precision.
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
        output = averaged_output(run or net, x, n_views, cfg.n_rays)
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
