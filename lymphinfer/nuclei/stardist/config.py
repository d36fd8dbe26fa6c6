"""Shape of StarDist's networks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lymphinfer.validation import Count, table


def _stride(grid: int) -> int:
    if grid not in (1, 2, 4, 8):
        raise ValueError("the output's stride is 1, 2, 4 or 8 px")
    return grid


@table
@dataclass(frozen=True)
class StarDistConfig:
    """Shape of the network; the field names are those of stardist's ``Config2D``.

    Attributes
    ----------
    n_rays : int
        Rays of a star-convex polygon.
    grid : int
        Stride of the output, a power of two: one prediction every `grid` input pixels.
    n_filter_base : int
        Filters of the first U-Net level, doubled at every further one.
    n_depth : int
        Poolings inside the U-Net.
    n_conv_after_unet : int
        Filters of the 3x3 layer before the heads.
    batch_norm : bool
        Batch normalisation between convolution and activation. Folded away for inference.
    n_markers : int
        Channels of the dense marker head (stardist's ``prob_class`` branch, with a sigmoid a
        marker in place of its softmax over classes); 0 builds none.
    encoder : {"unet", "resnet", "compact"}
        stardist's own plain convolutions, `ResidualStarDistNet`, or `CompactStarDistNet`.
    n_blocks : int
        Residual blocks a level; only for ``resnet``.
    n_marker_context : int
        Filters of the layer in which the marker head also reads what lies beside the decoder's
        map, see `MarkerContext`; 0 builds none. Not for ``unet``, and with two levels or more.
    marker_features : bool
        Whether the output holds what the marker head's last layer reads, for marker models that
        read more than this network. Only with `n_marker_context`.
    widths, blocks : tuple of int
        Filters and residual blocks of each of the `n_depth` levels below the output grid, the
        finest first; only for ``compact``, which takes neither filters nor blocks from elsewhere
        but its stem's `n_filter_base`.
    """

    n_rays: Annotated[int, Field(ge=3)] = 32
    grid: Annotated[int, AfterValidator(_stride)] = 2
    n_filter_base: Count = 32
    n_depth: Annotated[int, Field(ge=1, le=6)] = 3
    n_conv_after_unet: Annotated[int, Field(ge=0)] = 128
    batch_norm: bool = False
    n_markers: Annotated[int, Field(ge=0)] = 0
    encoder: Literal["unet", "resnet", "compact"] = "unet"
    n_blocks: Count = 2
    n_marker_context: Annotated[int, Field(ge=0)] = 0
    marker_features: bool = False
    widths: tuple[Count, ...] = ()
    blocks: tuple[Annotated[int, Field(ge=0)], ...] = ()

    def __post_init__(self) -> None:
        levels = self.n_depth if self.encoder == "compact" else 0
        if not len(self.widths) == len(self.blocks) == levels:
            raise ValueError(
                f"encoder {self.encoder!r} with {self.n_depth} levels: it takes {levels} widths "
                f"and as many blocks, not {len(self.widths)} and {len(self.blocks)}"
            )

    @property
    def stride(self) -> int:
        """Input sides must be multiples of this many pixels."""
        # The context of a marker head averages four by four pixels of twice the output's stride.
        levels = max(self.n_depth, 3) if self.n_marker_context else self.n_depth
        return int(self.grid * 2**levels)

    @property
    def context_px(self) -> int:
        """How far from an output an input pixel can change it, px, up to a multiple of `stride`.

        Radii of the convolutions and poolings, each times its stride.
        """
        halvings = [2**i for i in range(self.grid.bit_length() - 1)]
        levels = [self.grid * 2**level for level in range(self.n_depth)]
        if self.encoder == "unet":
            # Two convolutions and a pooling before each halving, two convolutions behind it.
            reach = sum(3 * s for s in halvings) + sum(5 * s for s in levels)
            reach += 2 * self.grid * 2**self.n_depth + self.grid + self.grid * bool(self.n_markers)
        elif self.encoder == "compact":
            # Of each level, finest first: what brings it there, its blocks, the decoder's layer.
            strides = [2 * s for s in levels]
            reach = 1 + sum(halvings[1:]) + self.grid + sum(strides[:-1])
            reach += sum(2 * s * n for s, n in zip(strides, self.blocks, strict=True))
            reach += 2 * sum(strides[:-1]) + strides[0] + 2 * self.grid
            reach += sum(strides[1:]) * bool(self.n_marker_context)
        else:
            reach = 2 + sum(halvings[1:]) + self.grid
            # A block's convolutions, the first on the finer grid; then the decoder's.
            reach += sum(s * (1 + 2 + 4 * (self.n_blocks - 1)) + 2 * s for s in levels) + self.grid
            reach += 4 * self.grid * bool(self.n_markers)
            reach += 24 * self.grid * bool(self.n_marker_context)
        return int(-(-reach // self.stride) * self.stride)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a bundle's TOML; without what only another encoder has."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in values.items() if v != []}
