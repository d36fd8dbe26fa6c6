"""Zeiss CZI, through Zeiss's own library: tiles are decoded as they are needed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lymphinfer.errors import SlideError
from lymphinfer.extras import require_extra
from lymphinfer.slides.czi_content import CziContent, CziScene, czi_content, czi_part
from lymphinfer.slides.depth import Depth, measured_depth, stated_depth
from lymphinfer.slides.identity import file_identity, image_identity
from lymphinfer.slides.images import SlideImage, other_images_warning, pick
from lymphinfer.slides.pixel_size import resolve_pixel_size
from lymphinfer.slides.pyramid import PyramidSlide

if TYPE_CHECKING:
    from PIL.Image import Image

_CACHE_BYTES = 128 << 20
_WINDOW_PX = 256
_WHITE = (1.0, 1.0, 1.0)


class CziSlide(PyramidSlide):
    """A scene of a CZI of colours of 8 or 16 bits. Threads may read, one at a time.

    Parameters
    ----------
    path : Path
        The file.
    mpp : float or None
        The user's pixel size, µm/px.
    series : str, optional
        Number or name of the scene to read; by default the largest.
    force : bool
        Read the first plane of a stack.

    Raises
    ------
    SlideError
        The extra `czi` is missing; or the file is damaged, or not an RGB image.
    PixelSizeError
        No usable pixel size.
    """

    def __init__(
        self, path: Path, mpp: float | None, *, series: str | None = None, force: bool = False
    ) -> None:
        self.path = path
        self.reader = "pylibCZIrw"
        self.bounds_offset = (0, 0)
        self._lock = threading.Lock()
        self._reader: Any = _opened(path)
        try:
            content = czi_content(self._reader)
            self._read_content(content, series, force)
            self.mpp, self.mpp_source = resolve_pixel_size(path, content.stated, mpp)
        except SlideError:
            self.close()
            raise
        # libCZI raises plain RuntimeErrors, and a damaged header leads anywhere.
        except Exception as error:
            self.close()
            raise SlideError(_damaged(path, error)) from error

    def _read_content(self, content: CziContent, series: str | None, force: bool) -> None:
        problem, can_force = content.problem()
        if problem and not (force and can_force):
            force_words = " --force reads the first plane all the same." if can_force else ""
            raise SlideError(f"{self.path}: not an RGB H&E image: {problem}.{force_words}")
        scenes = content.scenes
        if series is not None:
            facts = [_facts(scene, content, False) for scene in scenes]
            scene = scenes[pick(self.path, facts, series)]
        else:
            scene = max(scenes, key=lambda s: (s.dimensions[0] * s.dimensions[1], -s.number))
        self._scene = scene
        self._scene_number = scene.number if content.has_scenes else None
        self.dimensions = scene.dimensions
        self.level_dimensions = scene.level_dimensions
        self.images = tuple(_facts(each, content, each is scene) for each in scenes)
        self._depth: Depth | None = None
        if content.pixel_type == "Bgr48":
            self._depth = self._deep(content.bits)
        forced = f"Read although {problem.partition('. ')[0]} (--force)." if problem else None
        deep = None if self._depth is None else self._depth.warning
        found = (forced, deep, other_images_warning(self.images))
        self.warnings = tuple(text for text in found if text)

    def _deep(self, bits: int) -> Depth:
        """How colours of 16 bits become 8: as stated, or by windows from all over the scene."""
        if 8 < bits < 16:
            return stated_depth((1 << bits) - 1, "its metadata (ComponentBitCount)")
        width, height = self.level_dimensions[-1]
        side = min(_WINDOW_PX, width, height)
        xs, ys = (np.unique(np.linspace(0, n - side, 5).astype(int)) for n in (width, height))
        downsample = self._scene.downsamples[-1]
        return measured_depth(
            self._pixels(downsample, int(x), int(y), side, side) for y in ys for x in xs
        )

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Image:
        from PIL import Image

        out = np.full((height, width, 3), 255, dtype=np.uint8)
        level_width, level_height = self.level_dimensions[level]
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, level_width), min(y + height, level_height)
        if x0 < x1 and y0 < y1:
            bgr = self._pixels(self._scene.downsamples[level], x0, y0, x1 - x0, y1 - y0)
            if self._depth is not None:
                bgr = self._depth.to_8_bit(bgr)
            out[y0 - y : y1 - y, x0 - x : x1 - x] = bgr[..., ::-1]
        return Image.fromarray(out)

    def _pixels(self, downsample: int, x: int, y: int, width: int, height: int) -> Any:
        left, top = self._scene.origin
        # The library rounds the size of what it gives down: one pixel more is asked for.
        more = int(downsample > 1)
        roi = (
            left + x * downsample,
            top + y * downsample,
            (width + more) * downsample,
            (height + more) * downsample,
        )
        with self._lock:
            if self._reader is None:
                raise ValueError(f"{self.path}: the slide is closed")
            try:
                found = self._reader.read(
                    roi=roi,
                    scene=self._scene_number,
                    zoom=1 / downsample,
                    background_pixel=_WHITE,
                )
            except Exception as error:
                raise SlideError(
                    f"{self.path}: {width} x {height} px at 1/{downsample} of level 0 cannot be "
                    f"decoded ({error}). The file is damaged or was not copied whole: copy or "
                    "export it again."
                ) from error
        return found[:height, :width]

    def identity(self) -> str:
        """See `Slide.identity`."""
        return image_identity(file_identity(self.path), self._scene.number)

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        with self._lock:
            reader, self._reader, self._closed = self._reader, None, True
        if reader is not None:
            reader.close()


def _opened(path: Path) -> Any:
    require_extra("czi", f"{path}: a Zeiss CZI slide", SlideError)
    from pylibCZIrw import czi

    part = czi_part(path)
    if part > 0:
        raise SlideError(
            f"{path}: part {part} of a CZI that was stored in several files, which cannot be read. "
            "Store it as one file in ZEN."
        )
    cache = czi.CacheOptions(max_memory_usage=_CACHE_BYTES)
    options = czi.ReaderOptions(enable_mask_awareness=True)
    try:
        return czi.CziReader(str(path), cache_options=cache, reader_options=options)
    except UnicodeError as error:
        raise SlideError(
            f"{path}: Zeiss's library opens no file whose name is not UTF-8. Rename it."
        ) from error
    except Exception as error:
        raise SlideError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"{path}: a Zeiss CZI that cannot be opened ({error}). The file is damaged or was not "
        "copied whole: copy it again."
    )


def _facts(scene: CziScene, content: CziContent, is_read: bool) -> SlideImage:
    levels, xy = scene.level_dimensions, content.stated.xy
    return SlideImage(
        scene.number, scene.name, "scan", scene.dimensions, levels if is_read else levels[:1],
        None if xy is None else sum(xy) / 2, "" if xy is None else content.stated.source, is_read,
    )  # fmt: skip
