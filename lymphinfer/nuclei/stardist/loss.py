"""The loss of Schmidt et al. 2018, and the per-nucleus marker loss of the dense head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lymphinfer.nuclei.stardist.network import StarDistOutput


class StarDistLoss(NamedTuple):
    """Scalar losses; `total` is what is minimised."""

    total: Tensor
    prob: Tensor
    dist: Tensor
    marker: Tensor


def stardist_loss(
    output: StarDistOutput,
    prob: Tensor,
    dist: Tensor,
    marker: Tensor,
    marker_weight: Tensor,
    *,
    dist_share: float = 0.2,
    overlap_share: float = 0.0,
    marker_share: float = 0.5,
    marker_doubt: tuple[float, float] = (0.0, 0.0),
    background_reg: float = 1e-4,
) -> StarDistLoss:
    """Binary cross-entropy + probability-weighted absolute error (+ marker cross-entropy).

    Parameters
    ----------
    output : StarDistOutput
        Prediction.
    prob : Tensor, (B, h, w)
        Target object probability; negative where unknown.
    dist : Tensor, (B, n_rays, h, w)
        Target distances, px. Weighted by `prob` (Schmidt et al. 2018, section 2), normalised by
        the mean weight; outside nuclei the prediction is pulled to zero with `background_reg`.
    overlap_share : float
        Share of the polar IoU loss, log(sum max(d, d') / sum min(d, d')) over the rays (Xie et al.
        2020, PolarMask, section 3.4), weighted by `prob` too: a pixel counts more on a small
        nucleus than on a large one, as it does for the IoU.
    marker : Tensor, (B, n_markers, h, w)
        Target in {0, 1}, negative where unknown.
    marker_doubt : tuple of float
        Shares of the negative and of the positive labels that are taken to be wrong; the targets
        become the first and 1 - the second (Szegedy et al. 2016, section 7, by class).
    marker_weight : Tensor, (B, h, w)
        Weight of a pixel for the marker loss; 1 / area makes each nucleus count once.

    Returns
    -------
    StarDistLoss
    """
    logit = output.prob_logit[:, 0].float()
    known = prob >= 0
    prob_loss = F.binary_cross_entropy_with_logits(logit[known], prob[known])
    weight = prob.clamp(min=0)
    error = (dist - output.dist.float()).abs().mean(dim=1)
    background = output.dist.float().abs().mean(dim=1)
    dist_loss = (weight * error).mean() / (weight.mean() + 1e-7) + background_reg * (
        (1 - weight) * background * known
    ).mean()
    if overlap_share:
        predicted, target = output.dist.float().clamp(min=0.1), dist.clamp(min=0.1)
        union = torch.maximum(predicted, target).sum(dim=1)
        overlap = (union / torch.minimum(predicted, target).sum(dim=1)).log()
        overlap_loss = (weight * overlap).mean() / (weight.mean() + 1e-7)
        dist_loss = dist_loss + overlap_share / dist_share * overlap_loss
    marker_loss = logit.new_zeros(())
    if output.marker_logit is not None:
        known_marker = (marker >= 0).float() * marker_weight[:, None]
        below, above = marker_doubt[0], 1 - marker_doubt[1]
        bce = F.binary_cross_entropy_with_logits(
            output.marker_logit.float(),
            below + (above - below) * marker.clamp(min=0),
            reduction="none",
        )
        marker_loss = (bce * known_marker).sum() / known_marker.sum().clamp(min=1e-6)
    total = prob_loss + dist_share * dist_loss + marker_share * marker_loss
    return StarDistLoss(
        total, prob_loss.detach(), torch.as_tensor(dist_loss).detach(), marker_loss.detach()
    )
