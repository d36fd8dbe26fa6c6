"""Feature extractors behind the marker heads: timm's by name, HoVer-Net and Phikon."""

from __future__ import annotations

from typing import cast

from lymphinfer.convolutions import mend_convolutions
from lymphinfer.errors import BundleError
from lymphinfer.markers.backbone_parts import BackboneSpec


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
    # Where a model ends in a layer of its own, as MobileNet does, it is wider than its features.
    width = int(cast(int, getattr(module, "head_hidden_size", None) or module.num_features))
    return BackboneSpec(mend_convolutions(module), width)
