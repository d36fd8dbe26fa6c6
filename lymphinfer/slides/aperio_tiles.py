"""JPEG tiles of an Aperio slide, decoded without OpenSlide's painting but on its word.

OpenSlide composes a region on a canvas with transparency, which takes three times as long as to
decode the tiles. imagecodecs decodes them to the same pixels, but says nothing of data of which
libjpeg warns and goes on with grey, and for OpenSlide that is an error. So OpenSlide is asked for a
small patch of each tile: it decodes the tile whole, and paints next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import SlideError
from lymphinfer.slides.jpeg_colours import Colours
from lymphinfer.slides.source import FileSource
from lymphinfer.slides.tiff_level import SegmentStore, TiffLevel

Pixels = NDArray[np.uint8]
Look = Callable[[int, tuple[int, int], tuple[int, int]], Pixels | None]
"""RGB by OpenSlide of a level's rectangle at a level-0 (x, y), of a size in px of the level."""

_JPEG = 7
_RGB_TAG, _YCBCR_TAG = 2, 6
# As large as the blocks in which JPEG stores colour at half resolution.
_PATCH_PX = 16


def whole_downsample(downsample: float) -> int | None:
    """Level-0 px per px of a level; None where that is no whole number."""
    return round(downsample) if abs(downsample - round(downsample)) < 1e-9 else None


class _UnprovedError(Exception):
    """OpenSlide reads a tile otherwise, or not at all."""


class AperioLevel(TiffLevel):
    """A level of JPEG tiles. Threads may share it.

    Parameters
    ----------
    index : int
        Its number in OpenSlide.
    downsample : int
        Level-0 px per px.
    page : tifffile.TiffPage
    store : SegmentStore
        Where the bytes come from.
    look : Look
        None where OpenSlide cannot read.

    Raises
    ------
    SlideError
        The page's data lies partly beyond the end of the file.
    """

    def __init__(
        self, index: int, downsample: int, page: Any, store: SegmentStore, look: Look
    ) -> None:
        super().__init__((page,), store)
        self._index, self._downsample = index, downsample
        self._look = look

    def read_proved(self, x: int, y: int, width: int, height: int) -> Pixels | None:
        """Read a rectangle as OpenSlide would.

        Parameters
        ----------
        x, y, width, height : int
            Rectangle, px of this level; any.

        Returns
        -------
        ndarray of uint8, (height, width, 3), or None
            RGB, white outside the level; None where OpenSlide has to read it itself, since a tile
            is missing, damaged, or not what OpenSlide shows.
        """
        try:
            return self.read(x, y, width, height)
        except (SlideError, _UnprovedError):
            return None

    def _decode(self, page: Any, index: int) -> NDArray[Any]:
        pixels = super()._decode(page, index)
        # OpenSlide fills a tile that is missing from the level above.
        if pixels is None or pixels.shape != (self._segment_height, self._segment_width, 3):
            raise _UnprovedError
        row, column = divmod(index, self._columns)
        y, x = row * self._segment_height, column * self._segment_width
        width, height = min(_PATCH_PX, self.width - x), min(_PATCH_PX, self.height - y)
        location = x * self._downsample, y * self._downsample
        seen = self._look(self._index, location, (width, height))
        if seen is None or not np.array_equal(pixels[:height, :width], seen):
            raise _UnprovedError
        return pixels


def aperio_levels(
    path: Path, sizes: Sequence[tuple[int, int]], downsamples: Sequence[float], look: Look
) -> tuple[SegmentStore | None, dict[int, AperioLevel]]:
    """Find the levels whose tiles can be decoded here.

    Parameters
    ----------
    path : Path
        An Aperio slide.
    sizes : sequence of (int, int)
        (width, height) of all levels as OpenSlide counts them, px.
    downsamples : sequence of float
        Of the same. OpenSlide shifts a level by fractions of a pixel where it is not whole, and
        reads it alone.
    look : Look
        None where OpenSlide cannot read.

    Returns
    -------
    store : SegmentStore or None
        To be closed with the slide; None where no level was found.
    levels : dict of int to AperioLevel
        By OpenSlide's number of the level.
    """
    from tifffile import TiffFile

    store = None
    levels: dict[int, AperioLevel] = {}
    # What tifffile cannot index OpenSlide may still read.
    try:
        store = SegmentStore(FileSource(path))
        with TiffFile(path) as tif:
            every: list[Any] = list(tif.pages)
            pages = [page for page in every if page.is_tiled]
            # Every tiled page is a level to OpenSlide, in the file's order.
            if [(page.imagewidth, page.imagelength) for page in pages] == list(sizes):
                for index, page in enumerate(pages):
                    whole = whole_downsample(downsamples[index])
                    if whole is None or not _is_plain_jpeg(page):
                        continue
                    level = AperioLevel(index, whole, page, store, look)
                    # OpenSlide goes by the tag alone.
                    tagged = Colours.YCBCR if page.photometric == _YCBCR_TAG else Colours.RGB
                    if level.colours.jpeg is tagged:
                        levels[index] = level
    except Exception:
        levels = {}
    if store is not None and not levels:
        store.close()
        store = None
    return store, levels


def _is_plain_jpeg(page: Any) -> bool:
    return (
        page.compression == _JPEG
        and page.photometric in (_RGB_TAG, _YCBCR_TAG)
        and page.planarconfig == 1
        and page.samplesperpixel == 3
        and page.bitspersample == 8
    )
