"""Rectangles of the planes of an OME-TIFF, however large the file is."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import SlideError
from lymphinfer.slides.source import FileSource


class Planes:
    """A level of an OME-TIFF's largest image, plane by plane. Threads may share it.

    Parameters
    ----------
    path : Path
    level : int
        Of the pyramid; 0 is the finest.

    Attributes
    ----------
    size : tuple of int
        (width, height), px.
    level_sizes : tuple of tuple of int
        Of every level of the pyramid.

    Raises
    ------
    SlideError
        No such image.
    """

    def __init__(self, path: Path, level: int = 0) -> None:
        from tifffile import TiffFile

        self.path = path
        try:
            with TiffFile(path) as tif:
                series = max(tif.series, key=lambda image: int(np.prod(image.shape)))
                shapes = [dict(zip(one.axes, one.shape, strict=True)) for one in series.levels]
                self._pages: list[Any] = list(series.levels[level].pages)
                # Built on first use, which threads must not race for.
                _ = [page.keyframe.decode for page in self._pages]
            self._source = FileSource(path)
        # tifffile raises whatever a damaged file leads it into.
        except Exception as error:
            raise SlideError(
                f"{path}: cannot be read as a TIFF ({error}). Download it again."
            ) from error
        self.level_sizes = tuple((int(s.get("X", 0)), int(s.get("Y", 0))) for s in shapes)
        self.size: tuple[int, int] = self.level_sizes[level]

    def __len__(self) -> int:
        return len(self._pages)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read_plane(self, plane: int, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        """Read a rectangle of a plane.

        Parameters
        ----------
        plane : int
        x, y, width, height : int
            Rectangle, px of the level; any.

        Returns
        -------
        ndarray, (height, width)
            Of the file's type; 0 outside the image.

        Raises
        ------
        SlideError
            The file's data cannot be decoded there.
        """
        page = self._pages[plane]
        key = page.keyframe
        tile_w, tile_h = (
            (key.tilewidth, key.tilelength) if key.is_tiled else (key.imagewidth, key.rowsperstrip)
        )
        columns = -(-key.imagewidth // tile_w)
        out = np.zeros((height, width), key.dtype)
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
        self._source.close()

    def _segment(self, page: Any, index: int) -> NDArray[Any]:
        try:
            offset, count = int(page.dataoffsets[index]), int(page.databytecounts[index])
            pixels, _, shape = page.keyframe.decode(self._source.read(offset, count), index)
        # Each codec has exceptions of its own.
        except Exception as error:
            raise SlideError(
                f"{self.path}: tile {index} of a channel cannot be decoded ({error}). The file is "
                "damaged: download it again."
            ) from error
        if pixels is None:
            return np.zeros((1, 1), page.keyframe.dtype)
        return np.asarray(pixels[0, : shape[1], : shape[2], 0])
