"""What HoVer-Net learns: nucleus pixels, distances to each nucleus's centre, types."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def distance_maps(instances: NDArray[np.integer]) -> NDArray[np.float32]:
    """Horizontal and vertical distance of each pixel to its nucleus's centre of mass.

    Each side of a nucleus is scaled on its own, so that it runs to -1 or 1 whatever the nucleus's
    size and shape (Graham et al. 2019, section 3.1 and their published code).

    Parameters
    ----------
    instances : ndarray of int, (H, W)
        Labels; 0 and negative values are background.

    Returns
    -------
    ndarray of float32, (2, H, W)
        Horizontal, vertical, in [-1, 1]; 0 outside nuclei.
    """
    from scipy.ndimage import find_objects

    maps = np.zeros((2, *instances.shape), np.float32)
    for label, box in enumerate(find_objects(np.maximum(instances, 0)), start=1):
        if box is None:
            continue
        rows, columns = np.nonzero(instances[box] == label)
        for channel, at in enumerate((columns, rows)):
            offset = at - np.rint(at.mean())
            for side in (offset < 0, offset > 0):
                if side.any():
                    offset[side] /= np.abs(offset[side]).max()
            maps[channel][box][rows, columns] = offset
    return maps


def kind_map(instances: NDArray[np.integer], leukocyte: NDArray[np.integer]) -> NDArray[np.int64]:
    """Type of each pixel: 0 background, 1 another nucleus, 2 leukocyte, -1 unknown.

    Parameters
    ----------
    instances : ndarray of int, (H, W)
        Labels, negative where unknown.
    leukocyte : ndarray of int, (N + 1,)
        By label: 1, 0, or -1 where unknown.
    """
    by_label = np.where(leukocyte < 0, -1, leukocyte + 1).astype(np.int64)
    by_label[0] = 0
    return np.where(instances < 0, -1, by_label[np.maximum(instances, 0)])
