"""Shapes of the networks that tell markers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lymphinfer.validation import Count, table

FAR_MPP = 1.3
HALO_PX = 128
"""Px around a nucleus that are read with it, 166 µm. The network's receptive field is wider by a
few px, but what lies beyond moves no probability by 1e-3 (`tests/markers/test_far_scale.py`)."""


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


@table
@dataclass(frozen=True)
class FarConfig:
    """Shape of a `FarNet`.

    Attributes
    ----------
    widths : tuple of int
        Filters of the encoder's levels, at strides 2, 4, 8, and so on.
    blocks : tuple of int
        Residual blocks of each level.
    features : int
        Channels that `FarNet.forward` returns.
    outputs : tuple of str
        What `FarNet.tell` says of a nucleus, by name: channels of the stain, or a marker given its
        parent.
    hidden : int
        Width of the layer between features and outputs.
    mpp : float
        Pixel size of the input, µm/px.
    batch_norm : bool
        Batch normalisation behind each convolution. Folded away for inference.
    """

    widths: tuple[Count, ...] = (48, 80, 128, 192)
    blocks: tuple[Count, ...] = (1, 2, 2, 2)
    features: Count = 64
    outputs: tuple[str, ...] = ()
    hidden: Count = 128
    mpp: float = FAR_MPP
    batch_norm: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks) or len(self.widths) < 2:
            raise ValueError(f"{self}: one number of blocks a level, and two levels or more")

    @property
    def stride(self) -> int:
        """Input sides must be multiples of this many pixels."""
        return int(2 ** len(self.widths))

    @property
    def out_stride(self) -> int:
        """Input px per px of the features."""
        return 2

    @property
    def halo_px(self) -> int:
        """Input px around a nucleus that are read with it; a multiple of the stride."""
        return -(-HALO_PX // self.stride) * self.stride

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a bundle's TOML."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@table
@dataclass(frozen=True)
class TwoScaleConfig:
    """Shape of a `TwoScaleHead`.

    Attributes
    ----------
    markers : tuple of str
        Names of the logits, in panel order.
    near, far : int
        Numbers a nucleus has at each scale: filters of the marker head's last layer, outputs of
        the far network.
    hidden : int
        Width of the layer that reads both.
    """

    markers: tuple[str, ...]
    near: Count = 128
    far: Count = 19
    hidden: Count = 64

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a bundle's TOML."""
        return asdict(self) | {"markers": list(self.markers)}
