"""Small rectangles of one channel of an immunofluorescence image, however large the file is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import SlideError
from lymphinfer.orion.manifest import CHANNELS


class FluorescenceImage:
    """Level 0 of an OME-TIFF of ORION's 19 channels, uint16. Threads may share it.

    Parameters
    ----------
    path : Path
        The ``*-zlib.ome.tiff``.
    size_level0 : tuple of int
        (width, height) of the H&E, whose frame it must share, px.

    Raises
    ------
    SlideError
        No such image, or one of another size.
    """

    def __init__(self, path: Path, size_level0: tuple[int, int]) -> None:
        from tifffile import TiffFile

        self.path = path
        self._lock = threading.Lock()
        try:
            self._tif = TiffFile(path)
            series = max(self._tif.series, key=lambda image: int(np.prod(image.shape)))
            axes = dict(zip(series.axes, series.shape, strict=True))
            self._pages: list[Any] = list(series.levels[0].pages)
        # tifffile raises whatever a damaged file leads it into.
        except Exception as error:
            raise SlideError(
                f"{path}: cannot be read as a TIFF ({error}). Download it again."
            ) from error
        found = (axes.get("X", 0), axes.get("Y", 0))
        if len(self._pages) != len(CHANNELS) or found != size_level0:
            self.close()
            raise SlideError(
                f"{path}: {len(self._pages)} channels of {found[0]:,} x {found[1]:,} px, where "
                f"{len(CHANNELS)} of {size_level0[0]:,} x {size_level0[1]:,} px, as the H&E has, "
                "are expected. It belongs to another slide: download it again."
            )

    def read(self, channel: str, x: int, y: int, width: int, height: int) -> NDArray[np.uint16]:
        """Read a rectangle of a channel.

        Parameters
        ----------
        channel : str
            One of ORION's channels.
        x, y, width, height : int
            Rectangle, level-0 px; any.

        Returns
        -------
        ndarray of uint16, (height, width)
            0 outside the image.

        Raises
        ------
        SlideError
            The file's data cannot be decoded there.
        """
        page = self._pages[CHANNELS.index(channel)]
        key = page.keyframe
        tile_w, tile_h = (
            (key.tilewidth, key.tilelength) if key.is_tiled else (key.imagewidth, key.rowsperstrip)
        )
        columns = -(-key.imagewidth // tile_w)
        out = np.zeros((height, width), np.uint16)
        for row in range(max(y, 0) // tile_h, (min(y + height, key.imagelength) - 1) // tile_h + 1):
            for col in range(
                max(x, 0) // tile_w, (min(x + width, key.imagewidth) - 1) // tile_w + 1
            ):
                tile = self._segment(page, row * columns + col)
                top, left = row * tile_h, col * tile_w
                bottom = min(y + height, top + tile.shape[0], key.imagelength)
                right = min(x + width, left + tile.shape[1], key.imagewidth)
                y0, x0 = max(y, top), max(x, left)
                out[y0 - y : bottom - y, x0 - x : right - x] = tile[
                    y0 - top : bottom - top, x0 - left : right - left
                ]
        return out

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        self._tif.close()

    def _segment(self, page: Any, index: int) -> NDArray[np.uint16]:
        try:
            with self._lock:
                self._tif.filehandle.seek(int(page.dataoffsets[index]))
                data = self._tif.filehandle.read(int(page.databytecounts[index]))
                pixels, _, shape = page.keyframe.decode(data, index)
        # Each codec has exceptions of its own.
        except Exception as error:
            raise SlideError(
                f"{self.path}: tile {index} of a channel cannot be decoded ({error}). The file is "
                "damaged: download it again."
            ) from error
        if pixels is None:
            return np.zeros((1, 1), np.uint16)
        return np.asarray(pixels[0, : shape[1], : shape[2], 0], np.uint16)
