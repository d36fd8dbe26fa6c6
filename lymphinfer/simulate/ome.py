"""OME-TIFF files as ORION's: tiled, pyramidal, pixel size in the OME-XML alone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
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
            levels.append(np.stack([halved(plane, y - 1, x - 1) for plane in last]))
        else:
            levels.append(halved(last, y, x))
    return levels


def _every_second(image: NDArray[Any], y: int, x: int, dy: int, dx: int) -> NDArray[Any]:
    cut = [slice(None)] * image.ndim
    cut[y] = slice(dy, image.shape[y] // 2 * 2, 2)
    cut[x] = slice(dx, image.shape[x] // 2 * 2, 2)
    return image[tuple(cut)]


def halved(image: NDArray[Any], y: int, x: int) -> NDArray[Any]:
    """Halve an image by means of 2 x 2 pixels, rounded; `y` and `x` are its axes."""
    total = _every_second(image, y, x, 0, 0).astype(np.uint32)
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        total += _every_second(image, y, x, dy, dx)
    return ((total + 2) // 4).astype(image.dtype)


def write_ome_levels(
    path: Path,
    levels: Sequence[NDArray[Any] | Iterator[Any]],
    shapes: Sequence[tuple[int, ...]],
    dtype: type[np.generic] | np.dtype[Any],
    axes: str,
    mpp: float,
    *,
    compression: str,
    level: int,
    channels: tuple[str, ...] = (),
    tile_px: int = 512,
) -> None:
    """Write a pyramidal OME-TIFF level by level, the same bytes for the same data and file name.

    The TIFF resolution tags say nothing, as ORION's: the pixel size stands in the OME-XML.

    Parameters
    ----------
    path : Path
        The file.
    levels : sequence of ndarray or of iterator
        Each level's image, or its tiles row by row (of one channel after the other): arrays of
        ``tile_px`` a side, or bytes that are encoded already. Of an iterator nothing but the tile
        at hand is held in memory.
    shapes : sequence of tuple of int
        Of the levels, in the order of `axes`.
    dtype : numpy type
    axes : str
        Their axes: ``"YXS"`` or ``"SYX"`` for RGB, ``"CYX"``, ``"YX"``.
    mpp : float
        Pixel size of level 0, µm.
    compression : str
        ``"jpeg"`` or ``"zlib"``.
    level : int
        JPEG quality or zlib level.
    channels : tuple of str
        Channel names.
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
        "dtype": dtype,
    }
    if rgb:
        options["planarconfig"] = "separate" if axes[0] == "S" else "contig"
    with atomic_write(path) as file, tifffile.TiffWriter(file, bigtiff=True, ome=True) as tiff:
        for i, (data, shape) in enumerate(zip(levels, shapes, strict=True)):
            place: dict[str, Any] = {"metadata": None, "subfiletype": 1}
            if i == 0:
                place = {"metadata": metadata, "subifds": len(levels) - 1}
            tiff.write(data, shape=shape, **place, **options)


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
    """Write a pyramidal OME-TIFF of an image in memory; see `write_ome_levels`.

    Parameters
    ----------
    path : Path
        The file.
    image : ndarray
        Level 0.
    axes, mpp, compression, level, channels, tile_px
        See `write_ome_levels`.
    nearest : bool
        Lower levels take every second pixel: labels must not be averaged.

    Raises
    ------
    ResultError
        The file cannot be written.
    """
    levels = _pyramid(image, axes, tile_px, nearest=nearest)
    write_ome_levels(
        path,
        levels,
        [part.shape for part in levels],
        image.dtype,
        axes,
        mpp,
        compression=compression,
        level=level,
        channels=channels,
        tile_px=tile_px,
    )
