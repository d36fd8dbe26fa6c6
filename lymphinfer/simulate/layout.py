"""Where things are in a piece of tissue: glands, tumour, lymphoid aggregates, vessels, stroma."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lymphinfer.simulate.texture import ORIENTATIONS, Float, smooth_noise

COARSE_UM = 1.3
"""Pixel size of the coarse fields, µm, about."""

FAR_UM = 1e3


@dataclass(frozen=True)
class LayoutSettings:
    """How much there is of what.

    Attributes
    ----------
    gland_spacing_um : float
        Least distance of two glands' centres.
    tumour_share : float
        Share of glands that are tumour.
    aggregate_share : float
        Share of the tissue's area in lymphoid aggregates.
    vessels_per_mm2 : float
        Vessels in a mm² of tissue.
    tissue_share : float
        Share of the area that is tissue; below 1 there are holes of white background.
    island : bool
        One piece of tissue in the middle, glass all around it. Not periodic.
    """

    gland_spacing_um: float = 165.0
    tumour_share: float = 0.5
    aggregate_share: float = 0.05
    vessels_per_mm2: float = 18.0
    tissue_share: float = 1.0
    island: bool = False


@dataclass(frozen=True)
class Layout:
    """Periodic coarse fields of a piece of tissue, all (rows, columns) float32.

    Attributes
    ----------
    factor : int
        Fine pixels in a coarse one.
    coarse_um : float
        Size of a coarse pixel, µm.
    depth : ndarray
        Depth in a gland below its outer border, µm; negative outside.
    height : ndarray
        Height of the epithelium there: the lumen begins at this depth, µm.
    tumour : ndarray
        1 in tumour glands, 0 in normal ones.
    aggregate : ndarray
        Above 0 in lymphoid aggregates.
    vessel : ndarray
        Depth in a vessel below its outer border, µm; negative outside.
    tissue : ndarray
        Above 0 in tissue, µm from its edge, about.
    loose : ndarray
        Looseness of the stroma, about -2 to 2.
    direction : ndarray of intp
        Fibre direction, index of `texture.FibreBank`.
    angle : ndarray
        The same as an angle from x to y, radians.
    """

    factor: int
    coarse_um: float
    depth: Float
    height: Float
    tumour: Float
    aggregate: Float
    vessel: Float
    tissue: Float
    loose: Float
    direction: NDArray[np.intp]
    angle: Float


def poisson_disc(
    rng: np.random.Generator,
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> NDArray[np.intp]:
    """Thin points until no two are closer than the mean of their radii.

    Points are taken in random order; whoever is near a taken one is dropped.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    y, x : ndarray of float64, (points,)
        Positions.
    radius : ndarray of float64, (points,)
        Least distance of each, same unit.

    Returns
    -------
    ndarray of intp, (kept,)
        Indices of kept points, ascending.
    """
    from scipy.spatial import cKDTree

    if len(y) == 0:
        return np.zeros(0, np.intp)
    rank = rng.permutation(len(y))
    points = np.stack([y, x], axis=1)
    pairs = cKDTree(points).query_pairs(float(radius.max()), output_type="ndarray")
    gap = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    pairs = pairs[gap < (radius[pairs[:, 0]] + radius[pairs[:, 1]]) / 2]
    swap = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    first = np.where(swap, pairs[:, 1], pairs[:, 0])
    second = np.where(swap, pairs[:, 0], pairs[:, 1])
    waiting = np.ones(len(y), bool)
    kept = np.zeros(len(y), bool)
    while waiting.any():
        blocked = np.zeros(len(y), bool)
        blocked[second] = True
        taken = waiting & ~blocked
        kept |= taken
        waiting &= blocked
        waiting[second[taken[first]]] = False
        live = waiting[first] & waiting[second]
        first, second = first[live], second[live]
    return np.flatnonzero(kept)


def _stamp_blobs(
    shape: tuple[int, int],
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
    waves: Float,
    warp: tuple[Float, Float],
) -> tuple[Float, NDArray[np.intp]]:
    """Depth in wavy discs (px, negative outside) and each pixel's nearest disc."""
    rows, columns = shape
    depth = np.full(shape, -FAR_UM, np.float32)
    owner = np.zeros(shape, np.intp)
    orders = np.arange(2, 2 + waves.shape[1] // 2, dtype=np.float32)
    for i, ((cy, cx), radius) in enumerate(zip(centres, radii, strict=True)):
        half = int(min(2.0 * radius + 30, min(rows, columns) / 2 - 1))
        r0, c0 = int(cy), int(cx)
        r = np.arange(r0 - half, r0 + half + 1) % rows
        c = np.arange(c0 - half, c0 + half + 1) % columns
        window = np.ix_(r, c)
        dy = np.arange(-half, half + 1, dtype=np.float32)[:, None] + warp[0][window]
        dx = np.arange(-half, half + 1, dtype=np.float32)[None, :] + warp[1][window]
        theta = np.arctan2(dy, dx)
        phase = theta[..., None] * orders
        n = len(orders)
        wave = np.cos(phase) @ waves[i, :n] + np.sin(phase) @ waves[i, n:]
        own = radius * (1 + wave) - np.hypot(dy, dx)
        better = own > depth[window]
        depth[window] = np.where(better, own, depth[window])
        owner[window] = np.where(better, i, owner[window])
    return depth, owner


def _centres(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float
) -> NDArray[np.float64]:
    n = max(8, int(12 * shape[0] * shape[1] / spacing**2))
    y, x = rng.random(n) * shape[0], rng.random(n) * shape[1]
    keep = poisson_disc(rng, y, x, np.full(n, spacing))
    return np.stack([y[keep], x[keep]], axis=1)


def _above(values: Float, share: float) -> Float:
    """Values moved so that about `share` of them are above 0."""
    if share >= 1:
        return np.full_like(values, FAR_UM)
    if share <= 0:
        return np.full_like(values, -FAR_UM)
    return values - np.float32(np.quantile(values, 1 - share))


def _gradient(field: Float) -> tuple[Float, Float]:
    gy = np.roll(field, -1, 0) - np.roll(field, 1, 0)
    gx = np.roll(field, -1, 1) - np.roll(field, 1, 1)
    return gy, gx


def _directions(
    rng: np.random.Generator, depth: Float, vessel: Float, coarse_um: float
) -> tuple[NDArray[np.intp], Float]:
    """Fibres run along smooth contours, along borders near glands, and across inside them."""
    shape = (depth.shape[0], depth.shape[1])
    potential = smooth_noise(rng, shape, 75 / coarse_um)
    wrinkle = smooth_noise(rng, shape, 14 / coarse_um) * 0.10
    py, px = _gradient(potential + wrinkle)
    scale = np.hypot(py, px).mean() + 1e-12
    smooth = ndimage.gaussian_filter(np.maximum(depth, -60.0), 2.5 / coarse_um, mode="wrap")
    dy, dx = _gradient(smooth)
    vy, vx = _gradient(np.maximum(vessel, -25.0))
    near = np.exp(np.minimum(depth, 0) / 22)
    near_vessel = np.exp(np.minimum(vessel, 0) / 10)
    gy = (1 - near) * py / scale + near * dy + near_vessel * vy
    gx = (1 - near) * px / scale + near * dx + near_vessel * vx
    angle = np.arctan2(gy, gx) + np.where(depth > 0, 0.0, np.pi / 2)
    angle = np.mod(angle, np.pi).astype(np.float32)
    direction = np.rint(angle * (ORIENTATIONS / np.pi)).astype(np.intp) % ORIENTATIONS
    return direction, angle


def island(rng: np.random.Generator, shape: tuple[int, int], margin: float = 0.12) -> Float:
    """Shape of a piece of tissue lying on glass.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        (height, width) of the field, px.
    margin : float
        Glass at each side, share of half the side, about.

    Returns
    -------
    ndarray of float32, shape
        Above 0 in tissue; about the distance from its edge, half a side being 1.
    """
    y = (np.arange(shape[0], dtype=np.float32) + 0.5) / shape[0] * 2 - 1
    x = (np.arange(shape[1], dtype=np.float32) + 0.5) / shape[1] * 2 - 1
    side = min(shape)
    bays = 0.085 * smooth_noise(rng, shape, side / 9) + 0.010 * smooth_noise(rng, shape, side / 60)
    radius = (np.abs(y)[:, None] ** 3.5 + np.abs(x)[None, :] ** 3.5) ** np.float32(1 / 3.5)
    rounded = np.float32(1 - margin) - radius + np.clip(bays, -0.25, 0.05)
    return np.asarray(rounded, dtype=np.float32)


def make_layout(
    rng: np.random.Generator, size_px: tuple[int, int], mpp: float, settings: LayoutSettings
) -> Layout:
    """Lay out a piece of tissue, periodic in both directions where sizes divide by the factor.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    size_px : tuple of int
        (height, width), fine px.
    mpp : float
        Size of a fine pixel, µm.
    settings : LayoutSettings
        How much there is of what.

    Returns
    -------
    Layout
    """
    factor = max(1, round(COARSE_UM / mpp))
    um = factor * mpp
    shape = (-(-size_px[0] // factor), -(-size_px[1] // factor))
    warp_um = 7.0
    warp = (
        smooth_noise(rng, shape, 16 / um) * np.float32(warp_um / um),
        smooth_noise(rng, shape, 16 / um) * np.float32(warp_um / um),
    )

    centres = _centres(rng, shape, settings.gland_spacing_um / um)
    n = len(centres)
    tumour_field = _above(smooth_noise(rng, shape, 220 / um), settings.tumour_share)
    at = np.minimum(centres.astype(np.intp), np.array(shape) - 1)
    is_tumour = tumour_field[at[:, 0], at[:, 1]] > 0
    radii = np.where(is_tumour, rng.uniform(45, 85, n), rng.uniform(34, 55, n)) / um
    spread = np.where(is_tumour, 0.16, 0.07)[:, None] / np.array([1, 1.6, 2.2, 3] * 2)
    waves = (rng.standard_normal((n, 8)) * spread).astype(np.float32)
    depth, owner = _stamp_blobs(shape, centres, radii, waves, warp)
    depth *= um
    heights = np.where(is_tumour, rng.uniform(32, 62, n), rng.uniform(19, 25, n))
    height = heights.astype(np.float32)[owner]
    tumour = is_tumour.astype(np.float32)[owner]

    area_mm2 = shape[0] * shape[1] * um**2 / 1e6
    n_vessels = int(rng.poisson(settings.vessels_per_mm2 * area_mm2))
    spots = rng.random((n_vessels, 2)) * np.array(shape)
    at = spots.astype(np.intp)
    spots = spots[depth[at[:, 0], at[:, 1]] < -18]
    vessel_waves = (rng.standard_normal((len(spots), 4)) * 0.15).astype(np.float32)
    vessel_radii = rng.uniform(6, 15, len(spots)) / um
    vessel = _stamp_blobs(shape, spots, vessel_radii, vessel_waves, warp)[0] * np.float32(um)

    blobs = smooth_noise(rng, shape, 42 / um) + 0.25 * smooth_noise(rng, shape, 10 / um)
    blobs = np.where((depth > -4) | (vessel > -3), -FAR_UM, blobs).astype(np.float32)
    aggregate = _above(blobs, settings.aggregate_share)
    edge = smooth_noise(rng, shape, 350 / um) + 0.06 * smooth_noise(rng, shape, 14 / um)
    tissue = _above(edge, settings.tissue_share)
    if settings.tissue_share < 1:
        tissue = tissue * np.float32(300.0)
    if settings.island:
        tissue = np.minimum(tissue, island(rng, shape) * np.float32(min(shape) * um / 2))
    loose = smooth_noise(rng, shape, 38 / um) * 0.8 + smooth_noise(rng, shape, 9 / um) * 0.5
    direction, angle = _directions(rng, depth, vessel, um)
    return Layout(
        factor=factor,
        coarse_um=um,
        depth=depth,
        height=height,
        tumour=tumour,
        aggregate=aggregate.astype(np.float32),
        vessel=vessel,
        tissue=tissue.astype(np.float32),
        loose=loose.astype(np.float32),
        direction=direction,
        angle=angle,
    )
