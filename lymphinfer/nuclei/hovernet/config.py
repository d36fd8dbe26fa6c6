"""Shape of HoVer-Net's networks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lymphinfer.validation import table

STRIDE_PX = 8
FULL_WIDTH = 64
DIVISORS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Geometry:
    """What a mode takes and gives, px.

    Attributes
    ----------
    lost_px : int
        By how much the output is smaller than the input, half of it on each side.
    odd_px : int
        An input's side is a multiple of `STRIDE_PX` plus this.
    context_px : int
        How far from an output pixel an input pixel can change it: radii of the convolutions,
        each times its stride, rounded up to `STRIDE_PX`. Nearer to an input's border than that,
        the encoder's zero padding has a part in the output.
    crops : tuple of int
        Pixels cut off each side of the first and the second skip connection.
    """

    lost_px: int
    odd_px: int
    context_px: int
    crops: tuple[int, int]


GEOMETRY = {
    "fast": Geometry(lost_px=92, odd_px=0, context_px=112, crops=(46, 18)),
    "original": Geometry(lost_px=190, odd_px=6, context_px=168, crops=(92, 36)),
}


@table
@dataclass(frozen=True)
class HoVerNetConfig:
    """Shape of the network.

    Attributes
    ----------
    mode : {"fast", "original"}
        The network of the PanNuke paper (256 to 164 px) or of HoVer-Net's own (270 to 80 px).
    types : tuple of str
        Names of the nucleus types without background; empty for no type branch.
    divisor : int
        1 for the published network (38 million parameters); 2, 4 or 8 divides the channels of
        every layer, for training on little data or without a GPU.
    """

    mode: str = "fast"
    types: tuple[str, ...] = ()
    divisor: int = 1

    def __post_init__(self) -> None:
        if self.mode not in GEOMETRY:
            raise ValueError(f"mode {self.mode!r}: expected one of {', '.join(GEOMETRY)}")
        if self.divisor not in DIVISORS:
            raise ValueError(f"divisor {self.divisor}: expected one of {DIVISORS}")

    @property
    def geometry(self) -> Geometry:
        """Of the mode."""
        return GEOMETRY[self.mode]

    @property
    def n_types(self) -> int:
        """Channels of the type branch, background included; 0 without one."""
        return len(self.types) + 1 if self.types else 0

    @property
    def n_features(self) -> int:
        """Channels of all decoders' last feature maps."""
        return FULL_WIDTH // self.divisor * (3 if self.types else 2)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a bundle's TOML."""
        return {**asdict(self), "types": list(self.types)}
