"""Outlines of any number of vertices as stars of equal rays, as detectors describe nuclei."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lymphinfer.cells.outlines import Rings, centroids

N_RAYS = 32
_AT_ONCE = 4096


def stars(rings: Rings, n_rays: int = N_RAYS) -> NDArray[np.float64]:
    """Where rays from each centroid leave the outline for good.

    Parameters
    ----------
    rings : Rings
        N outlines.
    n_rays : int
        Ray k points to angle 2πk / n_rays, as in StarDist.

    Returns
    -------
    ndarray of float64, (N, n_rays, 2)
        In the frame of the outlines. A ray that meets no edge (of a nucleus that is bent around its
        centroid) ends at the centroid.
    """
    centers = centroids(rings) if len(rings) else np.empty((0, 2))
    angles = np.linspace(0, 2 * np.pi, n_rays, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    reach = np.zeros((len(rings), n_rays))
    owner = np.repeat(np.arange(len(rings)), rings.counts)
    here = rings.coords - centers[owner]
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
        t = np.where((s >= -1e-9) & (s <= 1 + 1e-9) & (t > 0) & np.isfinite(t), t, 0)
        np.maximum.at(reach, owner[rows], t)
    found: NDArray[np.float64] = centers[:, None] + reach[:, :, None] * rays
    return found
