"""HoVer-Net as a `Detector`: resampling to its own pixel size, network, watershed, types."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from lymphinfer.compute import channels_last
from lymphinfer.nuclei.detector import Detection
from lymphinfer.nuclei.hovernet.decode import describe, instance_map
from lymphinfer.nuclei.hovernet.infer import DenseMaps, predict_maps
from lymphinfer.nuclei.hovernet.network import STRIDE_PX, HoVerNetConfig

NUCLEUS_PX = 64
"""How far a nucleus whose centre is in a tile may reach beyond it, px of the network's input."""


class TileMaps(NamedTuple):
    """Maps of a tile, and network pixels per tile pixel along x and y."""

    maps: DenseMaps
    scale: tuple[float, float]


def extra_name(kind: str) -> str:
    """Column of a type's share in the nucleus table: ``type_non_neoplastic_epithelial``."""
    return "type_" + re.sub(r"[^a-z0-9]+", "_", kind.lower()).strip("_")


class HoVerNetDetector:
    """HoVer-Net on one device.

    Parameters
    ----------
    net : nn.Module
        TIAToolbox's network, see `lymphinfer.nuclei.hovernet.network.build_network`.
    config : HoVerNetConfig
    mpp : float
        Pixel size it was trained at, µm/px.
    working_mpp : float
        Pixel size of the tiles, µm/px.
    device : torch.device or str
    autocast : torch.dtype or None
        Half type for the convolutions, None for full precision.
    """

    def __init__(
        self,
        net: nn.Module,
        config: HoVerNetConfig,
        *,
        mpp: float,
        working_mpp: float,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
    ):
        self.config, self.mpp = config, mpp
        self.device, self.autocast = torch.device(device), autocast
        self.net = channels_last(net.eval(), self.device)
        self.scale = working_mpp / mpp
        self.cell_px = 0

    @property
    def align_px(self) -> int:
        """Stride of the encoder; exact for tiles at the network's own pixel size."""
        return STRIDE_PX

    @property
    def halo_px(self) -> int:
        """Context of the network and the reach of a nucleus, a multiple of `align_px`."""
        wanted = (self.config.geometry.context_px + NUCLEUS_PX) / self.scale
        return math.ceil(wanted / self.align_px) * self.align_px

    def infer(self, tile: NDArray[np.uint8]) -> TileMaps:
        """See `Detector.infer`."""
        scale = (1.0, 1.0)
        if abs(self.scale - 1) > 1e-3:
            height, width = tile.shape[:2]
            size = [max(1, round(s * self.scale)) for s in (height, width)]
            pixels = torch.from_numpy(tile.copy()).permute(2, 0, 1)[None].float()
            resized = F.interpolate(pixels, size, mode="bilinear", antialias=True)
            tile = resized[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
            scale = size[1] / width, size[0] / height
        maps = predict_maps(
            self.net,
            self.config,
            tile,
            device=self.device,
            autocast=self.autocast,
            cell_px=self.cell_px,
        )
        return TileMaps(maps, scale)

    def decode(self, dense: TileMaps) -> Detection:
        """See `Detector.decode`; ``extras`` has the share of each type in a nucleus's pixels."""
        types = self.config.types
        labels = instance_map(dense.maps, self.mpp)
        found = describe(labels, dense.maps, len(types))
        return Detection(
            polygons=(found.outlines / np.array(dense.scale)).astype(np.float32),
            probability=found.probability,
            extras={extra_name(kind): found.kinds[:, i] for i, kind in enumerate(types)},
        )
