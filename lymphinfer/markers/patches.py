"""Square patches around nuclei, cut from a tile already in memory."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray


def resampled(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Pixels at another size, each the mean of the area that it covers.

    Parameters
    ----------
    pixels : ndarray of uint8, (H, W, 3)
    scale : float
        New pixels for each old one.

    Returns
    -------
    ndarray of uint8, (H * scale, W * scale, 3)
        The last row and column may reach over the edge, where the picture ends.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    size = max(math.ceil(width * scale), 1), max(math.ceil(height * scale), 1)
    box = (0, 0, min(size[0] / scale, width), min(size[1] / scale, height))
    # A box that ends within the last pixel would stretch the picture: it is drawn out instead.
    pad = math.ceil(size[1] / scale) - height, math.ceil(size[0] / scale) - width
    if max(pad) > 0:
        pixels = np.pad(pixels, ((0, max(pad[0], 0)), (0, max(pad[1], 0)), (0, 0)), mode="edge")
        box = (0, 0, size[0] / scale, size[1] / scale)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BOX, box=box)
    return np.asarray(image)


def cut_patches(
    tile: NDArray[np.uint8], centers_tile: NDArray[np.floating], size_px: int = 112
) -> NDArray[np.uint8]:
    """Cut one patch a nucleus.

    Parameters
    ----------
    tile : ndarray of uint8, (H, W, 3)
        RGB at the working pixel size, halo included.
    centers_tile : ndarray of float, (N, 2)
        Centroids (x, y) in tile pixels, pixel centres at whole numbers.
    size_px : int
        Side of a patch.

    Returns
    -------
    ndarray of uint8, (N, size_px, size_px, 3)
        The pixel nearest to the centroid lies at (size_px // 2, size_px // 2). White beyond the
        tile.
    """
    centers = np.rint(np.asarray(centers_tile, dtype=np.float64)).astype(np.int64).reshape(-1, 2)
    if not len(centers):
        return np.empty((0, size_px, size_px, 3), np.uint8)
    first = centers - size_px // 2
    height, width = tile.shape[:2]
    before = np.maximum(0, -first.min(axis=0))
    after = np.maximum(0, first.max(axis=0) + size_px - (width, height))
    if before.any() or after.any():
        tile = np.pad(
            tile,
            ((before[1], after[1]), (before[0], after[0]), (0, 0)),
            constant_values=255,
        )
        first = first + before
    # A window of all channels: one place along them.
    windows = sliding_window_view(tile, (size_px, size_px, tile.shape[2]))[:, :, 0]
    return np.ascontiguousarray(windows[first[:, 1], first[:, 0]])
