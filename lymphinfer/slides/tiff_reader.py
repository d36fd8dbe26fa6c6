"""TIFF files that OpenSlide refuses or misreads, through tifffile's index of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lymphinfer.errors import SlideError
from lymphinfer.slides.pixel_size import (
    StatedSize,
    ome_stated_size,
    resolution_stated_size,
    resolve_pixel_size,
)
from lymphinfer.slides.pyramid import PyramidSlide, level_downsample
from lymphinfer.slides.tiff_level import SegmentStore, TiffLevel

if TYPE_CHECKING:
    from PIL.Image import Image

_RGB_AXES = {"YXS", "SYX", "CYX"}
# MINISBLACK (as planes of colour are often tagged), RGB, YCBCR.
_RGB_PHOTOMETRICS = {1, 2, 6}
_FLUORESCENCE = re.compile(r"EmissionWavelength|Fluor=|Name=\"(DAPI|Hoechst)", re.IGNORECASE)
_UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}


class TiffSlide(PyramidSlide):
    """A TIFF or OME-TIFF of 8-bit RGB. Threads may read at once.

    Tiles and strips are decoded as they are needed; of a file that is a single strip that means
    the whole image, held in memory from the first read on.

    Parameters
    ----------
    path : Path
        The file.
    mpp : float or None
        The user's pixel size, µm/px.

    Raises
    ------
    SlideError
        No TIFF, cut short, or not an 8-bit RGB image.
    PixelSizeError
        No usable pixel size.
    """

    def __init__(self, path: Path, mpp: float | None) -> None:
        from tifffile import TiffFile

        self.path = path
        self.bounds_offset = (0, 0)
        store: SegmentStore | None = None
        try:
            with TiffFile(path) as tif:
                ome_xml = tif.ome_metadata
                levels = _pyramid(path, tif, ome_xml)
                stated = ome_stated_size(ome_xml) if ome_xml else _tag_size(levels[0])
                store = SegmentStore(path)
                self._levels = [TiffLevel(pages, store) for pages in levels]
            self.mpp, self.mpp_source = resolve_pixel_size(path, stated, mpp)
        except SlideError:
            _close(store)
            raise
        # tifffile raises whatever a damaged file leads it into.
        except Exception as error:
            _close(store)
            raise SlideError(
                f"{path}: looks like a TIFF but cannot be read ({error}). The file is damaged or "
                "was not copied whole: copy or export it again."
            ) from error
        self.reader = "tifffile:ome" if ome_xml else "tifffile:tiff"
        self.level_dimensions = tuple((level.width, level.height) for level in self._levels)
        self.dimensions = self.level_dimensions[0]
        self._store = store

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Image:
        from PIL import Image

        return Image.fromarray(self._levels[level].read(x, y, width, height))

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        self._closed = True
        self._store.close()


def _close(store: SegmentStore | None) -> None:
    if store is not None:
        store.close()


def _pyramid(path: Path, tif: Any, ome_xml: str | None) -> list[list[Any]]:
    """Pages of each level, largest first.

    The largest image is the slide. Its levels are the smaller images of the same shape, be they
    SubIFDs, further pages or further OME images; labels and overviews have another shape.
    """
    images = [level for series in tif.series for level in series.levels]
    if not images:
        raise SlideError(f"{path}: a TIFF without images. Export the slide again.")
    base = max(images, key=_area)
    _check_rgb(path, base, ome_xml)
    width, height = _size(base)
    # A scanner's thumbnail can have the slide's shape; it comes in strips.
    tiled = base.pages[0].is_tiled
    levels = [base]
    for image in sorted(images, key=_area, reverse=True):
        size = _size(image)
        if image.axes != base.axes or image.dtype != base.dtype or size >= _size(levels[-1]):
            continue
        if image.pages[0] is None or image.pages[0].is_tiled != tiled:
            continue
        dx, dy = level_downsample((width, height), size)
        # Rounding a side up or down moves its ratio by that of one pixel.
        if abs(dx - dy) <= 1.5 * max(dx / size[0], dy / size[1]) and dx > 1.2:
            levels.append(image)
    return [[page for page in level.pages if page is not None] for level in levels]


def _size(image: Any) -> tuple[int, int]:
    """(width, height) of a tifffile series."""
    axes = dict(zip(image.axes, image.shape, strict=True))
    return axes.get("X", 0), axes.get("Y", 0)


def _area(image: Any) -> int:
    width, height = _size(image)
    return width * height


def _check_rgb(path: Path, image: Any, ome_xml: str | None) -> None:
    """Raise SlideError for all but 8-bit RGB(A)."""
    channels = dict(zip(image.axes, image.shape, strict=True))
    count = channels.get("S", channels.get("C", 1))
    pages = [page for page in image.pages if page is not None]
    right_channels = count == 3 or (count == 4 and "S" in channels)
    whole = len(pages) in (1, count)
    if int(pages[0].keyframe.photometric) not in _RGB_PHOTOMETRICS:
        raise SlideError(
            f"{path}: not an RGB H&E image: its colours are stored as "
            f"{pages[0].keyframe.photometric.name}. Export it as 8-bit RGB."
        )
    if image.dtype != "uint8" or image.axes not in _RGB_AXES or not right_channels or not whole:
        raise SlideError(
            f"{path}: not an RGB H&E image: it holds {image.dtype} data with axes {image.axes} "
            f"{tuple(image.shape)}, where 8-bit data of 3 colours is needed. If this is the "
            "immunofluorescence image, give the H&E image of the same section."
        )
    if "C" in channels and ome_xml and _FLUORESCENCE.search(ome_xml):
        raise SlideError(
            f"{path}: not an RGB H&E image: its OME-XML describes 3 fluorescence channels. Give "
            "the H&E image of the same section."
        )


def _tag_size(pages: list[Any]) -> StatedSize:
    """Pixel size by an Aperio description or by the resolution tags of a tiled TIFF."""
    page = pages[0].keyframe
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description or "")
    if found:
        return StatedSize((float(found[1]), float(found[1])))
    unit = _UM_PER_RESOLUTION_UNIT.get(int(page.resolutionunit))
    if unit is None:
        return StatedSize(None)
    x, y = (unit / value if value > 0 else None for value in page.resolution)
    return resolution_stated_size(x, y, trusted=bool(page.is_tiled))
