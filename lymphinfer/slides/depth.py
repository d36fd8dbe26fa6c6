"""Colours of more than 8 bits, and the 8 bits that they become."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_USUAL_BITS = (8, 10, 12, 14, 16)
# A camera that is used well gives glass at least this share of what it can give.
_LEAST_FILLED = 0.6
# Glass of a scanner's 8-bit slide.
_GLASS = 243
_BRIGHTEST = 99.9


@dataclass(frozen=True)
class Depth:
    """How samples of more than 8 bits become 8-bit colours: in proportion, 0 staying 0.

    Attributes
    ----------
    top : float
        The value that becomes 255, as do larger ones.
    reason : str
        Why this one.
    """

    top: float
    reason: str

    def to_8_bit(self, samples: NDArray[Any]) -> Pixels:
        """Scale samples of any integer type; those of 8 bits are left as they are."""
        if samples.dtype == np.uint8:
            return samples
        table = np.arange(1 << 16, dtype=np.float64) * (255 / self.top)
        return np.asarray(np.minimum(np.rint(table), 255).astype(np.uint8)[samples])

    @property
    def warning(self) -> str:
        """What the reader of the numbers must know."""
        return (
            f"Its colours are stored with more than 8 bits: 0 to {self.top:,.0f} became 0 to 255, "
            f"since {self.reason}. If glass is not near white in the report, export the slide as "
            "8-bit RGB."
        )


def stated_depth(top: int, by: str) -> Depth:
    """The depth that a file states: its largest value, and where it says so."""
    return Depth(float(top), f"{by} says that they end there")


def measured_depth(samples: Iterable[NDArray[Any]]) -> Depth:
    """Judge the depth by the data.

    The usual depth of a camera that holds all values is taken, so that two fields of one camera
    are treated alike. Only where the brightest values fill little of it are they made as bright
    as glass is in an 8-bit slide.

    Parameters
    ----------
    samples : iterable of ndarray of uint16, (..., colours)
        Pixels from all over the image.

    Returns
    -------
    Depth

    Examples
    --------
    >>> measured_depth([np.array([900, 4000], np.uint16)]).top
    4095.0
    """
    found = [part.reshape(-1, part.shape[-1])[::3].ravel() for part in samples]
    values = np.concatenate(found) if found else np.zeros(1, np.uint16)
    largest = int(values.max(initial=0))
    bits = next(bits for bits in _USUAL_BITS if largest < 1 << bits)
    full = float((1 << bits) - 1)
    bright = float(np.percentile(values, _BRIGHTEST)) if values.size else 0.0
    if 0 < bright < _LEAST_FILLED * full:
        return Depth(
            bright * 255 / _GLASS,
            f"the file states no depth and its brightest values lie at {bright:,.0f}, which is "
            "taken for glass",
        )
    reason = f"the file states no depth and its values, up to {largest:,}, fit {bits} bits"
    return Depth(full, reason)
