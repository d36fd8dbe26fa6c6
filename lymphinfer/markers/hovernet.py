"""HoVer-Net's U-Net features as a backbone, through TIAToolbox (Graham et al. 2019)."""

from __future__ import annotations

import logging
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.errors import BundleError
from lymphinfer.markers.backbones import IMAGENET_MEAN, IMAGENET_STD, BackboneSpec

PRETRAINED = "hovernet_fast-monusac"
# Classes of MoNuSAC with background: the shape of the published weights.
MONUSAC_TYPES = 5
# Pixels that the "fast" decoder's unpadded convolutions take from the input's side.
LOST_PX = 92
STRIDE_PX = 8


def _tiatoolbox() -> Any:
    """Import TIAToolbox's HoVer-Net without the log handlers and filters that it installs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tiatoolbox.models.architecture import get_pretrained_model, hovernet
    except ImportError as error:
        raise BundleError(
            f"the backbone hovernet needs TIAToolbox: pip install 'lymphinfer[hovernet]' ({error})"
        ) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
    return hovernet.HoVerNet, get_pretrained_model


class HoVerNetFeatures(nn.Module):
    """Averages of the last feature maps of HoVer-Net's decoders: (B, 3, S, S) to (B, 192).

    Encoder and the three decoders (nuclei, distances, types) are those of the ``fast`` network, up
    to the map before each decoder's 1x1 output layer. Averages are taken over the centre that the
    decoders see, S - 92 pixels wide.

    Parameters
    ----------
    network : nn.Module
        TIAToolbox's ``HoVerNet`` in ``fast`` mode; its parts are taken over.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.stem = network.conv0
        self.levels = nn.ModuleList([network.d0, network.d1, network.d2, network.d3])
        self.bottom = network.conv_bot
        self.decoders = nn.ModuleList(
            nn.ModuleList(
                [branch[0], branch[1], nn.Sequential(branch[2], branch[3].bn, branch[3].relu)]
            )
            for branch in network.decoder.values()
        )

    @property
    def width(self) -> int:
        """Number of features: 64 a decoder."""
        return 64 * len(self.decoders)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) images as `Normalise` makes them to (B, width) features."""
        side = int(x.shape[-1])
        if side <= LOST_PX or side % STRIDE_PX:
            raise BundleError(
                f"backbone hovernet takes patches of at least {LOST_PX + 4} px whose side is a "
                f"multiple of {STRIDE_PX}, not {side}; choose such a patch_px"
            )
        # The network expects RGB in [0, 1].
        x = self.stem(x * self.std + self.mean)
        maps: list[Tensor] = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        maps[3] = self.bottom(maps[3])
        maps[0], maps[1] = _crop(maps[0], LOST_PX // 2), _crop(maps[1], 18)
        pooled = []
        for decoder in self.decoders:
            first, second, last = cast(nn.ModuleList, decoder)
            u = first(_double(maps[3]) + maps[2])
            u = second(_double(u) + maps[1])
            u = last(_double(u) + maps[0])
            pooled.append(u.float().mean(dim=(2, 3)))
        return torch.cat(pooled, dim=1)


def _crop(x: Tensor, edge: int) -> Tensor:
    return x[:, :, edge:-edge, edge:-edge]


def _double(x: Tensor) -> Tensor:
    # TIAToolbox's own doubling multiplies with a float32 matrix, which fails under autocast.
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def build_hovernet(*, pretrained: bool = False) -> BackboneSpec:
    """Build the backbone.

    Parameters
    ----------
    pretrained : bool
        Start from TIAToolbox's weights learned on MoNuSAC (downloaded on first use; their licence
        is CC BY-NC-SA 4.0).

    Returns
    -------
    BackboneSpec

    Raises
    ------
    BundleError
        TIAToolbox is not installed, or the weights cannot be had.
    """
    make, get_pretrained = _tiatoolbox()
    if pretrained:
        try:
            network, _ = get_pretrained(PRETRAINED)
        except Exception as error:
            raise BundleError(
                f"the weights {PRETRAINED} cannot be had ({type(error).__name__}); fetch them once "
                "with TIAToolbox where there is a network"
            ) from error
    else:
        network = make(num_types=MONUSAC_TYPES, mode="fast")
    module = HoVerNetFeatures(network)
    return BackboneSpec(module, module.width)
