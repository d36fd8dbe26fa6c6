"""HoVer-Net's U-Net features as a backbone, through TIAToolbox (Graham et al. 2019)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lymphinfer.errors import BundleError
from lymphinfer.markers.backbone_parts import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneSpec,
    FreezableBackbone,
)
from lymphinfer.nuclei.hovernet.network import (
    STRIDE_PX,
    HoVerNetConfig,
    build_network,
    run_network,
)

PRETRAINED = "hovernet_fast-monusac"
_NAME = re.compile(r"hovernet(?P<original>-original)?(?:-w(?P<divisor>[248]))?")
_OUTPUT = ".u0.conv."


def backbone_config(name: str) -> HoVerNetConfig | None:
    """Shape of a backbone by name, None for a name that is no HoVer-Net's.

    ``hovernet`` is the "fast" network, ``hovernet-original`` that of the first paper; ``-w2``,
    ``-w4``, ``-w8`` behind it divides its channels, as ``train-detector --width`` does.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    mode = "original" if match["original"] else "fast"
    return HoVerNetConfig(mode, ("any",), int(match["divisor"] or 1))


def side_problem(name: str, side_px: int) -> str | None:
    """What is wrong with a patch of this side for a HoVer-Net backbone; None if nothing is."""
    config = backbone_config(name)
    if config is None:
        return None
    lost, odd = config.geometry.lost_px, config.geometry.odd_px
    if side_px > lost and side_px % STRIDE_PX == odd:
        return None
    least = lost + ((odd - lost) % STRIDE_PX or STRIDE_PX)
    sides = ", ".join(str(least + i * STRIDE_PX) for i in range(3))
    return f"backbone {name} needs a patch_px of {sides}, …, not {side_px}"


class HoVerNetFeatures(FreezableBackbone):
    """Averages of the last feature maps of HoVer-Net's decoders: (B, 3, S, S) to (B, width).

    Encoder and the three decoders (types, nuclei, distances) up to the map before each decoder's
    1x1 output layer. Averages are taken over the centre that the decoders see, `lost_px` narrower
    than the patch: 20 px of 112.

    Parameters
    ----------
    config : HoVerNetConfig
        With a type branch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: HoVerNetConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.network = build_network(config)
        for branch in self.network.decoder.values():  # type: ignore[operator]
            del branch[3].conv

    @property
    def width(self) -> int:
        """Number of features: 64 a decoder in the full network."""
        return self.config.n_features

    @property
    def lost_px(self) -> int:
        """Of `Geometry`."""
        return self.config.geometry.lost_px

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) images as `Normalise` makes them to (B, width) features."""
        geometry = self.config.geometry
        side = int(x.shape[-1])
        if side <= geometry.lost_px or side % STRIDE_PX != geometry.odd_px:
            raise BundleError(
                f"backbone hovernet takes patches wider than {geometry.lost_px} px whose side is a "
                f"multiple of {STRIDE_PX} plus {geometry.odd_px}, not {side}: choose such a side"
            )
        # The network expects RGB in [0, 1].
        maps = run_network(self.network, x * self.std + self.mean, geometry).features
        return torch.cat([m.float().mean(dim=(2, 3)) for m in maps], dim=1)


def build_hovernet(name: str = "hovernet", *, pretrained: bool = False) -> BackboneSpec:
    """Build the backbone.

    Parameters
    ----------
    name : str
        As `backbone_config` takes it.
    pretrained : bool
        Not possible here: weights are a file, see `load_hovernet`.

    Returns
    -------
    BackboneSpec

    Raises
    ------
    BundleError
        TIAToolbox is not installed, or the name or weights cannot be had.
    """
    config = backbone_config(name)
    if config is None:
        raise BundleError(
            f"backbone {name!r}: hovernet, hovernet-original, each with -w2, -w4, -w8"
        )
    if pretrained:
        raise BundleError(
            f"the weights {PRETRAINED} are not here: fetch them with `lymphinfer weights pull "
            f"{PRETRAINED}`, or name a hovernet.safetensors in backbone_weights"
        )
    module = HoVerNetFeatures(config)
    return BackboneSpec(module, module.width)


def features_state(state: Mapping[str, Tensor], like: nn.Module) -> dict[str, Tensor]:
    """Backbone weights out of a whole HoVer-Net's.

    Parameters
    ----------
    state : mapping of str to Tensor
        Under TIAToolbox's names, or a saved state of `HoVerNetFeatures`.
    like : nn.Module
        The backbone.

    Returns
    -------
    dict of str to Tensor
        Without the output layers. Weights without a type branch (Kumar's) lend that of their
        nuclei to it as a start.
    """
    own = {k.removeprefix("network."): v for k, v in state.items() if _OUTPUT not in k}
    if not any(k.startswith("decoder.tp.") for k in own):
        own |= {
            k.replace("decoder.np.", "decoder.tp.", 1): v
            for k, v in own.items()
            if k.startswith("decoder.np.")
        }
    wanted = like.state_dict()
    return {f"network.{k}": v.float() for k, v in own.items() if f"network.{k}" in wanted}


def load_hovernet(module: HoVerNetFeatures, path: Path) -> None:
    """Fill a backbone from a safetensors file.

    Parameters
    ----------
    module : HoVerNetFeatures
    path : Path
        ``hovernet.safetensors`` of a bundle that ``weights pull``, ``weights import hovernet`` or
        ``train-detector`` made, of the same mode and width.

    Raises
    ------
    BundleError
        Not a safetensors file, or not the weights of this network.
    """
    try:
        state = features_state(load_file(path), module)
        module.load_state_dict(state)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise BundleError(
            f"{path}: not the weights of this HoVer-Net backbone (mode {module.config.mode}, "
            f"channels divided by {module.config.divisor}; {str(error).splitlines()[0]})"
        ) from error
