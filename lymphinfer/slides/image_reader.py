"""Plain images: PNG and JPEG fields of view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lymphinfer.errors import SlideError
from lymphinfer.slides.depth import Depth, measured_depth
from lymphinfer.slides.pixel_size import resolution_stated_size, resolve_pixel_size
from lymphinfer.slides.pyramid import PyramidSlide

if TYPE_CHECKING:
    from PIL.Image import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
# Of the header's first chunk (PNG specification, IHDR).
_PNG_DEPTH_AT = 24
# 3 GB once decoded.
MAX_PIXELS = 1_000_000_000


class ImageSlide(PyramidSlide):
    """A PNG or JPEG, loaded whole into memory. Threads may read at once.

    Parameters
    ----------
    path : Path
        The file.
    mpp : float or None
        The user's pixel size, µm/px; needed, since such files do not say it reliably.

    Raises
    ------
    SlideError
        Damaged, not RGB, or larger than a billion pixels.
    PixelSizeError
        No usable pixel size.
    """

    def __init__(self, path: Path, mpp: float | None) -> None:
        self.path = path
        self.reader = "image"
        self.bounds_offset = (0, 0)
        try:
            image = _header(path)
            self.dimensions = image.size
            self.icc_profile_bytes = len(image.info.get("icc_profile") or b"")
            dpi = image.info.get("dpi", (0, 0))
            x, y = (25_400 / float(value) if value else None for value in dpi)
            stated = resolution_stated_size(x, y, trusted=False)
            self.mpp, self.mpp_source = resolve_pixel_size(path, stated, mpp)
            self._image, depth = _decoded(path, image)
            self.warnings = () if depth is None else (depth.warning,)
        except (OSError, SyntaxError, ValueError) as error:
            raise SlideError(
                f"{path}: the image cannot be decoded ({error}). The file is damaged or was not "
                "copied whole: copy or export it again."
            ) from error
        self.level_dimensions = (self.dimensions,)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Image:
        from PIL import Image

        out = Image.new("RGB", (width, height), (255, 255, 255))
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, self.dimensions[0]), min(y + height, self.dimensions[1])
        if left < right and top < bottom:
            out.paste(self._image.crop((left, top, right, bottom)), (left - x, top - y))
        return out

    def close(self) -> None:
        """Release the pixels. Safe to call twice."""
        from PIL import Image

        self._closed = True
        self._image = Image.new("RGB", (1, 1))


def _header(path: Path) -> Image:
    """Image with its size and mode known and its pixels not yet read.

    Pillow's own limit, in `Image.open`, refuses 180 Mpx, which a field of view may well have, and
    is set for the whole process: the format's class is asked instead.
    """
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    with path.open("rb") as file:
        is_png = file.read(8) == PNG_MAGIC
    image = (PngImageFile if is_png else JpegImageFile)(path)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise SlideError(
            f"{path}: a plain image of {width:,} x {height:,} px, too large to hold in memory. "
            "Convert it to a tiled TIFF, such as with `vips tiffsave IN OUT.tif --tile --pyramid "
            "--compression jpeg --bigtiff`."
        )
    return image


def _decoded(path: Path, image: Image) -> tuple[Image, Depth | None]:
    """Pixels in RGB on white, and how colours of 16 bits became 8."""
    from PIL import Image as PIL

    depth = None
    with image:
        if _is_deep(path) and image.mode in ("RGB", "RGBA"):
            decoded, depth = _shallow(path)
        elif image.mode == "P":
            decoded = image.convert("RGBA" if "transparency" in image.info else "RGB")
        elif image.mode in ("RGB", "RGBA"):
            image.load()
            decoded = image.copy()
        else:
            raise SlideError(
                f"{path}: not an RGB H&E image: its colour mode is {image.mode!r}. Export it as "
                "8-bit RGB."
            )
    if decoded.mode == "RGB":
        return decoded, depth
    out = PIL.new("RGB", decoded.size, (255, 255, 255))
    out.paste(decoded, mask=decoded.getchannel("A"))
    return out, depth


def _is_deep(path: Path) -> bool:
    """Whether a file is a PNG of 16 bits a sample, of which Pillow keeps the upper 8."""
    with path.open("rb") as file:
        head = file.read(_PNG_DEPTH_AT + 1)
    return head.startswith(PNG_MAGIC) and head[_PNG_DEPTH_AT:] == b"\x10"


def _shallow(path: Path) -> tuple[Image, Depth]:
    """Colours of 8 bits of a PNG of 16."""
    import numpy as np
    from imagecodecs import png_decode
    from PIL import Image as PIL

    try:
        samples = png_decode(path.read_bytes())
    # The decoder's own exceptions are no kind of OSError or ValueError.
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    depth = measured_depth([samples[..., :3]])
    pixels = depth.to_8_bit(samples)
    if samples.shape[2] == 4:
        pixels[..., 3] = samples[..., 3] >> 8
    return PIL.fromarray(np.ascontiguousarray(pixels)), depth
