"""Vendor formats, through OpenSlide."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lymphinfer.errors import SlideError
from lymphinfer.slides.aperio_tiles import AperioLevel, aperio_levels, whole_downsample
from lymphinfer.slides.level_proof import remembered, shows_the_same
from lymphinfer.slides.pixel_size import StatedSize, objective_size, resolve_pixel_size
from lymphinfer.slides.pyramid import PyramidSlide
from lymphinfer.slides.slide import RGB

if TYPE_CHECKING:
    from openslide import OpenSlide
    from PIL.Image import Image

    from lymphinfer.slides.tiff_level import SegmentStore

# Side of the fixed blocks in which a level of fractional downsample is read.
_BLOCK_PX = 512
# Formats of which OpenSlide takes every tiled page for a level.
_ANY_TILED_PAGE = ("aperio",)


class OpenSlideSlide(PyramidSlide):
    """A slide that OpenSlide opens. Threads may read at once.

    Parameters
    ----------
    path : Path
        The file.
    mpp : float or None
        The user's pixel size, µm/px.

    Raises
    ------
    openslide.OpenSlideError
        OpenSlide cannot open it.
    PixelSizeError
        No usable pixel size.
    """

    def __init__(self, path: Path, mpp: float | None) -> None:
        from openslide import OpenSlide

        handle = OpenSlide(path)
        try:
            properties = _readable(handle.properties)
            stated = _stated_size(properties)
            self.mpp, self.mpp_source = resolve_pixel_size(path, stated, mpp)
        except BaseException:
            handle.close()
            raise
        self.path = path
        self.reader = f"openslide:{properties.get('openslide.vendor', 'unknown')}"
        self.dimensions = handle.dimensions
        self.level_dimensions = tuple(handle.level_dimensions)
        self.bounds_offset = _bounds_offset(properties)
        self.icc_profile_bytes = int(properties.get("openslide.icc-size", 0))
        self.associated = tuple(handle.associated_images)
        self._downsamples = tuple(handle.level_downsamples)
        self._indices = tuple(range(len(self._downsamples)))
        self._handle: OpenSlide | None = handle
        self._lock = threading.Lock()
        self._store: SegmentStore | None = None
        self._tiles: dict[int, AperioLevel] = {}
        if properties.get("openslide.vendor") in _ANY_TILED_PAGE:
            self._store, self._tiles = aperio_levels(
                path, self.level_dimensions, self._downsamples, self._look
            )
            self._keep_proved_levels()
        if properties.get("dicom.ImageType[3]") == "RESAMPLED":
            # Of level 0: the file of the scan itself is not there.
            self.warnings = (
                "Its finest DICOM file calls itself a resampled copy of the scan: if the file of "
                "the scan itself was left behind, copy it beside this one.",
            )

    def _keep_proved_levels(self) -> None:
        """Leave out what shows another picture than the level above it."""
        stat = self.path.stat()
        version = (str(self.path), stat.st_size, stat.st_mtime_ns)
        levels = [_Level(self, i, size) for i, size in enumerate(self.level_dimensions)]
        kept = levels[:1]
        for level in levels[1:]:
            key = (*version, "level", kept[-1].index, level.index)
            if remembered(key, partial(shows_the_same, kept[-1], level)):
                kept.append(level)
        if len(kept) < len(levels):
            wrong = ", ".join(f"{x.width} x {x.height} px" for x in levels if x not in kept)
            self.warnings = (
                f"The file holds other pictures where levels of the scan should be ({wrong}): they "
                "are not read.",
            )
        self._downsamples = tuple(self._downsamples[level.index] for level in kept)
        self.level_dimensions = tuple(self.level_dimensions[level.index] for level in kept)
        self._indices = tuple(level.index for level in kept)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Image:
        from PIL import Image

        downsample, level = self._downsamples[level], self._indices[level]
        tiles = self._tiles.get(level)
        if tiles is not None and self._handle is not None:
            pixels = tiles.try_read(x, y, width, height)
            if pixels is not None:
                return Image.fromarray(pixels)
        if (whole := whole_downsample(downsample)) is not None:
            return self._read(level, (x * whole, y * whole), (width, height))
        # OpenSlide takes whole level-0 pixels and shifts by the rest of the division, so that a
        # pixel would depend on where the read begins: begin at fixed places instead.
        out = Image.new("RGB", (width, height), (255, 255, 255))
        for top in range(y // _BLOCK_PX * _BLOCK_PX, y + height, _BLOCK_PX):
            for left in range(x // _BLOCK_PX * _BLOCK_PX, x + width, _BLOCK_PX):
                location = round(left * downsample), round(top * downsample)
                out.paste(self._read(level, location, (_BLOCK_PX, _BLOCK_PX)), (left - x, top - y))
        return out

    def _read(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> Image:
        from openslide import OpenSlide, OpenSlideError

        handle = self._handle
        if handle is None:
            raise ValueError(f"{self.path}: the slide is closed")
        try:
            return _on_white(handle.read_region(location, level, size))
        except OpenSlideError:
            self._renew(handle)
        # A handle is dead for every reader after any error, so this read may be a bystander's.
        # Only a handle of its own can tell.
        try:
            with OpenSlide(self.path) as own:
                return _on_white(own.read_region(location, level, size))
        except OpenSlideError as error:
            raise SlideError(
                f"{self.path}: {size[0]} x {size[1]} px of level {level} at level-0 {location} "
                f"cannot be decoded ({error}). The file is damaged or was not copied whole: "
                "copy or export it again."
            ) from error

    def _look(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> RGB | None:
        """RGB of a rectangle; None where OpenSlide fails, or shows a hole."""
        from openslide import OpenSlideError

        handle = self._handle
        if handle is None:
            return None
        try:
            seen = np.asarray(handle.read_region(location, level, size))
        except OpenSlideError:
            return None
        return seen[..., :3] if seen[..., 3].min() == 255 else None

    def _renew(self, dead: OpenSlide) -> None:
        """Put a fresh handle in the place of one that an error has killed."""
        from openslide import OpenSlide, OpenSlideError

        with self._lock:
            if self._handle is dead:
                try:
                    # The dead one closes when its last reader lets go of it.
                    self._handle = OpenSlide(self.path)
                except OpenSlideError as error:
                    raise SlideError(
                        f"{self.path}: cannot be opened again after a read error ({error}). "
                        "Check that the file still exists and that its disk is reachable."
                    ) from error

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        with self._lock:
            handle, self._handle, self._closed = self._handle, None, True
        if handle is not None:
            handle.close()
        if self._store is not None:
            self._store.close()


class _Level:
    """A level, for its proof."""

    def __init__(self, slide: OpenSlideSlide, index: int, size: tuple[int, int]) -> None:
        self.index = index
        self.width, self.height = size
        self._slide = slide

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """RGB, (height, width, 3)."""
        return np.asarray(self._slide._read_level(self.index, x, y, width, height))


def _on_white(image: Image) -> Image:
    """Lay an RGBA image on white; where all is opaque that is a plain conversion."""
    from PIL import Image

    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    out = Image.new("RGB", image.size, (255, 255, 255))
    out.paste(image, mask=alpha)
    return out


def _readable(properties: Mapping[str, str]) -> dict[str, str]:
    """Properties without the names of a damaged header that OpenSlide lists and cannot find."""
    found = {}
    for name in properties:
        with suppress(KeyError):
            found[name] = properties[name]
    return found


def _stated_size(properties: dict[str, str]) -> StatedSize:
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    if x is not None or y is not None:
        return StatedSize((x or y or math.nan, y or x or math.nan))
    return StatedSize(None, hint=objective_size(properties.get("openslide.objective-power")))


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _bounds_offset(properties: dict[str, str]) -> tuple[int, int]:
    """(x, y) at which QuPath crops: only when all four bounds are there."""
    try:
        x, y, _, _ = (
            int(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return 0, 0
    return x, y
