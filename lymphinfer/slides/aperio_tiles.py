"""JPEG tiles of an Aperio slide, decoded without OpenSlide's canvas.

OpenSlide paints each tile on a canvas with transparency, which takes three times as long as to
decode it. The tiles are decoded here instead, to the same pixels, where OpenSlide would show them
as they are; what differs, is missing or damaged is left to OpenSlide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import SlideError
from lymphinfer.slides.jpeg_colours import Colours, jpeg_colours
from lymphinfer.slides.level_proof import remembered
from lymphinfer.slides.source import FileSource
from lymphinfer.slides.tiff_colours import PageColours
from lymphinfer.slides.tiff_level import SegmentStore, TiffLevel

Pixels = NDArray[np.uint8]
Look = Callable[[int, tuple[int, int], tuple[int, int]], Pixels | None]
"""RGB by OpenSlide of a level's rectangle at a level-0 (x, y), of a size in px of the level."""

# Decoded tiles that are held for the next read: a row of them beside a region.
_HELD_BYTES = 32 << 20
_JPEG = 7
_RGB_TAG, _YCBCR_TAG = 2, 6
_START = b"\xff\xd8"
# A marker of 14 bytes, of version 100; the byte behind it is the colour transform.
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_TRANSFORM = {Colours.RGB: b"\0", Colours.YCBCR: b"\1"}


def whole_downsample(downsample: float) -> int | None:
    """Level-0 px per px of a level; None where that is no whole number."""
    return round(downsample) if abs(downsample - round(downsample)) < 1e-9 else None


@dataclass(frozen=True)
class StrictColours(PageColours):
    """JPEG of which no damage passes.

    libjpeg warns of damaged data and goes on with grey. For OpenSlide that is an error;
    imagecodecs does not tell of it.

    Attributes
    ----------
    shape : tuple of int
        (rows, columns, 3) of each segment.
    """

    shape: tuple[int, int, int] = (0, 0, 3)

    def decode(self, data: bytes, tables: bytes | None) -> Pixels:
        """Decode a segment, (rows, columns, 3); ValueError for what OpenSlide may refuse."""
        from simplejpeg import decode_jpeg

        said = jpeg_colours(data, tables)
        if self.jpeg is None or said not in (None, self.jpeg):
            raise ValueError(f"a tile of {said} in an image of {self.jpeg}")
        if not data.startswith(_START):
            raise ValueError("a tile that is no JPEG")
        word = _ADOBE + _TRANSFORM[self.jpeg] if said is None else b""
        whole = _START + word + (tables or b"")[2:-2] + data[2:]
        pixels = np.asarray(decode_jpeg(whole, "RGB", strict=True))
        if pixels.shape != self.shape:
            raise ValueError(f"a tile of {pixels.shape} where {self.shape} is due")
        return pixels


class AperioLevel(TiffLevel):
    """A level of JPEG tiles. Threads may share it.

    Parameters
    ----------
    page : tifffile.TiffPage
    store : SegmentStore
        Where the bytes come from.

    Raises
    ------
    SlideError
        The page's data lies partly beyond the end of the file.
    """

    def __init__(self, page: Any, store: SegmentStore) -> None:
        super().__init__((page,), store)
        shape = (self._segment_height, self._segment_width, 3)
        self.colours = StrictColours(self.colours.jpeg, shape=shape)
        sizes = np.asarray(page.databytecounts[: self._rows * self._columns])
        self._fullest = divmod(int(sizes.argmax()), self._columns)

    def try_read(self, x: int, y: int, width: int, height: int) -> Pixels | None:
        """Read a rectangle as OpenSlide would.

        Parameters
        ----------
        x, y, width, height : int
            Rectangle, px of this level; any.

        Returns
        -------
        ndarray of uint8, (height, width, 3), or None
            RGB, white outside the level; None where a tile cannot be decoded, and OpenSlide has to
            say what is wrong.
        """
        try:
            return self.read(x, y, width, height)
        except SlideError:
            return None

    def is_openslide_s(self, look: Callable[[tuple[int, int], tuple[int, int]], Any]) -> bool:
        """Whether OpenSlide shows the tile of most detail just so.

        Its JPEG library may be another, and round otherwise.

        Parameters
        ----------
        look : callable
            RGB by OpenSlide, or None, of a rectangle by (x, y) and (width, height), px of the
            level.
        """
        y, x = self._fullest[0] * self._segment_height, self._fullest[1] * self._segment_width
        width = min(self._segment_width, self.width - x)
        height = min(self._segment_height, self.height - y)
        ours = self.try_read(x, y, width, height)
        if ours is None:
            return False
        seen = look((x, y), (width, height))
        return seen is not None and np.array_equal(ours, seen)


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
        store = SegmentStore(FileSource(path), _HELD_BYTES)
        with TiffFile(path) as tif:
            every: list[Any] = list(tif.pages)
            pages = [page for page in every if page.is_tiled]
            # Every tiled page is a level to OpenSlide, in the file's order.
            fits = [(page.imagewidth, page.imagelength) for page in pages] == list(sizes)
            # It fills a tile that is missing, and those below it, from the level above.
            if not fits or any(0 in page.databytecounts for page in pages):
                pages = []
            for index, page in enumerate(pages):
                whole = whole_downsample(downsamples[index])
                if whole is None or not _is_plain_jpeg(page):
                    continue
                level = AperioLevel(page, store)
                # OpenSlide goes by the tag alone.
                tagged = Colours.YCBCR if page.photometric == _YCBCR_TAG else Colours.RGB
                key = (str(path), store.source.version, "tiles", index)
                shown = partial(_shown, look, index, whole)
                if level.colours.jpeg is tagged and remembered(
                    key, partial(level.is_openslide_s, shown)
                ):
                    levels[index] = level
    except Exception:
        levels = {}
    if store is not None and not levels:
        store.close()
        store = None
    return store, levels


def _shown(
    look: Look, index: int, downsample: int, place: tuple[int, int], size: tuple[int, int]
) -> Pixels | None:
    return look(index, (place[0] * downsample, place[1] * downsample), size)


def _is_plain_jpeg(page: Any) -> bool:
    return bool(
        page.compression == _JPEG
        and page.photometric in (_RGB_TAG, _YCBCR_TAG)
        and page.planarconfig == 1
        and page.samplesperpixel == 3
        and page.bitspersample == 8
    )
