"""The head over two scales as torch learns it: `HeadWeights` in motion."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.markers.configs import TwoScaleConfig
from lymphinfer.markers.two_scale import HeadWeights


class TwoScaleHead(nn.Module):
    """Logits of a nucleus from its two feature vectors.

    Parameters
    ----------
    config : TwoScaleConfig
    """

    def __init__(self, config: TwoScaleConfig):
        super().__init__()
        self.config = config
        self.near = nn.Linear(config.near, config.hidden, bias=False)
        self.far = nn.Linear(config.far, config.hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.hidden))
        self.without_near = nn.Parameter(torch.zeros(config.near))
        self.without_far = nn.Parameter(torch.zeros(config.far))
        self.out = nn.Linear(config.hidden, len(config.markers))
        # What one scale says by itself, which a few thousand nuclei are enough to learn.
        self.near_out = nn.Linear(config.near, len(config.markers), bias=False)
        self.far_out = nn.Linear(config.far, len(config.markers), bias=False)

    def forward(self, near: Tensor | None, far: Tensor | None) -> Tensor:
        """Logits, (N, len(markers)).

        Parameters
        ----------
        near : Tensor of float, (N, config.near), or None
        far : Tensor of float, (N, config.far), or None
            A row of NaN is a nucleus that this scale has not seen, None that no nucleus was seen.

        Raises
        ------
        ValueError
            Neither is given.
        """
        rows = next((len(x) for x in (near, far) if x is not None), None)
        if rows is None:
            raise ValueError("a nucleus without either scale has nothing to be told by")
        near = _filled(near, self.without_near, rows)
        far = _filled(far, self.without_far, rows)
        hidden = F.relu(self.near(near) + self.far(far) + self.bias)
        logits: Tensor = self.out(hidden) + self.near_out(near) + self.far_out(far)
        return logits


def head_module(head: HeadWeights) -> TwoScaleHead:
    """A head that has learned, in torch."""
    module = TwoScaleHead(head.config)
    module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in head.weights.items()})
    return module.eval()


def head_weights(module: TwoScaleHead) -> HeadWeights:
    """What a head in torch has learned."""
    state = {k: v.detach().float().cpu().numpy() for k, v in module.state_dict().items()}
    return HeadWeights(module.config, state)


def _filled(values: Tensor | None, missing: Tensor, rows: int) -> Tensor:
    if values is None:
        return missing.expand(rows, -1)
    return torch.where(values.isnan(), missing, values)
