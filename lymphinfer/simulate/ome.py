"""OME-TIFF files as ORION's: tiled, pyramidal, pixel size in the OME-XML alone."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write


def _pyramid(image: NDArray[Any], axes: str, tile_px: int, *, nearest: bool) -> list[NDArray[Any]]:
    """Level 0 and its halvings, until one tile holds the image."""
    levels = [image]
    y, x = axes.index("Y"), axes.index("X")
    while max(levels[-1].shape[y], levels[-1].shape[x]) > tile_px:
        last = levels[-1]
        if nearest:
            levels.append(np.ascontiguousarray(_every_second(last, y, x, 0, 0)))
        elif axes[0] in "CS":
            # Plane by plane: sums of all channels at once would need twice the image's memory.
            levels.append(np.stack([_halved(plane, y - 1, x - 1) for plane in last]))
        else:
            levels.append(_halved(last, y, x))
    return levels


def _every_second(image: NDArray[Any], y: int, x: int, dy: int, dx: int) -> NDArray[Any]:
    cut = [slice(None)] * image.ndim
    cut[y] = slice(dy, image.shape[y] // 2 * 2, 2)
    cut[x] = slice(dx, image.shape[x] // 2 * 2, 2)
    return image[tuple(cut)]


def _halved(image: NDArray[Any], y: int, x: int) -> NDArray[Any]:
    """Means of 2 x 2 pixels, rounded."""
    total = _every_second(image, y, x, 0, 0).astype(np.uint32)
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        total += _every_second(image, y, x, dy, dx)
    return ((total + 2) // 4).astype(image.dtype)


def write_ome_tiff(
    path: Path,
    image: NDArray[Any],
    axes: str,
    mpp: float,
    *,
    compression: str,
    level: int,
    channels: tuple[str, ...] = (),
    nearest: bool = False,
    tile_px: int = 512,
) -> None:
    """Write a pyramidal OME-TIFF, the same bytes for the same image and file name.

    The TIFF resolution tags say nothing, as ORION's: the pixel size stands in the OME-XML.

    Parameters
    ----------
    path : Path
        The file.
    image : ndarray
        Level 0.
    axes : str
        Its axes: ``"YXS"`` or ``"SYX"`` for RGB, ``"CYX"``, ``"YX"``.
    mpp : float
        Pixel size, µm.
    compression : str
        ``"jpeg"`` or ``"zlib"``.
    level : int
        JPEG quality or zlib level.
    channels : tuple of str
        Channel names.
    nearest : bool
        Lower levels take every second pixel: labels must not be averaged.
    tile_px : int
        Side of a tile.

    Raises
    ------
    ResultError
        The file cannot be written.
    """
    metadata: dict[str, Any] = {
        "axes": axes,
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, path.name)),
    }
    if channels:
        metadata["Channel"] = {"Name": list(channels)}
    rgb = "S" in axes
    options: dict[str, Any] = {
        "tile": (tile_px, tile_px),
        "compression": compression,
        "compressionargs": {"level": level},
        "photometric": "rgb" if rgb else "minisblack",
        "maxworkers": 1,
    }
    if rgb:
        options["planarconfig"] = "separate" if axes[0] == "S" else "contig"
    levels = _pyramid(image, axes, tile_px, nearest=nearest)
    with atomic_write(path) as file, tifffile.TiffWriter(file, bigtiff=True, ome=True) as tiff:
        tiff.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for lower in levels[1:]:
            tiff.write(lower, subfiletype=1, metadata=None, **options)
