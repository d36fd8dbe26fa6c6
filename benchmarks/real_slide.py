"""A slide of any area out of real H&E: one piece of tissue and its mirror images, side by side.

Its tiles are JPEG at 0.25 µm/px (or --mpp) in a pyramid of levels a quarter apart, as a scanner
writes them, and OpenSlide opens it as Aperio's. Tiles that show the same lie in the file once and
are pointed to from all of their places: what a reader decodes is as much as on a slide of its own.
Needs Pillow and numpy alone.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RGB = NDArray[np.uint8]

TILE_PX = 256
DOWNSAMPLE = 4
QUALITY = 85
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def tissue(source: Path, mpp_source: float | None, mpp: float) -> RGB:
    """Pixels of a slide, or of a folder's images side by side, at a pixel size.

    Parameters
    ----------
    source : Path
        A slide that OpenSlide opens, or a folder of images of one size, with `mpp_source`.
    mpp_source : float or None
        µm/px; None where the file says it.
    mpp : float
        Wanted, µm/px.
    """
    if source.is_dir():
        images = _images(source)
        if mpp_source is None:
            raise SystemExit(f"{source}: images do not say their pixel size: --source-mpp")
        columns = max(1, int(len(images) ** 0.5))
        rows = [np.concatenate(images[i : i + columns], axis=1)
                for i in range(0, len(images) - columns + 1, columns)]  # fmt: skip
        pixels = np.concatenate(rows)
    else:
        from openslide import OpenSlide

        with OpenSlide(source) as slide:
            if mpp_source is None:
                mpp_source = float(slide.properties["openslide.mpp-x"])
            pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    scale = mpp_source / mpp
    size = tuple(round(n * scale) for n in pixels.shape[1::-1])
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _images(folder: Path) -> list[RGB]:
    found = [np.asarray(Image.open(path).convert("RGB"))
             for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]  # fmt: skip
    if not found:
        raise SystemExit(f"{folder}: no images in it")
    return [image for image in found if image.shape == found[0].shape]


def write_mosaic(path: Path, piece: RGB, size: tuple[int, int], mpp: float) -> int:
    """Write the slide.

    Parameters
    ----------
    path : Path
        The file; under 4 GB.
    piece : ndarray of uint8, (height, width, 3)
        The tissue.
    size : tuple of int
        Level-0 (width, height).
    mpp : float
        Its pixel size, µm.

    Returns
    -------
    int
        Bytes written.
    """
    shrunk, levels = piece, []
    with path.open("wb") as file:
        file.write(b"II*\0\0\0\0\0")
        link = 4
        while True:
            offsets, counts = _write_tiles(file, shrunk, size)
            levels.append(size)
            text = (
                f"Aperio Image Library (mosaic)\r\n{size[0]}x{size[1]} ({TILE_PX}x{TILE_PX}) "
                f"JPEG/YCC Q={QUALITY}|AppMag = 20|MPP = {mpp:.6g}"
            )
            link = _write_directory(file, link, size, offsets, counts, text, len(levels) > 1)
            if max(size) // DOWNSAMPLE < TILE_PX:
                break
            size = (size[0] // DOWNSAMPLE, size[1] // DOWNSAMPLE)
            shrunk = _shrunk(shrunk)
        return file.seek(0, io.SEEK_END)


def _shrunk(piece: RGB) -> RGB:
    height, width = (max(1, n // DOWNSAMPLE) for n in piece.shape[:2])
    return np.asarray(Image.fromarray(piece).resize((width, height), Image.Resampling.BOX))


def _write_tiles(
    file: io.BufferedWriter, piece: RGB, size: tuple[int, int]
) -> tuple[list[int], list[int]]:
    """Where each tile of a level lies, row-major, and its bytes."""
    height, width = piece.shape[:2]
    known: dict[tuple[int, int], tuple[int, int]] = {}
    places = []
    for y in range(0, size[1], TILE_PX):
        for x in range(0, size[0], TILE_PX):
            key = (y % (2 * height), x % (2 * width))
            if key not in known:
                rows, columns = (
                    _mirrored(at, n) for at, n in zip(key, (height, width), strict=True)
                )
                data = io.BytesIO()
                Image.fromarray(piece[np.ix_(rows, columns)]).save(data, "JPEG", quality=QUALITY)
                known[key] = (file.seek(0, io.SEEK_END), file.write(data.getvalue()))
            places.append(known[key])
    offsets, counts = zip(*places, strict=True)
    return list(offsets), list(counts)


def _mirrored(start: int, length: int) -> NDArray[np.intp]:
    at = np.arange(start, start + TILE_PX) % (2 * length)
    return np.minimum(at, 2 * length - 1 - at)


def _write_directory(
    file: io.BufferedWriter, link: int, size: tuple[int, int], offsets: Sequence[int],
    counts: Sequence[int], description: str, reduced: bool,
) -> int:  # fmt: skip
    """Append a TIFF directory, point `link` to it, and say where the next one is pointed to."""
    text = description.encode("ascii") + b"\0"
    entries: list[tuple[int, str, Sequence[int] | bytes]] = [
        (254, "I", [int(reduced)]), (256, "I", [size[0]]), (257, "I", [size[1]]),
        (258, "H", [8, 8, 8]), (259, "H", [7]), (262, "H", [6]), (270, "s", text),
        (277, "H", [3]), (284, "H", [1]), (322, "I", [TILE_PX]), (323, "I", [TILE_PX]),
        (324, "I", offsets), (325, "I", counts), (530, "H", [2, 2]),
    ]  # fmt: skip
    kinds = {"s": 2, "H": 3, "I": 4}
    packed = b""
    for tag, kind, values in entries:
        data = (
            values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{kind}", *values)
        )
        if len(data) > 4:
            at = file.seek(0, io.SEEK_END)
            file.write(data + b"\0" * (len(data) % 2))
            data = struct.pack("<I", at)
        packed += struct.pack("<HHI", tag, kinds[kind], len(values)) + data.ljust(4, b"\0")
    at = file.seek(0, io.SEEK_END)
    if at % 2:
        at += file.write(b"\0")
    file.write(struct.pack("<H", len(entries)) + packed + b"\0\0\0\0")
    file.seek(link)
    file.write(struct.pack("<I", at))
    return at + 2 + len(packed)
