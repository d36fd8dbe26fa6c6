"""Simulated slides as files that OpenSlide opens as Aperio's, with pixel size and power."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.simulate.layout import LayoutSettings, island
from lymphinfer.simulate.stain import sample_stain
from lymphinfer.simulate.texture import Float, upsample
from lymphinfer.simulate.tissue import Cells, TissueSettings, render_tissue

RGB = NDArray[np.uint8]

TILE_PX = 256
_DOWNSAMPLE = 4
_MASK_PX = 64
_JPEG_QUALITY = 85


def halve(image: RGB, factor: int) -> RGB:
    """Shrink an image by averaging blocks.

    Parameters
    ----------
    image : ndarray of uint8, (height, width, 3)
        Image; rows and columns beyond a multiple of `factor` are left out.
    factor : int
        Side of a block, px.

    Returns
    -------
    ndarray of uint8, (height // factor, width // factor, 3)
    """
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    total = np.zeros((rows, columns, image.shape[2]), np.uint32)
    for dy in range(factor):
        for dx in range(factor):
            total += image[dy : rows * factor : factor, dx : columns * factor : factor]
    count = factor * factor
    return ((total + count // 2) // count).astype(np.uint8)


def _description(width: int, height: int, mpp: float, name: str) -> str:
    return (
        f"Aperio Image Library (simulated by LymphInfer)\r\n"
        f"{width}x{height} [0,0 {width}x{height}] ({TILE_PX}x{TILE_PX}) JPEG/RGB "
        f"Q={_JPEG_QUALITY}|AppMag = 20|Filename = {name}|MPP = {mpp:.6g}"
    )


def level_sizes(width: int, height: int) -> list[tuple[int, int]]:
    """(width, height) of pyramid levels, each a quarter of the one before, to one tile's size."""
    sizes = [(width, height)]
    while max(sizes[-1]) // _DOWNSAMPLE >= TILE_PX:
        sizes.append((sizes[-1][0] // _DOWNSAMPLE, sizes[-1][1] // _DOWNSAMPLE))
    return sizes


def _image_tiles(image: RGB) -> Iterator[RGB]:
    for y in range(0, image.shape[0], TILE_PX):
        for x in range(0, image.shape[1], TILE_PX):
            part = image[y : y + TILE_PX, x : x + TILE_PX]
            if part.shape[:2] == (TILE_PX, TILE_PX):
                yield np.ascontiguousarray(part)
            else:
                lack = [(0, TILE_PX - part.shape[0]), (0, TILE_PX - part.shape[1]), (0, 0)]
                yield np.pad(part, lack, mode="edge")


def _write_levels(
    path: Path,
    levels: Iterator[tuple[tuple[int, int], Iterator[RGB]]],
    mpp: float,
    *,
    bigtiff: bool,
) -> None:
    """Write tiled levels; the first one carries Aperio's description."""
    with atomic_write(path) as file, tifffile.TiffWriter(file, bigtiff=bigtiff) as tiff:
        for i, ((width, height), tiles) in enumerate(levels):
            tiff.write(
                tiles,
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": _JPEG_QUALITY},
                subfiletype=0 if i == 0 else 1,
                description=_description(width, height, mpp, path.stem),
                metadata=None,
                software=False,
                maxworkers=2,
            )


def write_slide(path: Path | str, rgb: RGB, mpp: float) -> None:
    """Write an image as a pyramidal slide in Aperio's manner.

    Parameters
    ----------
    path : Path or str
        The file, usually ``.svs`` or ``.tif``.
    rgb : ndarray of uint8, (height, width, 3)
        Level 0.
    mpp : float
        Its pixel size, µm.

    Raises
    ------
    ResultError
        The file cannot be written.
    """

    def levels() -> Iterator[tuple[tuple[int, int], Iterator[RGB]]]:
        image = rgb
        for i, size in enumerate(level_sizes(rgb.shape[1], rgb.shape[0])):
            image = image if i == 0 else halve(image, _DOWNSAMPLE)
            yield size, _image_tiles(image)

    _write_levels(Path(path), levels(), mpp, bigtiff=False)


def write_demo_slide(
    path: Path | str,
    *,
    size_px: tuple[int, int] = (4096, 3072),
    mpp: float = 0.325,
    seed: int = 0,
    settings: TissueSettings | None = None,
) -> Cells:
    """Write a small slide: one piece of simulated tissue on white glass.

    Parameters
    ----------
    path : Path or str
        The file, usually ``.svs`` or ``.tif``.
    size_px : tuple of int
        Level-0 (width, height).
    mpp : float
        Pixel size, µm.
    seed : int
        The same seed gives the same slide.
    settings : TissueSettings, optional
        What the tissue is like; it becomes an island on glass in any case.

    Returns
    -------
    Cells
        The truth: level-0 centres, types, markers, best possible posteriors.

    Raises
    ------
    ResultError
        The file cannot be written.
    """
    settings = settings or TissueSettings(layout=LayoutSettings(aggregate_share=0.08))
    settings = replace(settings, layout=replace(settings.layout, island=True))
    tissue = render_tissue(size_px, mpp=mpp, seed=seed, settings=settings)
    write_slide(path, tissue.rgb, mpp)
    return tissue.cells


def _mosaic_tiles(
    period: RGB, size: tuple[int, int], shape: Float, mask_px: float, white: RGB
) -> Iterator[RGB]:
    """Tiles of one level: the period repeated, faded to glass where the shape ends."""
    width, height = size
    per_tile = TILE_PX / mask_px
    blank = np.broadcast_to(white, (TILE_PX, TILE_PX, 3)).copy()
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            rows = np.arange(y, y + TILE_PX) % period.shape[0]
            columns = np.arange(x, x + TILE_PX) % period.shape[1]
            r0, c0 = int(y / mask_px), int(x / mask_px)
            reach = int(np.ceil(per_tile)) + 2
            around = shape[max(r0 - 1, 0) : r0 + reach, max(c0 - 1, 0) : c0 + reach]
            if around.size == 0 or float(around.max()) <= 0:
                yield blank
                continue
            tile = period[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            if tile.shape[:2] != (TILE_PX, TILE_PX):
                tile = period[np.ix_(rows, columns)]
            if float(around.min()) < 1:
                factor = round(mask_px)
                alpha = _fine_alpha(shape, factor, y, x)[..., None]
                mixed = white + (tile.astype(np.float32) - white) * alpha
                tile = np.rint(mixed).astype(np.uint8)
            yield np.ascontiguousarray(tile)


def _fine_alpha(shape: Float, factor: int, y: int, x: int) -> Float:
    if factor <= 1:
        rows = np.minimum(np.arange(y, y + TILE_PX), shape.shape[0] - 1)
        columns = np.minimum(np.arange(x, x + TILE_PX), shape.shape[1] - 1)
        return np.asarray(shape[np.ix_(rows, columns)])
    return upsample(shape, factor, y, x, TILE_PX, TILE_PX)


def write_large_slide(
    path: Path | str,
    side_px: int,
    *,
    mpp: float = 0.325,
    seed: int = 0,
    period_px: int = 4096,
    settings: TissueSettings | None = None,
) -> int:
    """Write a large slide in little time and memory: a mosaic of one periodic piece of tissue.

    Parameters
    ----------
    path : Path or str
        The file, a BigTIFF where it may grow beyond 4 GB.
    side_px : int
        Level-0 width and height.
    mpp : float
        Pixel size, µm.
    seed : int
        The same seed gives the same slide.
    period_px : int
        Side of the piece that repeats; a multiple of 1024.
    settings : TissueSettings, optional
        What the tissue is like.

    Returns
    -------
    int
        Number of nuclei in one period; the tissue covers about three quarters of the slide.

    Raises
    ------
    ValueError
        If `period_px` is no multiple of 1024.
    ResultError
        The file cannot be written.
    """
    if period_px % 1024:
        raise ValueError(f"period_px {period_px} is no multiple of 1024")
    root = np.random.SeedSequence(seed)
    shape_seed, stain_seed, tissue_seed = root.spawn(3)
    stain = sample_stain(np.random.default_rng(stain_seed))
    tissue = render_tissue(
        (period_px, period_px),
        mpp=mpp,
        seed=tissue_seed,
        settings=settings or TissueSettings(),
        stain=stain,
        periodic=True,
    )
    coarse = -(-side_px // _MASK_PX)
    field = island(np.random.default_rng(shape_seed), (coarse, coarse))
    # Half a coarse pixel wide: tissue ends within some tens of level-0 pixels.
    shape = np.clip(field * np.float32(coarse / 2 * 0.7), 0, 1)
    white = np.rint(np.array(stain.white)).astype(np.uint8)

    def levels() -> Iterator[tuple[tuple[int, int], Iterator[RGB]]]:
        period = tissue.rgb
        for i, size in enumerate(level_sizes(side_px, side_px)):
            period = period if i == 0 else halve(period, _DOWNSAMPLE)
            mask_px = _MASK_PX / _DOWNSAMPLE**i
            level_shape = shape
            if mask_px < 1:
                keep = round(1 / mask_px)
                level_shape, mask_px = shape[::keep, ::keep], 1.0
            yield size, _mosaic_tiles(period, size, level_shape, mask_px, white)

    _write_levels(Path(path), levels(), mpp, bigtiff=side_px > 30000)
    return len(tissue.cells)
