"""Feature extractors behind the marker heads: timm's by name, HoVer-Net and Phikon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from lymphinfer.convolutions import mend_convolutions
from lymphinfer.errors import BundleError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone as built.

    Attributes
    ----------
    module : nn.Module
        (B, 3, S, S) normalised images to (B, width) features.
    width : int
        Number of features.
    """

    module: nn.Module
    width: int


class FreezableBackbone(nn.Module):
    """A backbone on which heads can be trained while it stays as it is."""

    frozen = False

    def freeze(self) -> None:
        """Keep the weights and statistics as they are, whatever is trained on top of them."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a frozen backbone stays in evaluation mode."""
        return super().train(mode and not self.frozen)


def build_backbone(name: str, *, pretrained: bool = False) -> BackboneSpec:
    """Build a backbone without its classification layer.

    Parameters
    ----------
    name : str
        A timm model, such as ``convnext_base`` or ``resnet18``; ``hovernet`` and its kin (U-Net
        features, need TIAToolbox; see `lymphinfer.markers.hovernet.backbone_config`); ``phikon``
        (position embeddings interpolated to the patch) or ``phikon-resize`` (patch enlarged to
        224 px); ``stardist-resnet`` (the network of our own detector, whose weights are given as
        a file).
    pretrained : bool
        Start from the published weights (needs network access on first use).

    Returns
    -------
    BackboneSpec

    Raises
    ------
    BundleError
        timm does not know the name, or a package or the weights cannot be had.
    """
    if name.startswith("hovernet"):
        from lymphinfer.markers.hovernet import build_hovernet

        return build_hovernet(name, pretrained=pretrained)
    if name in ("phikon", "phikon-resize"):
        from lymphinfer.markers.phikon import build_phikon

        return build_phikon(resize=name == "phikon-resize", pretrained=pretrained)
    if name == "stardist-resnet":
        from lymphinfer.markers.nucleus_encoder import NucleusEncoder

        if pretrained:
            raise BundleError(
                f"backbone {name}: no weights are published; give a detector's with "
                'backbone_weights, or set pretrained = "no"'
            )
        encoder = NucleusEncoder()
        return BackboneSpec(encoder, encoder.num_features)
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise BundleError(
            f"backbone {name!r} is unknown to timm {timm.__version__}"
            + (f"; near names: {near}" if near else "")
        )
    module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    return BackboneSpec(mend_convolutions(module), int(cast(int, module.num_features)))


class Normalise(nn.Module):
    """Subtract a mean and divide by a deviation, per RGB channel; part of the saved network."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to the same shape, normalised."""
        return (x - self.mean) / self.std
