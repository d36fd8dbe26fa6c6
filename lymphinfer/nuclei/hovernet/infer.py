"""Dense maps of a whole image, in pieces whose borders leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.nuclei.hovernet.network import (
    STRIDE_PX,
    HoVerNetConfig,
    HoVerNetOutput,
    run_network,
)

PIECE_PX = 512
"""Output side computed at once by the network of full width; some 2 GB in float32."""
F32 = NDArray[np.float32]


class Window(NamedTuple):
    """A piece of an image, px of the image along one axis; may reach beyond it."""

    input_start: int
    input_stop: int
    start: int
    stop: int


@dataclass(frozen=True)
class DenseMaps:
    """What the network says of every pixel.

    Attributes
    ----------
    nucleus : ndarray of float32, (H, W)
        Probability of a nucleus; zeros from a network without output layers.
    distance : ndarray of float32, (H, W, 2)
        Horizontal and vertical.
    kind : ndarray of uint8 or None, (H, W)
        Most probable type, 0 background.
    features : ndarray of float32 or None, (C, ceil(H / cell), ceil(W / cell))
        Means of the decoders' last maps over cells of `cell_px`.
    cell_px : int
    """

    nucleus: F32
    distance: F32
    kind: NDArray[np.uint8] | None
    features: F32 | None
    cell_px: int


def windows(size: int, piece_px: int, config: HoVerNetConfig) -> Iterator[Window]:
    """Cut one axis of an image.

    Pieces begin on multiples of the network's stride and see all that their output depends on,
    so that any cut gives the same maps. Beyond the image only as much is seen as the network cuts
    off: as in the published patches, its own zero padding does the rest.

    Parameters
    ----------
    size : int
        Of the image.
    piece_px : int
        Most output pixels a piece; a multiple of `STRIDE_PX`.
    config : HoVerNetConfig

    Yields
    ------
    Window
    """
    geometry = config.geometry
    margin = -(-geometry.lost_px // 2 // STRIDE_PX) * STRIDE_PX
    for start in range(0, size, piece_px):
        stop = min(start + piece_px, size)
        first = max(start - geometry.context_px, -margin)
        last = min(stop + geometry.context_px, size + margin)
        length = -(-(last - first - geometry.odd_px) // STRIDE_PX) * STRIDE_PX + geometry.odd_px
        yield Window(first, first + length, start, stop)


def predict_maps(
    net: nn.Module,
    config: HoVerNetConfig,
    image: NDArray[np.uint8],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    cell_px: int = 0,
    piece_px: int | None = None,
) -> DenseMaps:
    """Run the network over an image.

    Parameters
    ----------
    net : nn.Module
        In evaluation mode, on `device`.
    config : HoVerNetConfig
    image : ndarray of uint8, (H, W, 3)
        RGB at the network's pixel size; mirrored where the network looks beyond it.
    device : torch.device or str
    autocast : torch.dtype or None
        Half type for the convolutions, None for full precision.
    cell_px : int
        Also keep features, averaged over cells of this side, a divisor of `STRIDE_PX`; 0 for none.
    piece_px : int, optional
        Output pixels at once along each axis; by default `PIECE_PX` times the divisor.

    Returns
    -------
    DenseMaps
    """
    height, width = image.shape[:2]
    piece = piece_px or PIECE_PX * config.divisor
    rows, columns = (list(windows(n, piece, config)) for n in (height, width))
    before = -rows[0].input_start, -columns[0].input_start
    after = tuple(
        max(0, max(w.input_stop for w in axis) - n)
        for axis, n in ((rows, height), (columns, width))
    )
    padded = np.pad(image, ((before[0], after[0]), (before[1], after[1]), (0, 0)), mode="reflect")
    maps = DenseMaps(
        nucleus=np.zeros((height, width), np.float32),
        distance=np.zeros((height, width, 2), np.float32),
        kind=np.zeros((height, width), np.uint8) if config.types else None,
        features=(
            np.empty((config.n_features, -(-height // cell_px), -(-width // cell_px)), np.float32)
            if cell_px
            else None
        ),
        cell_px=cell_px,
    )
    device = torch.device(device)
    for r in rows:
        for c in columns:
            pixels = padded[
                r.input_start + before[0] : r.input_stop + before[0],
                c.input_start + before[1] : c.input_stop + before[1],
            ]
            x = torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1)[None].float().div_(255)
            x = x.contiguous(memory_format=torch.channels_last)
            half = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
            with torch.inference_mode(), half:
                output = run_network(net, x, config.geometry)
                _store(maps, output, r, c, config.geometry.lost_px // 2)
    return maps


def _store(maps: DenseMaps, output: HoVerNetOutput, r: Window, c: Window, margin: int) -> None:
    """Write a piece's part of the maps; `margin` is what the network cut off each side."""
    top, left = r.start - r.input_start - margin, c.start - c.input_start - margin
    inner = slice(top, top + r.stop - r.start), slice(left, left + c.stop - c.start)
    place = slice(r.start, r.stop), slice(c.start, c.stop)

    def cut(values: Tensor) -> Tensor:
        return values[0, :, *inner].float()

    if output.nucleus is not None and output.distance is not None:
        maps.nucleus[place] = cut(output.nucleus).softmax(dim=0)[1].cpu().numpy()
        maps.distance[place] = cut(output.distance).permute(1, 2, 0).cpu().numpy()
    if maps.kind is not None and output.kind is not None:
        maps.kind[place] = cut(output.kind).argmax(dim=0).byte().cpu().numpy()
    if maps.features is not None:
        cell = maps.cell_px
        stop_row, stop_column = -(-r.stop // cell), -(-c.stop // cell)
        maps.features[:, r.start // cell : stop_row, c.start // cell : stop_column] = (
            torch.cat(
                [F.avg_pool2d(cut(f)[None], cell, ceil_mode=True)[0] for f in output.features]
            )
            .cpu()
            .numpy()
        )
