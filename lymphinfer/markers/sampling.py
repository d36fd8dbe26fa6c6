"""Maps read between their pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
# Of maps that are read at once: the values of some points at all channels take a few megabytes.
_POINTS = 8192


def bilinear(maps: F32, x: NDArray[np.floating], y: NDArray[np.floating]) -> F32:
    """Values of maps at points, by bilinear interpolation.

    Parameters
    ----------
    maps : ndarray of float32, (C, h, w)
    x, y : ndarray of float, (N,)
        Pixel centres at whole numbers; a point beyond the maps takes the border's values.

    Returns
    -------
    ndarray of float32, (N, C)
    """
    height, width = maps.shape[1:]
    found = np.empty((len(x), len(maps)), np.float32)
    flat = maps.reshape(len(maps), -1)
    for start in range(0, len(x), _POINTS):
        part = slice(start, start + _POINTS)
        u = np.clip(np.asarray(x[part], np.float32), 0, width - 1)
        v = np.clip(np.asarray(y[part], np.float32), 0, height - 1)
        left, top = (np.minimum(p.astype(np.int64), n - 1) for p, n in ((u, width), (v, height)))
        right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        across, down = u - left, v - top
        total = flat[:, top * width + left] * ((1 - across) * (1 - down))
        total += flat[:, top * width + right] * (across * (1 - down))
        total += flat[:, below * width + left] * ((1 - across) * down)
        total += flat[:, below * width + right] * (across * down)
        found[part] = total.T
    return found
