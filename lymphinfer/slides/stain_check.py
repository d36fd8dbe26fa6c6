"""Whether a slide looks like H&E: pink and violet, darker than its glass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import SlideError

if TYPE_CHECKING:
    from lymphinfer.slides.slide import RGB, Slide
    from lymphinfer.slides.tissue import TissueMask

Floats = NDArray[np.float32]

_MPP = 1.0
_PATCH_PX = 256
_PATCHES = 16
_LEAST_PIXELS = 2000
# Brightness, 0 to 255.
_PADDING = 25
_DARK = 50
_BRIGHT = 150
# Summed optical density of the three channels from which a pixel counts as stained.
_STAINED = 0.12
_FLAT_COLOURS = 64
_PINK_WHITE = 8
# Pinkness of the median stained pixel: H&E, of lymphocytes too, stays above 0.01.
_BLUE = -0.015

_WAY_OUT = {
    "fluorescence": "Give the H&E image of the same section.",
    "grey": "Give the image with its colours.",
    "dab": "Give an H&E slide of the same block.",
    "haematoxylin": "Give an H&E slide of the same block.",
    "chromogen": "Give an H&E slide of the same block.",
    "flat": "Give the H&E image itself.",
}


@dataclass(frozen=True)
class Appearance:
    """What is unlike H&E.

    Attributes
    ----------
    kind : str
        ``"fluorescence"``, ``"grey"``, ``"dab"``, ``"haematoxylin"``, ``"chromogen"`` or
        ``"flat"``.
    reason : str
        In words that follow "it looks like ".
    is_certain : bool
        Whether no real H&E that is known comes near it.
    """

    kind: str
    reason: str
    is_certain: bool

    @property
    def way_out(self) -> str:
        """What to give instead, a sentence."""
        return _WAY_OUT[self.kind]


def check_stain(
    slide: Slide, tissue: TissueMask | None = None, *, force: bool = False
) -> list[str]:
    """Look at a slide in some places and say if it is no H&E slide.

    Parameters
    ----------
    slide : Slide
        An open slide.
    tissue : TissueMask, optional
        Where to look first; the whole slide without it.
    force : bool
        Warn of what would be refused.

    Returns
    -------
    list of str
        Warnings, for the summary.

    Raises
    ------
    SlideError
        It is clearly not H&E, and `force` is not set.
    """
    found = appearance(*sample_patches(slide, tissue))
    if found is None:
        return []
    if found.is_certain and not force:
        raise SlideError(
            f"{slide.path}: not an RGB H&E image: it looks like {found.reason}. {found.way_out} "
            "If it is H&E all the same, --force goes on."
        )
    return [f"This may be no H&E slide: it looks like {found.reason}. {found.way_out}"]


def sample_patches(slide: Slide, tissue: TissueMask | None) -> tuple[list[RGB], list[RGB]]:
    """Patches of about 1 µm/px from all over a slide, and from its tissue.

    Returns
    -------
    everywhere, on_tissue : list of ndarray of uint8, (rows, columns, 3)
    """
    mpp = max(_MPP, slide.mpp)
    width, height = slide.dimensions_at(mpp)
    w, h = min(_PATCH_PX, width), min(_PATCH_PX, height)
    side = 4
    corners = {
        (round(i * (width - w) / (side - 1)), round(j * (height - h) / (side - 1)))
        for i in range(side)
        for j in range(side)
    }
    read = cache(lambda x, y: slide.read_region(x, y, w, h, mpp))
    everywhere = [read(x, y) for x, y in sorted(corners)]
    on_tissue = []
    if tissue is not None and tissue.mask.any():
        rows, columns = np.nonzero(tissue.mask)
        picked = np.unique(np.linspace(0, len(rows) - 1, _PATCHES).astype(int))
        scale = tissue.mpp / mpp
        for row, column in zip(rows[picked], columns[picked], strict=True):
            x, y = int((column + 0.5) * scale) - w // 2, int((row + 0.5) * scale) - h // 2
            x, y = min(max(x, 0), width - w), min(max(y, 0), height - h)
            on_tissue.append(read(x, y))
    return everywhere, on_tissue


def appearance(everywhere: list[RGB], on_tissue: list[RGB]) -> Appearance | None:
    """Judge patches of a slide.

    The limits leave all of 600 real H&E fields in peace, of six laboratories, faint, over-stained
    and with saffron among them, and whole slides by a wider margin.

    Parameters
    ----------
    everywhere, on_tissue : list of ndarray of uint8, (rows, columns, 3)
        Of about 1 µm/px; the latter may be empty.

    Returns
    -------
    Appearance, or None
        None for what may be H&E, and for what shows too little to tell.
    """
    # Scanners fill with black what they have not scanned.
    lit = [p for p in (*everywhere, *on_tissue) if _is_lit(p)]
    if not lit:
        return Appearance("fluorescence", "a black picture, as of immunofluorescence", True)
    shown = _pixels(lit)
    dark = _light_on_dark(shown)
    flat = _is_flat(lit)
    tissue = [p for p in on_tissue if _is_lit(p)]
    stain = _stained(_pixels(tissue or lit), shown)
    if stain is None:
        return dark
    grey = _grey(stain, is_dark=float((shown.max(axis=0) < _DARK).mean()) > 0.3)
    found = grey or dark or _by_density(stain)
    if found is None and flat:
        reason = "a map of labels or a drawing: areas of flat colour"
        return Appearance("flat", reason, is_certain=False)
    return found


def _is_lit(patch: RGB) -> bool:
    red, green, blue = np.moveaxis(patch, -1, 0)
    highest = np.maximum(np.maximum(red, green), blue)
    return bool((highest > _PADDING).mean() > 0.02)


def _pixels(patches: list[RGB]) -> Floats:
    """All pixels, (3, n): numpy is slow along an axis of three."""
    pixels = np.concatenate([patch.reshape(-1, 3) for patch in patches])
    return pixels.T.astype(np.float32, order="C")


def _light_on_dark(pixels: Floats) -> Appearance | None:
    """Light of pure colours on black."""
    high, low = pixels.max(axis=0), pixels.min(axis=0)
    is_dark = high < _DARK
    if is_dark.mean() < 0.3 or (low > _BRIGHT).mean() > 0.05:
        return None
    signal, high, low = pixels[:, ~is_dark], high[~is_dark], low[~is_dark]
    if len(high) < 50:
        return Appearance("fluorescence", "a nearly black picture, as of immunofluorescence", True)
    green_is_lowest = (signal[1] <= low + 2).mean()
    saturation = np.median((high - low) / high)
    # H&E that is much too dark is violet still, of a saturation up to .7.
    if green_is_lowest > 0.7 and saturation < 0.8:
        return None
    return Appearance("fluorescence", "immunofluorescence: light of pure colours on black", True)


@dataclass(frozen=True)
class _Stain:
    """Stained pixels: optical densities, (3, n), and largest minus smallest channel, 0 to 255."""

    density: Floats
    span: Floats


def _stained(pixels: Floats, shown: Floats) -> _Stain | None:
    white = np.maximum(np.percentile(shown, 99, axis=1), 60).astype(np.float32)
    # A pink white is no glass but pale tissue that fills the picture.
    if min(white[0], white[2]) - white[1] > _PINK_WHITE:
        white[:] = white.max()
    relative = np.minimum(pixels / white[:, None], 1)
    density = -np.log10(np.maximum(relative, np.float32(1 / 128)))
    is_stained = density.sum(axis=0) > _STAINED
    if is_stained.sum() < min(_LEAST_PIXELS, 0.02 * pixels.shape[1]) or is_stained.sum() < 50:
        return None
    span = 255 * (relative.max(axis=0) - relative.min(axis=0))[is_stained]
    return _Stain(density[:, is_stained], span)


def _grey(stain: _Stain, is_dark: bool) -> Appearance | None:
    span = float(np.percentile(stain.span, 95))
    if span >= 12:
        return None
    kind = "fluorescence" if is_dark else "grey"
    reason = ("one channel of immunofluorescence: grey light on black" if is_dark
              else "a picture in shades of grey, without stains' colours")  # fmt: skip
    return Appearance(kind, reason, is_certain=span < 8)


def _by_density(stain: _Stain) -> Appearance | None:
    """Tell DAB and haematoxylin alone by what each channel absorbs.

    Eosin absorbs green far above red and blue, haematoxylin red and green alike, DAB blue above
    all (Ruifrok & Johnston 2001, table 1).
    """
    red, green, blue = stain.density
    total = stain.density.sum(axis=0)
    pink = (green - red) / total
    is_brown = ((blue - green) / total > 0.05) & ((blue - red) / total > 0.1)
    brown = float(is_brown.mean())
    others = pink[~is_brown]
    if brown > 0.55 or len(others) < 50:
        reason = "DAB: it is brown nearly everywhere"
        return Appearance("dab", reason, is_certain=brown > 0.75)
    middle, high = (float(np.percentile(others, share)) for share in (50, 90))
    if brown > 0.05 and middle < 0.07:
        reason = "DAB with haematoxylin: brown and blue, without the pink of eosin"
        return Appearance("dab", reason, is_certain=middle < 0.05)
    if high < 0.015:
        if brown > 0.01:
            reason = "DAB with haematoxylin: brown and blue, without the pink of eosin"
            return Appearance("dab", reason, is_certain=high < 0)
        reason = "haematoxylin alone: blue, without the pink of eosin"
        return Appearance("haematoxylin", reason, is_certain=high < 0)
    if middle < _BLUE:
        reason = "a red or other chromogen on haematoxylin: blue nearly everywhere, red in places"
        return Appearance("chromogen", reason, is_certain=False)
    return None


def _is_flat(patches: list[RGB]) -> bool:
    """Whether a few colours fill the picture, each as areas of one value."""
    colours: set[int] = set()
    for patch in patches:
        red, green, blue = np.moveaxis(patch.astype(np.uint32), -1, 0)
        packed = np.unique(red << 16 | green << 8 | blue)
        colours.update(packed[: _FLAT_COLOURS + 1].tolist())
        if len(colours) > _FLAT_COLOURS:
            return False
    return len(colours) > 1
