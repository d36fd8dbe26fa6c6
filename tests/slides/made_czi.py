"""Writer of small CZI files, with a pyramid if wanted."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 256


def write_czi(
    path: Path,
    scenes: dict[int, tuple[np.ndarray, tuple[int, int]]],
    mpp: float | None = 0.25,
    *,
    levels: tuple[int, ...] = (),
    compression: str = "zstd1:ExplicitLevel=1",
    **metadata: object,
) -> Path:
    """Write scenes, each an image and the place of its corner; `levels`: downsamples."""
    from pylibCZIrw import czi

    with czi.create_czi(str(path), compression_options=compression) as writer:
        for number, (image, (left, top)) in scenes.items():
            for y in range(0, image.shape[0], TILE):
                for x in range(0, image.shape[1], TILE):
                    # Bgr24: blue first.
                    part = image[y : y + TILE, x : x + TILE, ::-1]
                    writer.write(part, location=(left + x, top + y), scene=number)
            for downsample in levels:
                # A size that no other tile has: it is found again by it.
                small = shrunk(image, downsample)
                writer.write(small[..., ::-1], location=(left, top), scene=number)
        scale = (mpp or 0) * 1e-6
        writer.write_metadata("made", scale_x=scale, scale_y=scale, **metadata)
    for image, _ in scenes.values():
        for downsample in levels:
            small = shrunk(image, downsample)
            as_level(path, (small.shape[1], small.shape[0]), downsample)
    return path


def shrunk(image: np.ndarray, downsample: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).reduce(downsample))


def as_level(path: Path, size: tuple[int, int], downsample: int) -> None:
    """Turn the tile of a size into one of a pyramid: the library writes tiles of level 0 only.

    A tile's place along an axis is (axis, start, size, start as float, stored size).
    """
    data = bytearray(path.read_bytes())
    for axis, pixels in zip((b"X", b"Y"), size, strict=True):
        at = data.find(axis + b"\0\0\0")
        while at >= 0:
            start, logical, _, stored = struct.unpack_from("<iifi", data, at + 4)
            if stored in (0, pixels) and logical == pixels:
                struct.pack_into("<iifi", data, at + 4, start, pixels * downsample, start, pixels)
            at = data.find(axis + b"\0\0\0", at + 1)
    path.write_bytes(data)
