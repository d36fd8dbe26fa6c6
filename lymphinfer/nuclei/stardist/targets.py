"""What the network learns at each output pixel, from a map of instances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Targets(NamedTuple):
    """Targets of one crop on the output grid (h = H / grid, w = W / grid).

    Attributes
    ----------
    prob : ndarray of float32, (h, w)
        Distance to the instance's boundary, 1 at its innermost point: the object probability, and
        the weight of the distance loss.
    dist : ndarray of float32, (n_rays, h, w)
        Distances along the rays, input px.
    instances : ndarray of int32, (h, w)
        Instance labels, 0 for background.
    """

    prob: NDArray[np.float32]
    dist: NDArray[np.float32]
    instances: NDArray[np.int32]


def object_probability(instances: NDArray[np.integer]) -> NDArray[np.float32]:
    """Normalised distance to the instance's boundary (stardist's ``edt_prob``).

    Scale and rotation leave it as it is, so it is computed once an image and resampled with it.

    Parameters
    ----------
    instances : ndarray of int, (H, W)
        0 is background.

    Returns
    -------
    ndarray of float32, (H, W)
        0 in the background, 1 at each instance's innermost point.
    """
    from stardist.utils import edt_prob

    return np.asarray(edt_prob(instances), dtype=np.float32)


def star_targets(
    instances: NDArray[np.integer],
    prob: NDArray[np.float32],
    *,
    n_rays: int,
    grid: int,
    margin: int = 0,
) -> Targets:
    """Targets of a crop, on the output grid.

    Parameters
    ----------
    instances : ndarray of int, (H, W)
        Labels up to 65,535; 0 is background.
    prob : ndarray of float32, (H, W)
        `object_probability` of the same crop.
    n_rays, grid : int
        As in `StarDistConfig`.
    margin : int
        Pixels cut off on each side of the result (a multiple of `grid`): nuclei that reach over
        the crop's edge keep their true distances.

    Returns
    -------
    Targets
    """
    from stardist.geometry import star_dist

    step = slice(margin, -margin or None, grid)
    inner = slice(margin // grid, -(margin // grid) or None)
    dist = star_dist(instances.astype(np.uint16), n_rays=n_rays, grid=(grid, grid))
    return Targets(
        prob=np.ascontiguousarray(prob[step, step]),
        dist=np.ascontiguousarray(dist[inner, inner].transpose(2, 0, 1), dtype=np.float32),
        instances=np.ascontiguousarray(instances[step, step], dtype=np.int32),
    )
