"""What StarDist's networks in PyTorch are built of, and what each of them predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.nuclei.stardist.config import StarDistConfig

TYPICAL_RADIUS_PX = 6.5
"""Mean distance from a pixel of a nucleus to its boundary, working px at 0.325 µm/px."""


class StarDistOutput(NamedTuple):
    """Dense prediction on the output grid (h = H / grid, w = W / grid).

    Attributes
    ----------
    prob_logit : Tensor, (B, 1, h, w)
        Logit of the object probability.
    dist : Tensor, (B, n_rays, h, w)
        Distances to the boundary, input px.
    marker_logit : Tensor or None, (B, n_markers, h, w)
        Logits of the dense marker head.
    marker_features : Tensor or None, (B, n_marker_context, h / 2, w / 2)
        What the marker head's last layer reads.
    """

    prob_logit: Tensor
    dist: Tensor
    marker_logit: Tensor | None
    marker_features: Tensor | None = None


class ConvBlock(nn.Module):
    """Convolution, optional batch normalisation, optional ReLU."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        batch_norm: bool,
        kernel: int = 3,
        stride: int = 1,
        activation: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=bias)
        self.norm: nn.Module = nn.BatchNorm2d(c_out) if batch_norm else nn.Identity()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""
        x = self.norm(self.conv(x))
        return F.relu(x, inplace=True) if self.activation else x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, the basic block)."""

    def __init__(self, c_in: int, c_out: int, *, batch_norm: bool, stride: int = 1):
        super().__init__()
        self.first = ConvBlock(c_in, c_out, batch_norm=batch_norm, stride=stride)
        self.second = ConvBlock(c_out, c_out, batch_norm=batch_norm, activation=False)
        self.shortcut: nn.Module = (
            ConvBlock(c_in, c_out, batch_norm=batch_norm, kernel=1, stride=stride, activation=False)
            if stride > 1 or c_in != c_out
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""
        return F.relu(self.second(self.first(x)) + self.shortcut(x), inplace=True)


class StarDistNet(nn.Module, ABC):
    """A network with a probability, a distance and an optional marker head.

    Parameters
    ----------
    config : StarDistConfig
        Shape of the network.
    """

    def __init__(self, config: StarDistConfig):
        super().__init__()
        self.config = config

    def forward(self, x: Tensor) -> StarDistOutput:
        """Predict densely.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W)
            RGB in [0, 1]; H and W multiples of ``config.stride``.

        Returns
        -------
        StarDistOutput

        Raises
        ------
        ValueError
            H or W is no multiple of the stride.
        """
        cfg = self.config
        if x.shape[-2] % cfg.stride or x.shape[-1] % cfg.stride:
            raise ValueError(
                f"input {tuple(x.shape[-2:])} px: both sides must be multiples of {cfg.stride}"
            )
        return self.predict(x)

    @abstractmethod
    def predict(self, x: Tensor) -> StarDistOutput:
        """`forward` on an input of a proper size."""

    @abstractmethod
    def last_layers(self) -> list[nn.Conv2d]:
        """The layers whose outputs are the predictions: of probability, distances, markers."""
