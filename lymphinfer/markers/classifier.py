"""The patch classifier: one backbone with a head a marker, or a network a marker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.markers.backbone_parts import Normalise
from lymphinfer.markers.backbones import build_backbone
from lymphinfer.runtime import OpenVinoNet
from lymphinfer.validation import Count, table


@table
@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of a patch classifier.

    Attributes
    ----------
    markers : tuple of str
        Markers with a learned head, in order.
    backbone : str
        timm name.
    independent : bool
        A backbone a marker (True), or one shared by all heads (multi-task, False).
    hidden : int
        Width of each head's hidden layer (512 in the paper).
    patch_px : int
        Side of a patch, px at the working pixel size.
    enlarge : int
        How many times the backbone's picture is as wide as the patch (bilinear): a patch of 28 px
        at 1.3 µm/px has the 112 px of one at 0.325.
    """

    markers: tuple[str, ...]
    backbone: str = "convnext_base"
    independent: bool = False
    hidden: Count = 512
    patch_px: Count = 112
    enlarge: Count = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a bundle's TOML."""
        values = {**asdict(self), "markers": list(self.markers)}
        # Bundles of patches as they are can be read by versions that know of no other.
        return {k: v for k, v in values.items() if k != "enlarge" or v != 1}


class MarkerHead(nn.Sequential):
    """Linear, GELU, dropout, linear: (B, width) features to (B, 1) logit."""

    def __init__(self, width: int, hidden: int):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, 1))


class MarkerClassifier(nn.Module):
    """Patches to one logit a marker.

    Parameters
    ----------
    config : ClassifierConfig
    pretrained : bool
        Start the backbone from timm's published weights.
    """

    def __init__(self, config: ClassifierConfig, *, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.normalise = Normalise()
        count = len(config.markers) if config.independent else 1
        specs = [build_backbone(config.backbone, pretrained=pretrained) for _ in range(count)]
        self.backbones = nn.ModuleList(s.module for s in specs)
        self.heads = nn.ModuleList(
            MarkerHead(specs[0].width, config.hidden) for _ in config.markers
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Classify.

        Parameters
        ----------
        patches : Tensor of float, (B, 3, patch_px, patch_px)
            RGB in [0, 1].

        Returns
        -------
        Tensor, (B, n_markers)
            Logits in the order of ``config.markers``.
        """
        x = self.normalise(patches)
        if self.config.enlarge > 1:
            x = F.interpolate(x, scale_factor=float(self.config.enlarge), mode="bilinear")
        features = [backbone(x) for backbone in self.backbones]
        return torch.cat(
            [head(features[i % len(features)]) for i, head in enumerate(self.heads)], dim=1
        )


def masked_bce(logits: Tensor, labels: Tensor, positive_weight: Tensor | None = None) -> Tensor:
    """Mean over markers of each marker's binary cross-entropy over its known labels.

    Parameters
    ----------
    logits : Tensor, (B, M)
    labels : Tensor, (B, M)
        1, 0, or negative where unknown: no loss.
    positive_weight : Tensor, (M,), optional
        Weight of a positive label (weighted BCE: negatives over positives in the training set).

    Returns
    -------
    Tensor, scalar
        A marker without a known label in the batch adds nothing.
    """
    known = (labels >= 0).float()
    bce = F.binary_cross_entropy_with_logits(
        logits.float(), labels.clamp(min=0).float(), reduction="none", pos_weight=positive_weight
    )
    count = known.sum(dim=0)
    per_marker = (bce * known).sum(dim=0) / count.clamp(min=1)
    present = (count > 0).float()
    return (per_marker * present).sum() / present.sum().clamp(min=1)


BATCH = 64


def compiled(net: MarkerClassifier, autocast: torch.dtype | None) -> OpenVinoNet[Tensor]:
    """Let OpenVINO compute a classifier on the CPU.

    Parameters
    ----------
    net : MarkerClassifier
        In evaluation mode, on the CPU.
    autocast : torch.dtype or None
        `torch.bfloat16`, or None for float32.

    Returns
    -------
    OpenVinoNet
        As `classify_patches` takes it.
    """
    side = net.config.patch_px
    return OpenVinoNet(
        net, lambda logits: logits[0], autocast=autocast, example=(side, side), batch=BATCH
    )


@torch.inference_mode()
def classify_patches(
    net: MarkerClassifier,
    patches: NDArray[np.uint8],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    batch_size: int = BATCH,
    run: Callable[[Tensor], Tensor] | None = None,
) -> NDArray[np.float32]:
    """Logits of patches in memory.

    Parameters
    ----------
    net : MarkerClassifier
        In evaluation mode, on `device`.
    patches : ndarray of uint8, (N, S, S, 3)
    device : torch.device or str
    autocast : torch.dtype or None
    batch_size : int
    run : callable, optional
        Computes the network in its place, see `compiled`; knows its own precision.

    Returns
    -------
    ndarray of float32, (N, n_markers)
    """
    result = np.empty((len(patches), len(net.config.markers)), np.float32)
    device = torch.device(device)
    for start in range(0, len(patches), batch_size):
        chunk = torch.from_numpy(patches[start : start + batch_size]).to(device)
        x = chunk.permute(0, 3, 1, 2).float().div_(255)
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            logits = (run or net)(x.contiguous(memory_format=torch.channels_last))
        result[start : start + batch_size] = logits.float().cpu().numpy()
    return result
