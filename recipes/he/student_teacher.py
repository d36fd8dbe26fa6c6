"""The shipped detector as the teacher of a compact one (`recipes.he.student`)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.nuclei.stardist.network import (
    MarkerContext,
    ResidualStarDistNet,
    StarDistConfig,
    build_network,
)


class Lesson(NamedTuple):
    """What the teacher says of a batch; h = H / 2, and half of that for `near`.

    Attributes
    ----------
    prob : Tensor, (B, h, w)
    dist : Tensor, (B, n_rays, h, w)
        Px.
    marker : Tensor, (B, 1, h, w)
        Probability of CD45 by he-v1-fast.
    near : Tensor, (B, 128, h / 2, w / 2)
        Features of he-v2.
    """

    prob: Tensor
    dist: Tensor
    marker: Tensor
    near: Tensor


class Teacher(nn.Module):
    """The detector of he-v2 with the marker head of he-v1-fast besides: one trunk, both bundles.

    Parameters
    ----------
    weights : Path
        Folder of the bundles.
    """

    def __init__(self, weights: Path):
        super().__init__()
        self.net = _resnet(weights / "he-v2")
        other = _resnet(weights / "he-v1-fast")
        assert other.marker is not None and other.marker_context is not None
        trunk = {k for k in other.state_dict() if not k.startswith("marker_context.")}
        if any(not torch.equal(self.net.state_dict()[k], other.state_dict()[k]) for k in trunk):
            raise SystemExit(f"{weights}: he-v1-fast and he-v2 have different detectors")
        self.context, self.last = other.marker_context, other.marker[1]
        head = load_file(weights / "he-v2" / "head.safetensors")
        self.reader: Tensor
        read = torch.cat([head["near.weight"], head["near_out.weight"]]).float()
        self.register_buffer("reader", read[:, :, None, None])

    @torch.no_grad()
    def forward(self, x: Tensor) -> Lesson:
        """Predict (B, 3, H, W) in [0, 1]."""
        told = self.logits(x)
        prob = told.prob.float().sigmoid()
        logit = F.interpolate(told.marker.float(), prob.shape[-2:], mode="bilinear")
        return Lesson(prob, told.dist.float(), logit.sigmoid(), told.near.float())

    @torch.no_grad()
    def logits(self, x: Tensor) -> Lesson:
        """Predict (B, 3, H, W) in [0, 1]; `prob` and `marker` are logits, the latter at half."""
        net = self.net
        assert net.marker is not None and net.marker_context is not None
        encoded = net.encode(x)
        decoded = net.decode(encoded)
        features = net.features(decoded[0])
        around = MarkerContext.inputs(encoded, decoded, features, net.marker[0](decoded[1]))
        marker = self.last(self.context(*around))
        return Lesson(
            net.prob(features)[:, 0], net.dist(features), marker, net.marker_context(*around)
        )


def _resnet(bundle: Path) -> ResidualStarDistNet:
    table = tomllib.loads((bundle / "bundle.toml").read_text("utf-8"))["detector"]
    net = build_network(StarDistConfig(**table["network"]))
    if not isinstance(net, ResidualStarDistNet):
        raise SystemExit(f"{bundle}: its detector is no residual StarDist")
    net.load_state_dict({k: v.float() for k, v in load_file(bundle / table["file"]).items()})
    return net.eval()
