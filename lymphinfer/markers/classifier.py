"""The patch classifier: one backbone with a head a marker, or a network a marker."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.compute import channels_last
from lymphinfer.markers.backbone_parts import Normalise
from lymphinfer.markers.backbones import build_backbone
from lymphinfer.markers.configs import ClassifierConfig as ClassifierConfig
from lymphinfer.markers.patch_graph import BATCH, GraphPatches
from lymphinfer.tracing import traced


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


class TorchPatches:
    """A classifier that torch computes. Implements `lymphinfer.markers.model.PatchReader`.

    Parameters
    ----------
    net : MarkerClassifier
    device : torch.device or str
    autocast : torch.dtype or None
        Half type, None for full precision.
    """

    def __init__(
        self,
        net: MarkerClassifier,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
    ):
        self.net, self.config = channels_last(net.eval(), device), net.config
        self.device, self.autocast = torch.device(device), autocast

    def logits(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `PatchReader.logits`."""
        return classify_patches(self.net, patches, device=self.device, autocast=self.autocast)


def compiled(net: MarkerClassifier, precision: str) -> GraphPatches:
    """Let OpenVINO compute any classifier on the CPU, as torch traces it.

    Parameters
    ----------
    net : MarkerClassifier
        In evaluation mode, on the CPU.
    precision : str
        ``bfloat16`` or ``fp32``.

    Returns
    -------
    GraphPatches
    """
    side = net.config.patch_px
    return GraphPatches(net.config, traced(net, (side, side)), precision, net)


@torch.inference_mode()
def classify_patches(
    net: MarkerClassifier,
    patches: NDArray[np.uint8],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    batch_size: int = BATCH,
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
            logits = net(x.contiguous(memory_format=torch.channels_last))
        result[start : start + batch_size] = logits.float().cpu().numpy()
    return result
