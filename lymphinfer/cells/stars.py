"""Outlines of any number of vertices as stars of equal rays, as detectors describe nuclei."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from lymphinfer.cells.outlines import Rings, centroids
from lymphinfer.nuclei.detector import Stars

F64 = NDArray[np.float64]

N_RAYS = 32
_AT_ONCE = 4096
_ROUNDS = 4
_FEWEST = 6
_TOLERANCE = 0.004
"""Share of a nucleus' radius, beside two hundredths of a px."""
_STARTS = sorted(product(np.arange(-3, 4) * 0.12, repeat=2), key=lambda d: float(np.hypot(*d)))
"""Offsets from the centroid, in radii."""


def stars(rings: Rings, n_rays: int = N_RAYS) -> Stars:
    """Outlines as rays from a point within.

    Parameters
    ----------
    rings : Rings
        N outlines.
    n_rays : int
        Ray k points to angle 2πk / n_rays, as in StarDist.

    Returns
    -------
    Stars
        In the frame of the outlines. A ray that meets no edge (of a nucleus that is bent around its
        point) ends at the point, the others where they leave the outline for good.
    """
    centers = centroids(rings) if len(rings) else np.empty((0, 2))
    origins = _origins(rings, centers, n_rays)
    angles = np.linspace(0, 2 * np.pi, n_rays, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    reach = np.zeros((len(rings), n_rays))
    owner = np.repeat(np.arange(len(rings)), rings.counts)
    here = rings.coords - origins[owner]
    step = here[rings.following] - here
    for start in range(0, len(rings), _AT_ONCE):
        end = min(start + _AT_ONCE, len(rings))
        rows = slice(int(rings.offsets[start]), int(rings.offsets[end]))
        a, d = here[rows, None], step[rows, None]
        # Ray t·r meets edge a + s·d where both crosses agree (Cramer).
        across = d[..., 0] * rays[:, 1] - d[..., 1] * rays[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            s = (a[..., 1] * rays[:, 0] - a[..., 0] * rays[:, 1]) / across
            t = (a[..., 1] * d[..., 0] - a[..., 0] * d[..., 1]) / across
        # A vertex on its ray belongs to both of its edges, whatever is rounded.
        t = np.where((s >= -1e-3) & (s <= 1 + 1e-3) & (t > 0) & np.isfinite(t), t, 0)
        np.maximum.at(reach, owner[rows], t)
    return Stars(origins[:, None] + reach[:, :, None] * rays, origins, centers)


def _origins(rings: Rings, centers: F64, n_rays: int) -> F64:
    """The point from which the vertices lie at a star's angles, as those of StarDist do.

    Dropping vertices and scaling an outline leave it there. Any other outline has no such point:
    its centroid stands in.
    """
    found = centers.copy()
    many = np.flatnonzero(rings.counts >= _FEWEST)
    if not len(many):
        return found
    left = many
    radius = np.sqrt(np.add.reduceat(_squares(rings, centers), rings.offsets[:-1]) / rings.counts)
    # A start leads to the point from within half an angle of it.
    for dx, dy in _STARTS:
        if not len(left):
            break
        part = rings.take(left)
        start = centers[left] + radius[left, None] * (dx, dy)
        points, off = _solved(part, start, n_rays)
        good = off <= 0.02 + _TOLERANCE * radius[left]
        good &= np.linalg.norm(points - centers[left], axis=1) < radius[left]
        found[left[good]] = points[good]
        left = left[~good]
    return found


def _solved(rings: Rings, start: F64, n_rays: int) -> tuple[F64, F64]:
    """Points by least squares, their vertices' angles being the nearest of a star's; and misfit."""
    owner = np.repeat(np.arange(len(rings)), rings.counts)
    first = rings.offsets[:-1]
    shift = rings.coords - start[owner]
    points = np.zeros_like(start)
    off = np.zeros(len(rings))
    for _ in range(_ROUNDS):
        x, y = (shift - points[owner]).T
        step = 2 * np.pi / n_rays
        angle = np.rint(np.arctan2(y, x) / step) * step
        # A vertex lies on its ray where it is on the line with this normal.
        nx, ny = -np.sin(angle), np.cos(angle)
        along = nx * shift[:, 0] + ny * shift[:, 1]
        xx, xy, yy, bx, by = (
            np.add.reduceat(v, first) for v in (nx * nx, nx * ny, ny * ny, nx * along, ny * along)
        )
        scale = np.maximum(xx * yy - xy * xy, 1e-9)
        points = np.stack([(yy * bx - xy * by) / scale, (xx * by - xy * bx) / scale], axis=1)
        misfit = np.abs(along - nx * points[owner, 0] - ny * points[owner, 1])
        off = np.maximum.reduceat(misfit, first)
    return start + points, off


def _squares(rings: Rings, centers: F64) -> F64:
    away = rings.coords - np.repeat(centers, rings.counts, axis=0)
    squares: F64 = (away**2).sum(axis=1)
    return squares
