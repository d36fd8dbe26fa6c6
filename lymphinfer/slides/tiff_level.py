"""One level of a TIFF: decode only the tiles or strips that a rectangle needs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import SlideError
from lymphinfer.slides.depth import Depth, measured_depth, stated_depth
from lymphinfer.slides.source import ByteSource
from lymphinfer.slides.tiff_colours import PageColours, page_colours
from lymphinfer.slides.tiff_header import page_end

Pixels = NDArray[np.uint8]
# A strip or tile above this size is decoded by one thread at a time, for memory's sake.
_LARGE_SEGMENT_PX = 1 << 24
# Segments by which the depth of colours is judged.
_SAMPLED = 25


class SegmentStore:
    """Bytes of a TIFF file, and its last decoded segments. Threads may share it.

    Parameters
    ----------
    source : ByteSource
        The file.
    max_bytes : int
        Bound on the decoded segments kept; the newest stays even if it alone is larger.
    """

    def __init__(self, source: ByteSource, max_bytes: int = 64 << 20) -> None:
        self.source = source
        self.max_bytes = max_bytes
        self._cache: OrderedDict[tuple[int, int], Pixels | None] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._held_bytes = 0
        self.large_lock = threading.Lock()

    def cached(self, key: tuple[int, int]) -> tuple[bool, Pixels | None]:
        """Whether a segment is held, and its pixels (None: the file holds nothing there)."""
        with self._cache_lock:
            if key not in self._cache:
                return False, None
            self._cache.move_to_end(key)
            return True, self._cache[key]

    def keep(self, key: tuple[int, int], pixels: Pixels | None) -> None:
        """Hold a decoded segment and let go of the oldest above the bound."""
        with self._cache_lock:
            if key in self._cache:
                return
            self._cache[key] = pixels
            self._held_bytes += 0 if pixels is None else pixels.nbytes
            while self._held_bytes > self.max_bytes and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._held_bytes -= 0 if oldest is None else oldest.nbytes

    def forget(self) -> None:
        """Drop what is held."""
        with self._cache_lock:
            self._cache.clear()
            self._held_bytes = 0

    def close(self) -> None:
        """Close the file and drop what is held."""
        self.source.close()
        self.forget()


class TiffLevel:
    """One level: a page of interleaved or planar samples, or a page for each channel.

    Parameters
    ----------
    pages : sequence of tifffile.TiffPage or TiffFrame
        One page, or one for each of R, G, B.
    store : SegmentStore
        Where the bytes come from.
    depth : Depth, optional
        How samples of more than 8 bits become colours; measured where it is not given.

    Attributes
    ----------
    depth : Depth or None
        None for samples of 8 bits.

    Raises
    ------
    SlideError
        The page's data lies partly beyond the end of the file.
    """

    def __init__(
        self, pages: Sequence[Any], store: SegmentStore, depth: Depth | None = None
    ) -> None:
        first = pages[0].keyframe
        self.width, self.height = int(first.imagewidth), int(first.imagelength)
        self.is_tiled = bool(first.is_tiled)
        self._segment_width = int(first.tilewidth if self.is_tiled else first.imagewidth)
        rows = int(first.tilelength if self.is_tiled else (first.rowsperstrip or self.height))
        self._segment_height = rows if self.is_tiled else min(rows, self.height)
        self._columns = -(-self.width // self._segment_width)
        self._rows = -(-self.height // self._segment_height)
        self._store = store
        count = self._columns * self._rows
        samples = int(first.samplesperpixel)
        # (page, its first segment, the channels that segment fills)
        self._planes: list[tuple[Any, int, slice]]
        if len(pages) > 1:
            self._planes = [(page, 0, slice(c, c + 1)) for c, page in enumerate(pages)]
            self._samples = len(pages)
        elif samples > 1 and int(first.planarconfig) == 2:
            self._planes = [(pages[0], c * count, slice(c, c + 1)) for c in range(samples)]
            self._samples = samples
        else:
            self._planes = [(pages[0], 0, slice(0, samples))]
            self._samples = samples
        # A damaged height would else be believed, and ask for all memory.
        for page, first_segment, _ in self._planes:
            self._check_listed(page, first_segment + count - 1)
        extra = first.extrasamples
        self._alpha = int(extra[0]) if self._samples == 4 and extra else 0
        for page in pages:
            # The decoder is built on first use, which threads must not race for.
            _ = page.keyframe.decode
            check_whole(page, store.source)
        self.colours: PageColours = page_colours(pages[0], store.source)
        self.depth = depth
        if depth is None and first.dtype is not None and str(first.dtype) != "uint8":
            self.depth = tag_depth(first) or measured_depth(self._samples_of_all())

    def _samples_of_all(self) -> Iterator[NDArray[Any]]:
        """A few segments from all over the image."""
        count = self._columns * self._rows
        for index in np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).astype(int)):
            # Alpha is no colour.
            for page, first, _ in self._planes[:3]:
                samples = self._decode(page, first + int(index))
                if samples is not None:
                    yield samples[..., :3]

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle, white outside the level and where the file holds nothing.

        Parameters
        ----------
        x, y, width, height : int
            Rectangle, px of this level; any.

        Returns
        -------
        ndarray of uint8, (height, width, 3)
            RGB.

        Raises
        ------
        SlideError
            A segment cannot be decoded.
        """
        out = np.full((height, width, self._samples), 255, dtype=np.uint8)
        if self.colours.converts:
            out[..., :3] = self.colours.white
        for row, column in self._segments(x, y, width, height):
            top, left = row * self._segment_height, column * self._segment_width
            for plane, (_, _, channels) in enumerate(self._planes):
                pixels = self._segment(plane, row * self._columns + column)
                if pixels is None:
                    continue
                # Tiles are padded to full size: nothing beyond the level's edge is the slide's.
                y0, y1 = max(y, top), min(y + height, top + pixels.shape[0], self.height)
                x0, x1 = max(x, left), min(x + width, left + pixels.shape[1], self.width)
                out[y0 - y : y1 - y, x0 - x : x1 - x, channels] = pixels[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return _rgb_on_white(self.colours.to_rgb(out), self._alpha)

    def _segments(self, x: int, y: int, width: int, height: int) -> Iterator[tuple[int, int]]:
        # The padding of the last tiles is no part of the level.
        left, right = max(x, 0), min(x + width, self.width)
        top, bottom = max(y, 0), min(y + height, self.height)
        if left >= right or top >= bottom:
            return
        last_row = (bottom - 1) // self._segment_height
        last_column = (right - 1) // self._segment_width
        for row in range(top // self._segment_height, last_row + 1):
            for column in range(left // self._segment_width, last_column + 1):
                yield row, column

    def _colours(self, page: Any, index: int) -> Pixels | None:
        samples = self._decode(page, index)
        if samples is None:
            return None
        return np.ascontiguousarray(samples if self.depth is None else self.depth.to_8_bit(samples))

    def _segment(self, plane: int, index: int) -> Pixels | None:
        page, first, _ = self._planes[plane]
        # Level and plane together are told apart by the page's place in the file.
        key = (int(page.offset), first + index)
        found, pixels = self._store.cached(key)
        if found:
            return pixels
        if self._segment_width * self._segment_height <= _LARGE_SEGMENT_PX:
            pixels = self._colours(page, first + index)
            self._store.keep(key, pixels)
            return pixels
        with self._store.large_lock:
            found, pixels = self._store.cached(key)
            if not found:
                pixels = self._colours(page, first + index)
                self._store.keep(key, pixels)
            return pixels

    def _check_listed(self, page: Any, index: int) -> None:
        if index >= min(len(page.dataoffsets), len(page.databytecounts)):
            raise SlideError(
                f"{self._store.source}: its list of {'tiles' if self.is_tiled else 'strips'} is "
                "shorter than the image. The file is damaged: copy or export it again."
            )

    def _decode(self, page: Any, index: int) -> NDArray[Any] | None:
        """Samples of a segment, of the file's own depth."""
        self._check_listed(page, index)
        offset, count = int(page.dataoffsets[index]), int(page.databytecounts[index])
        if count == 0:
            return None
        try:
            data = self._store.source.read(offset, count)
            if self.colours.decodes:
                return self.colours.decode(data, page.jpegtables)
            pixels, _, shape = page.keyframe.decode(data, index, jpegtables=page.jpegtables)
        # Each codec has exceptions of its own.
        except Exception as error:
            raise SlideError(
                f"{self._store.source}: the {'tile' if self.is_tiled else 'strip'} at byte "
                f"{offset:,} cannot be decoded ({error}). The file is damaged: copy or export it "
                "again."
            ) from error
        if pixels is None:
            return None
        return np.ascontiguousarray(pixels[0, : shape[1], : shape[2]])


def tag_depth(page: Any) -> Depth | None:
    """The depth that a TIFF's tags state; None where they only name the container's."""
    bits = int(page.bitspersample)
    if 8 < bits < 16:
        return stated_depth((1 << bits) - 1, "its tag BitsPerSample")
    largest = page.tags.valueof("MaxSampleValue") or page.tags.valueof("SMaxSampleValue") or 0
    top = int(np.max(largest))
    return stated_depth(top, "its tag MaxSampleValue") if 255 <= top < (1 << 16) - 1 else None


def check_whole(page: Any, source: ByteSource) -> None:
    """Raise SlideError for a page whose pixels lie partly beyond the end of the file."""
    end = page_end(page)
    if end > source.size:
        raise SlideError(
            f"{source}: the file is cut short: its pixels reach to byte {end:,} but it ends at "
            f"{source.size:,}. Copy or download it again."
        )


def _rgb_on_white(pixels: Pixels, alpha_kind: int) -> Pixels:
    """(h, w, 3) of (h, w, 1, 3 or 4); `alpha_kind` as in TIFF's ExtraSamples.

    0: the fourth sample has no meaning; 1: alpha, by which the colours are multiplied already;
    2: alpha.
    """
    if pixels.shape[2] < 3:
        pixels = pixels[..., :1].repeat(3, axis=2)
    rgb = pixels[..., :3]
    if pixels.shape[2] == 3 or alpha_kind == 0:
        return np.ascontiguousarray(rgb)
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha_kind == 1:
        blended = np.minimum(rgb + (255 - alpha), 255)
    else:
        blended = (rgb * alpha + 255 * (255 - alpha) + 127) // 255
    return np.asarray(blended, dtype=np.uint8)
