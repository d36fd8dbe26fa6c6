"""The pixel size of a slide: from the file, from the user, never assumed."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from lymphinfer.errors import PixelSizeError

logger = logging.getLogger(__name__)

MIN_MPP, MAX_MPP = 0.1, 1.0
MAX_PATCH_MPP = 2.0
"""Coarsest pixel size, µm/px, at which patches around known nuclei are looked at."""
_MAX_ANISOTROPY = 0.05
_WARN_DIFFERENCE = 0.01

_UM_PER_UNIT = {
    "pm": 1e-6,
    "\N{ANGSTROM SIGN}": 1e-4,
    "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}": 1e-4,
    "nm": 1e-3,
    "\N{MICRO SIGN}m": 1.0,
    "\N{GREEK SMALL LETTER MU}m": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nanometer": 1e-3,
    "millimeter": 1e3,
}


class KnownSize(float):
    """A pixel size, µm/px, that is not judged: of a scan in which no nuclei are to be found."""


@dataclass(frozen=True)
class StatedSize:
    """What a file says about its pixel size.

    Attributes
    ----------
    xy : tuple of float, or None
        Pixel width and height, µm; None where the file states nothing to trust.
    source : str
        ``"metadata"`` or ``"OME-XML"``.
    hint : str
        What else the file says, a sentence for the error message; empty if nothing.
    """

    xy: tuple[float, float] | None
    source: str = "metadata"
    hint: str = ""


def plausible(mpp: float) -> bool:
    """Whether nuclei can be seen at `mpp` µm/px: 0.1 to 1.0."""
    return math.isfinite(mpp) and MIN_MPP <= mpp <= MAX_MPP


def resolve_pixel_size(path: Path, stated: StatedSize, given: float | None) -> tuple[float, str]:
    """Decide a slide's pixel size.

    Parameters
    ----------
    path : Path
        The slide, for messages.
    stated : StatedSize
        What the file says.
    given : float or None
        What the user says, µm/px; wins over the file, with a logged warning if they differ by
        more than 1 %. A `KnownSize` may be of any size.

    Returns
    -------
    mpp : float
        Level-0 pixel size, µm/px.
    source : str
        ``"--mpp"`` or the file's source.

    Raises
    ------
    PixelSizeError
        No size, one outside 0.1-1.0 µm/px, or pixels more than 5 % from square.
    """
    if given is not None:
        if not isinstance(given, KnownSize) and not plausible(given):
            raise PixelSizeError(
                f"{path}: the given pixel size of {given:g} µm/px is outside "
                f"{MIN_MPP:g}-{MAX_MPP:g}. Give it in µm per pixel, such as --mpp 0.25 for 40x."
            )
        if stated.xy is not None:
            mean = sum(stated.xy) / 2
            if abs(given - mean) > _WARN_DIFFERENCE * abs(mean):
                logger.warning(
                    "%s: --mpp %g is used although the file's %s says %.4g µm/px",
                    path,
                    given,
                    stated.source,
                    mean,
                )
        return float(given), "--mpp"
    if stated.xy is None:
        hint = f" {stated.hint}" if stated.hint else ""
        raise PixelSizeError(
            f"{path}: the file states no pixel size.{hint} "
            "Give it in µm per pixel, such as --mpp 0.25."
        )
    x, y = stated.xy
    error = None
    for value in (x, y):
        if not plausible(value):
            error = PixelSizeError(
                f"{path}: its {stated.source} says {value:.6g} µm/px, outside "
                f"{MIN_MPP:g}-{MAX_MPP:g}, at which nuclei cannot be seen. If that is wrong, give "
                "the true size, such as --mpp 0.25; if it is right, use a scan at 20x or 40x."
            )
    if error is None and abs(x - y) > _MAX_ANISOTROPY * max(x, y):
        error = PixelSizeError(
            f"{path}: its {stated.source} says pixels of {x:.4g} x {y:.4g} µm, which are not "
            "square. If that is wrong, give the true size, such as --mpp 0.25."
        )
    if error is not None:
        error.stated, error.source = stated.xy, stated.source
        raise error
    return (x + y) / 2, stated.source


def stated_length(text: str, unit: str) -> float | None:
    """A length in µm, from a number and a unit of OME's; None for what is no length."""
    try:
        return float(text) * _UM_PER_UNIT[unit.strip()]
    except (KeyError, ValueError):
        return None


def objective_size(power: str | None) -> str:
    """What an objective's power, such as ``"20"``, suggests: a sentence; empty for none."""
    try:
        value = float(power or "nan")
    except ValueError:
        return ""
    if not (math.isfinite(value) and value > 0):
        return ""
    usual = 10 / value
    return (
        f"It names only the objective power, {value:g}x, for which about {usual:.3g} µm/px is "
        f"usual (--mpp {usual:.3g}); ask the scanner's owner."
    )


def resolution_stated_size(x: float | None, y: float | None, trusted: bool) -> StatedSize:
    """Judge a pixel size that comes from TIFF resolution tags or a dpi value.

    Cameras and editors write 72, 96 or 300 dpi into any file, so the value counts only where the
    kind of file makes it `trusted` and it is plausible for a microscope.
    """
    if x is None or y is None:
        return StatedSize(None)
    if trusted and plausible(x) and plausible(y):
        return StatedSize((x, y))
    return StatedSize(
        None, hint=f"Its resolution tags amount to {x:.4g} µm/px, which is not to be trusted."
    )
