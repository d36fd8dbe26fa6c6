"""An affine transform from H&E to an immunofluorescence that it is not aligned with.

1. Both images' nuclei are compared as a whole, at 8 µm/px: the rotation and shift at which they
   correlate best.
2. Patches all over the tissue are compared at 1 µm/px; an affine transform is fitted to their
   shifts, leaving out those that do not agree with the others (RANSAC), three times.
3. Other patches, not fitted to, say how good it is. What is not good is refused.

Correlation, RANSAC and the transform are scikit-image's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError
from lymphinfer.orion.align import Affine, AlignedPlanes
from lymphinfer.slides import Slide
from lymphinfer.slides.planes import Planes

COARSE_MPP, FINE_MPP = 8.0, 1.0
PATCH_UM = 384.0
MAX_ANGLE = 15
"""Largest rotation that is looked for, degrees."""

MAX_ERROR_UM = 5.0
MIN_SHARE = 0.5
_PATCHES, _MIN_PATCHES, _ROUNDS = 32, 6, 3
# Spread of optical density, at the coarse scale, below which a patch is glass or bare stroma.
_MIN_DENSITY = 0.02
_INLIER_UM = 8.0
_HIGH_PASS_UM = 40.0

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Registration:
    """A transform and how good it is.

    Attributes
    ----------
    to_if : Affine
        From the H&E's level-0 px to the immunofluorescence's.
    error_um : float
        Median distance, µm, by which patches that were not fitted to are still off.
    agreeing : float
        Share of these patches that are off by at most `MAX_ERROR_UM`.
    patches : int
        Their number.
    angle_deg, shift_um : float
        Rotation, and shift of the slide's centre.
    picture : ndarray of uint8, (H, W, 3)
        H&E's nuclei in magenta, the immunofluorescence's in green: as the files are, and aligned.
    """

    to_if: Affine
    error_um: float
    agreeing: float
    patches: int
    angle_deg: float
    shift_um: float
    picture: NDArray[np.uint8]

    @property
    def is_good(self) -> bool:
        """Whether it may be used."""
        return self.error_um <= MAX_ERROR_UM and self.agreeing >= MIN_SHARE

    def problem(self, where: Path) -> DataError:
        """What is said of one that is not good."""
        return DataError(
            f"{where}: no transform to the H&E was found: {self.agreeing:.0%} of {self.patches} "
            f"patches agree to {MAX_ERROR_UM:g} µm (at least {MIN_SHARE:.0%} must), median error "
            f"{self.error_um:.1f} µm. Are both of the same section, the pixel sizes right, and the "
            f"rotation within {MAX_ANGLE} degrees?"
        )


def register(
    slide: Slide,
    fluorescence: Path,
    plane: int,
    if_mpp: float,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Registration:
    """Find the transform from a slide to an immunofluorescence of the same section.

    Parameters
    ----------
    slide : Slide
        H&E, open.
    fluorescence : Path
        OME-TIFF with a nuclear stain.
    plane : int
        The nuclear stain's.
    if_mpp : float
        Level-0 pixel size of the immunofluorescence, µm/px.
    progress : callable, optional
        Called with the steps done and the steps in all.

    Returns
    -------
    Registration
        Good or not: see `Registration.is_good`.

    Raises
    ------
    DataError
        There is too little tissue to compare.
    SlideError
        An image cannot be read.
    """
    steps = _ROUNDS + 2
    report = progress or (lambda done, total: None)
    density = _density(slide.read_region(0, 0, *slide.dimensions_at(COARSE_MPP), COARSE_MPP))
    fitted, held_out = _patch_centres(_band(density, COARSE_MPP), slide)
    he_coarse = _filtered(density, COARSE_MPP)
    if_coarse = _filtered(coarse_plane(fluorescence, plane, if_mpp), COARSE_MPP)
    affine = _whole(he_coarse, if_coarse, slide.mpp, if_mpp)
    report(1, steps)
    patches = _Patches(slide, fitted)
    for turn in range(_ROUNDS):
        affine = _refined(patches, fluorescence, plane, affine, slide.mpp, if_mpp)
        report(turn + 2, steps)
    shifts = _shifts(_Patches(slide, held_out), fluorescence, plane, affine)
    errors = np.nan_to_num(np.hypot(*shifts.T) * slide.mpp, nan=PATCH_UM / 2)
    report(steps, steps)
    linear = affine.matrix[:, :2]
    centre = np.array([slide.dimensions], np.float64) / 2
    shift = (affine(centre) * if_mpp - centre * slide.mpp)[0]
    return Registration(
        affine,
        float(np.median(errors)),
        float((errors <= MAX_ERROR_UM).mean()),
        len(errors),
        math.degrees(math.atan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])),
        float(np.hypot(*shift)),
        _picture(he_coarse, if_coarse, affine, slide.mpp, if_mpp),
    )


def coarse_plane(path: Path, plane: int, mpp: float) -> Image:
    """A whole plane at `COARSE_MPP`, from the pyramid, float32 (H, W).

    Parameters
    ----------
    path : Path
    plane : int
    mpp : float
        Level-0 pixel size, µm/px.
    """
    from skimage.transform import resize

    with Planes(path) as finest:
        sizes = finest.level_sizes
    fits = [i for i, s in enumerate(sizes) if mpp * sizes[0][0] / s[0] <= COARSE_MPP * 1.01]
    level = max(fits, default=0)
    width, height = sizes[level]
    scale = mpp * sizes[0][0] / width / COARSE_MPP
    shape = (max(round(height * scale), 1), max(round(width * scale), 1))
    out = np.zeros(shape, np.float32)
    # In strips: a file without a pyramid is not to be held whole.
    rows = max(64, math.ceil(2048 * scale))
    with Planes(path, level) as image:
        for top in range(0, shape[0], rows):
            bottom = min(top + rows, shape[0])
            y0, y1 = (min(round(v / scale), height) for v in (top, bottom))
            strip = image.read_plane(plane, 0, y0, width, max(y1 - y0, 1)).astype(np.float32)
            out[top:bottom] = resize(strip, (bottom - top, shape[1]), order=1, anti_aliasing=True)
    return np.log1p(out)


def _density(rgb: NDArray[np.uint8]) -> Image:
    """Where an H&E is blue: optical density of red, which eosin hardly takes."""
    return np.asarray(-np.log((rgb[..., 0].astype(np.float32) + 1) / 256), np.float32)


def _filtered(image: NDArray[Any], mpp: float) -> Image:
    """Structures of nuclei's size alone, mean 0, spread 1; 0 where there is nothing."""
    found = _band(image, mpp)
    spread = float(found.std())
    return np.asarray(found / spread if spread > 0 else found, np.float32)


def _band(image: NDArray[Any], mpp: float) -> Image:
    from scipy.ndimage import gaussian_filter, uniform_filter

    plain = image.astype(np.float32)
    wide = max(_HIGH_PASS_UM / mpp, 2.0)
    # Three boxes are a Gaussian nearly (central limit), in a tenth of the time: 3 (w² - 1) / 12.
    box = 2 * round((math.sqrt(4 * wide**2 + 1) - 1) / 2) + 1
    ground = plain
    for _ in range(3):
        ground = uniform_filter(ground, box)
    return np.asarray(gaussian_filter(plain, max(1.5 / mpp, 0.5)) - ground)


def _whole(he: Image, fluorescence: Image, he_mpp: float, if_mpp: float) -> Affine:
    """Rotation about the H&E's centre and shift at which the whole images correlate best."""
    shape = tuple(a + b for a, b in zip(he.shape, fluorescence.shape, strict=True))
    target = np.conj(np.fft.rfft2(fluorescence, shape))
    best = (-np.inf, 0.0, (0, 0))
    steps = [float(a) for a in range(-MAX_ANGLE, MAX_ANGLE + 1)]
    for fine in (False, True):
        angles = [best[1] + d for d in (-0.75, -0.5, -0.25, 0.25, 0.5, 0.75)] if fine else steps
        for angle in angles:
            turned = _turned(he, angle)
            found = np.fft.irfft2(np.fft.rfft2(turned, shape) * target, shape)
            row, column = divmod(int(found.argmax()), shape[1])
            if found[row, column] > best[0]:
                best = (float(found[row, column]), angle, (row, column))
    _, angle, peak = best
    # Beyond what the H&E can be shifted by, a shift is the other way round.
    down, right = (p - n if p >= h else p for p, n, h in zip(peak, shape, he.shape, strict=True))
    return _coarse_affine(he.shape, angle, (right, down), he_mpp, if_mpp)


def _turned(image: Image, angle: float) -> Image:
    from scipy.ndimage import affine_transform

    linear, offset = _turn(image.shape, angle)
    return np.asarray(affine_transform(image, linear, offset=offset, order=1))


def _turn(shape: tuple[int, ...], angle: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From pixels (row, column) of the turned image to those of the image."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    linear = np.array([[c, -s], [s, c]])
    middle = (np.array(shape[:2]) - 1) / 2
    return linear, middle - linear @ middle


def _coarse_affine(
    shape: tuple[int, ...], angle: float, shift: tuple[int, int], he_mpp: float, if_mpp: float
) -> Affine:
    """The turned H&E lies `shift` (x, y) coarse px further on than the immunofluorescence."""
    linear, offset = _turn(shape, angle)
    back = np.linalg.inv(linear)
    to_turned = Affine(np.column_stack([back[::-1, ::-1], (-back @ offset)[::-1]]))
    he_scale, if_scale = COARSE_MPP / he_mpp, COARSE_MPP / if_mpp
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    coarse = to_turned((corners + 0.5) / he_scale - 0.5) - shift
    found = (coarse + 0.5) * if_scale - 0.5
    return Affine(np.column_stack([found[1] - found[0], found[2] - found[0], found[0]]))


def _patch_centres(density: Image, slide: Slide) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of patches with many nuclei, level-0 px: to fit, and to judge by."""
    side = max(int(PATCH_UM / COARSE_MPP), 1)
    rows, columns = density.shape[0] // side, density.shape[1] // side
    blocks = density[: rows * side, : columns * side].reshape(rows, side, columns, side)
    spread = blocks.std(axis=(1, 3))
    order = np.argsort(-spread, axis=None)[: 2 * _PATCHES]
    order = order[spread.ravel()[order] > _MIN_DENSITY]
    if len(order) < 2 * _MIN_PATCHES:
        raise DataError(
            f"{slide.path}: {len(order)} patches of {PATCH_UM:g} µm have tissue; registration "
            f"needs {2 * _MIN_PATCHES}. Is it the right slide, and its pixel size?"
        )
    row, column = np.divmod(order, columns)
    centres = (np.column_stack([column, row]) + 0.5) * (side * COARSE_MPP / slide.mpp)
    return centres[::2], centres[1::2]


class _Patches:
    """Windowed patches of an H&E, read and filtered once for all rounds.

    Parameters
    ----------
    slide : Slide
    centres : ndarray of float64, (N, 2)
        Level-0 px.
    """

    def __init__(self, slide: Slide, centres: NDArray[np.float64]) -> None:
        self.mpp = max(FINE_MPP, slide.mpp)
        self.scale = self.mpp / slide.mpp
        self.side = round(PATCH_UM / self.mpp)
        self.level0 = round(self.side * self.scale)
        self.window = np.hanning(self.side)[:, None] * np.hanning(self.side)
        corners = np.rint(centres - self.level0 / 2).astype(int)
        self.centres = corners + self.level0 / 2
        self.corners = [(round(x / self.scale), round(y / self.scale)) for x, y in corners]
        size = self.side, self.side, self.mpp
        self.images = [
            self.filtered(_density(slide.read_region(x, y, *size))) for x, y in self.corners
        ]

    def filtered(self, image: NDArray[Any]) -> Image:
        return np.asarray(_filtered(image, self.mpp) * self.window, np.float32)


def _shifts(
    patches: _Patches, fluorescence: Path, plane: int, affine: Affine
) -> NDArray[np.float64]:
    """How far, H&E's level-0 px, the immunofluorescence at each patch lies from the H&E.

    Not a number where it is empty.
    """
    from skimage.registration import phase_cross_correlation
    from skimage.transform import resize

    shape, level0 = (patches.side, patches.side), patches.level0
    shifts = np.empty((len(patches.corners), 2))
    with AlignedPlanes(fluorescence, affine) as image:
        for i, (left, top) in enumerate(patches.corners):
            x0, y0 = (round(v * patches.scale) for v in (left, top))
            raw = image.read_plane(plane, x0, y0, level0, level0).astype(np.float32)
            small = resize(np.log1p(raw), shape, order=1, anti_aliasing=True)
            other = patches.filtered(small)
            if not (other.any() and patches.images[i].any()):
                shifts[i] = np.nan
                continue
            down, right = phase_cross_correlation(
                patches.images[i], other, upsample_factor=20, normalization=None
            )[0]
            shifts[i] = np.array([right, down]) * patches.scale
    return shifts


def _refined(
    patches: _Patches, fluorescence: Path, plane: int, affine: Affine, he_mpp: float, if_mpp: float
) -> Affine:
    """The transform that agrees with most patches' shifts; the old one where none does."""
    from skimage.measure import ransac
    from skimage.transform import AffineTransform

    shifts = _shifts(patches, fluorescence, plane, affine)
    seen = np.isfinite(shifts).all(axis=1)
    if seen.sum() < _MIN_PATCHES:
        return affine
    places = patches.centres[seen]
    model, agree = ransac(
        (places, affine(places - shifts[seen])),
        AffineTransform,
        min_samples=4,
        residual_threshold=_INLIER_UM / if_mpp,
        max_trials=2000,
        rng=0,
    )
    if not model or agree is None or agree.sum() < _MIN_PATCHES:
        return affine
    found = Affine(np.asarray(model.params, np.float64)[:2])
    stretch = np.linalg.svd(found.matrix[:, :2] * if_mpp / he_mpp, compute_uv=False)
    # Of patches that agree by chance the transform is a bad one.
    return found if stretch[-1] > 0.9 and stretch[0] < 1.1 else affine


def _picture(
    he: Image, fluorescence: Image, affine: Affine, he_mpp: float, if_mpp: float
) -> NDArray[np.uint8]:
    from scipy.ndimage import affine_transform

    he_scale, if_scale = COARSE_MPP / he_mpp, COARSE_MPP / if_mpp
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = (affine((corners + 0.5) * he_scale - 0.5) + 0.5) / if_scale - 0.5
    linear = np.column_stack([found[1] - found[0], found[2] - found[0]])
    aligned = affine_transform(
        fluorescence, linear[::-1, ::-1], offset=found[0][::-1], output_shape=he.shape, order=1
    )
    plain = np.zeros_like(he)
    rows, columns = (min(a, b) for a, b in zip(he.shape, fluorescence.shape, strict=True))
    plain[:rows, :columns] = fluorescence[:rows, :columns]
    gap = np.full((he.shape[0], 8, 3), 255, np.uint8)
    return np.concatenate([_overlay(he, plain), gap, _overlay(he, aligned)], axis=1)


def _overlay(he: Image, fluorescence: Image) -> NDArray[np.uint8]:
    first, second = (np.clip(np.nan_to_num(a) / 4 + 0.1, 0, 1) for a in (he, fluorescence))
    return np.asarray(np.stack([first, second, first], axis=-1) * 255, np.uint8)
