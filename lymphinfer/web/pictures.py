"""Pictures of single cells: H&E, and the immunofluorescence of the same place."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lymphinfer.orion.cohort import OrionSlide
from lymphinfer.slides import Slide
from lymphinfer.web.fluorescence import FluorescenceImage

FIELD_UM = 36.0
"""Side of a picture: the patch that a classifier sees."""

_NUCLEI_SHARE = 0.55
_MAX_HELD = 4000
_JPEG_QUALITY = 90
# A picture read from a coarser image is still to be seen.
_SIDE_PX = 112


class CellPictures:
    """Pictures of a slide's cells as JPEG; the last 4,000 are kept. Threads may share it.

    Parameters
    ----------
    slide : OrionSlide
        Its images are opened when the first picture is asked for.
    """

    def __init__(self, slide: OrionSlide) -> None:
        self._slide = slide
        self._lock = threading.Lock()
        self._he: Slide | None = None
        self._if: FluorescenceImage | None = None
        self._held: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()

    def he(self, x: float, y: float) -> bytes:
        """H&E around a centroid.

        Parameters
        ----------
        x, y : float
            Level-0 px.

        Returns
        -------
        bytes
            JPEG of 112 x 112 px, 36 µm a side; white beyond the slide's edge.

        Raises
        ------
        SlideError
            The image cannot be read.
        """
        return self._kept("he", x, y, self._read_he)

    def fluorescence(self, x: float, y: float, marker: str, window: tuple[float, float]) -> bytes:
        """A marker in white over the nuclei's stain in blue, around a centroid.

        Parameters
        ----------
        x, y : float
            Level-0 px.
        marker : str
            Its channel.
        window : tuple of float
            Counts that are shown black and white; always the same for a marker.

        Returns
        -------
        bytes
            JPEG, as `he`; black beyond the slide's edge.

        Raises
        ------
        SlideError
            There is no such image, it cannot be read, or it is another slide's.
        """

        def read(column: int, row: int) -> NDArray[np.uint8]:
            return self._read_if(column, row, marker, window)

        return self._kept(marker, x, y, read)

    def close(self) -> None:
        """Release the files; the next picture opens them again."""
        with self._lock:
            if self._he is not None:
                self._he.close()
            if self._if is not None:
                self._if.close()
            self._he = self._if = None

    def _kept(
        self, kind: str, x: float, y: float, read: Callable[[int, int], NDArray[np.uint8]]
    ) -> bytes:
        key = (kind, round(x), round(y))
        with self._lock:
            if key not in self._held:
                self._held[key] = _jpeg(read(key[1], key[2]))
                if len(self._held) > _MAX_HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            return self._held[key]

    def _open_he(self) -> Slide:
        if self._he is None:
            self._he = self._slide.open_he()
        return self._he

    def _read_he(self, x: int, y: int) -> NDArray[np.uint8]:
        slide = self._open_he()
        side = round(FIELD_UM / slide.mpp)
        return slide.read_region(x - side // 2, y - side // 2, side, side, slide.mpp)

    def _read_if(
        self, x: int, y: int, marker: str, window: tuple[float, float]
    ) -> NDArray[np.uint8]:
        slide = self._open_he()
        if self._if is None:
            self._if = FluorescenceImage(self._slide, slide.dimensions)
        side = round(FIELD_UM / slide.mpp)
        box = (x - side // 2, y - side // 2, side, side)
        nuclei = self._if.nuclei(*box).astype(np.float64)
        low, high = np.quantile(nuclei, (0.02, 0.98))
        least = min(200.0, self._slide.layout.file.image.saturation / 4)
        blue = _NUCLEI_SHARE * _scaled(nuclei, (float(low), float(max(high, low + least))))
        white = _scaled(self._if.read(marker, *box).astype(np.float64), window)
        rgb = np.stack([white, np.maximum(white, 0.45 * blue), np.maximum(white, blue)], axis=-1)
        return np.asarray(np.rint(rgb * 255), np.uint8)


def _scaled(values: NDArray[np.float64], window: tuple[float, float]) -> NDArray[np.float64]:
    low, high = window
    return np.clip((values - low) / (high - low), 0, 1)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels)
    if image.size != (_SIDE_PX, _SIDE_PX):
        image = image.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
