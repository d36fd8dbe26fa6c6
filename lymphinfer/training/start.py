"""What a network's weights begin as: published, from a local file, or random; and said so."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lymphinfer.bundles.composing import lending
from lymphinfer.bundles.registry import list_bundles
from lymphinfer.bundles.schema import read_manifest
from lymphinfer.errors import BundleError
from lymphinfer.markers.backbone_parts import FreezableBackbone
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.markers.hovernet import PRETRAINED, HoVerNetFeatures, load_hovernet
from lymphinfer.markers.nucleus_encoder import NAME as NUCLEUS_ENCODER
from lymphinfer.markers.nucleus_encoder import NucleusEncoder, from_detector
from lymphinfer.markers.phikon import Phikon, load_phikon
from lymphinfer.training.config import ModelConfig

SHIPPED_DETECTOR = "he-v1"
"""Its detector is what the shipped patch classifier began from."""

log = logging.getLogger(__name__)


@cache
def untakeable(backbone: str, patch_px: int) -> str | None:
    """Why a backbone of timm cannot take patches of a side; None where it can.

    Two patches are sent through it, by their shapes alone where the model allows that.
    """
    found: Exception | None = None
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), torch.inference_mode():
                net = MarkerClassifier(ClassifierConfig(("any",), backbone, patch_px=patch_px))
                net.eval()(torch.zeros(2, 3, patch_px, patch_px))
            return None
        # Each model has exceptions of its own; some cannot be built by shapes alone.
        except Exception as error:
            found = error
    reason = str(found).strip().partition("\n")[0] or type(found).__name__
    return (
        f"backbone {backbone} cannot take patches of {patch_px} px ({reason.rstrip('.')}): choose "
        "another patch_px or backbone"
    )


def build_classifier(
    model: ModelConfig, markers: tuple[str, ...], patch_px: int
) -> tuple[MarkerClassifier, str]:
    """Build the network with the weights that the configuration asks for.

    Parameters
    ----------
    model : ModelConfig
    markers : tuple of str
    patch_px : int

    Returns
    -------
    net : MarkerClassifier
    start : str
        What its backbones begin as, for the card.

    Raises
    ------
    BundleError
        An unknown backbone; weights that do not fit; with ``pretrained = "yes"``, weights that
        cannot be had.
    """
    config = ClassifierConfig(
        markers=markers,
        backbone=model.backbone,
        independent=model.independent,
        hidden=model.hidden,
        patch_px=patch_px,
    )
    net, start = _start(model, config)
    if model.freeze:
        for backbone in net.backbones:
            if not isinstance(backbone, FreezableBackbone):
                raise BundleError(
                    f"freeze: backbone {model.backbone} cannot be kept as it is, only hovernet and "
                    "stardist-resnet"
                )
            backbone.freeze()
        start += ", kept as they are"
    return net, start


def _start(model: ModelConfig, config: ClassifierConfig) -> tuple[MarkerClassifier, str]:
    weights = model.backbone_weights
    published = {"hovernet": PRETRAINED, NUCLEUS_ENCODER: SHIPPED_DETECTOR}.get(model.backbone)
    if not weights and published and model.pretrained != "no":
        weights = _detector_of(published)
    if weights:
        net = MarkerClassifier(config)
        for backbone in net.backbones:
            load_backbone(backbone, Path(weights))
        return net, f"backbone weights of {weights}"
    if model.pretrained == "no":
        return MarkerClassifier(config), "random weights"
    try:
        return MarkerClassifier(config, pretrained=True), "published pretrained backbone weights"
    # timm and the hub raise whatever their transport does; without weights there is one way on.
    except Exception as error:
        net = MarkerClassifier(config)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if model.pretrained == "yes":
            raise BundleError(
                f"the pretrained weights of {model.backbone} cannot be had ({reason}). Download "
                "them where there is a network and set [model] backbone_weights to the "
                'safetensors file, or set pretrained = "no" to start from random weights.'
            ) from error
        log.warning(
            "The pretrained weights of %s cannot be had (%s): training STARTS FROM RANDOM WEIGHTS, "
            "which needs far more data and time. Set [model] backbone_weights to a local file to "
            "avoid this.",
            model.backbone,
            reason,
        )
        return net, "random weights (pretrained ones could not be had)"


def _detector_of(bundle: str) -> str:
    """Weight file of the detector of a bundle that is here; empty where it is not."""
    folder = list_bundles().get(bundle)
    if folder is None:
        return ""
    source = lending(read_manifest(folder))
    return str(source.folder / str(source.detector["file"]))


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Fill one backbone from a local safetensors file.

    Parameters
    ----------
    backbone : nn.Module
    path : Path
        timm's ``model.safetensors`` (its classification layer is ignored), Phikon's from Hugging
        Face, a HoVer-Net's (`load_hovernet`), a residual StarDist detector's for
        ``stardist-resnet``, or a saved state of this backbone.

    Raises
    ------
    BundleError
        Not readable, or not the weights of this backbone.
    """
    if isinstance(backbone, Phikon):
        load_phikon(backbone, path)
        return
    if isinstance(backbone, HoVerNetFeatures):
        load_hovernet(backbone, path)
        return
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: not a readable safetensors file ({error})") from error
    if isinstance(backbone, NucleusEncoder) and "stem.0.conv.weight" in state:
        state = from_detector(state)
    own = backbone.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    wrong = [k for k in own if k in state and state[k].shape != own[k].shape]
    if missing or wrong:
        raise BundleError(
            f"{path}: not the weights of this backbone ({len(missing)} of {len(own)} tensors "
            f"missing, {len(wrong)} of another shape, first {(missing or wrong)[0]})"
        )
    backbone.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
