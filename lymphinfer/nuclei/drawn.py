"""Nuclei that people have drawn in QuPath, on images or in regions of slides, for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from lymphinfer.annotations import read_annotations
from lymphinfer.annotations.outlines import MOST_UM2, read_outlines
from lymphinfer.annotations.roi import SUFFIXES
from lymphinfer.errors import AnnotationError, DataError
from lymphinfer.nuclei.datasets import AnnotatedImage
from lymphinfer.slides import open_slide

PICTURES = (".png", ".jpg", ".jpeg")
_MOST_PX = 8192
Box = tuple[int, int, int, int]


def drawn_beside(path: Path) -> Path | None:
    """GeoJSON beside an image or slide, called like it with or without its suffix; None without."""
    names = (f"{name}{suffix}" for name in (path.name, path.stem) for suffix in SUFFIXES)
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def read_drawn(path: Path, labels: Path, *, mpp: float) -> list[AnnotatedImage]:
    """Read the nuclei of an image or slide.

    Parameters
    ----------
    path : Path
        A PNG or JPEG, or a slide.
    labels : Path
        GeoJSON of QuPath: detections, cells (their nuclei), or annotations no larger than a
        nucleus. Larger annotations are regions in which every nucleus is drawn: each becomes an
        image of its own, the rectangle around it. Without any the whole image is one.
    mpp : float
        Pixel size of a PNG or JPEG, µm/px; a slide states its own.

    Returns
    -------
    list of AnnotatedImage
        What lies outside of a region that is no rectangle counts as background only where no
        nucleus is drawn: draw rectangles.

    Raises
    ------
    DataError
        The file of nuclei cannot be used, or a slide has no regions.
    """
    if path.suffix.lower() in PICTURES:
        picture = np.asarray(Image.open(path).convert("RGB"))
        height, width = picture.shape[:2]
        rings, regions = _read(labels, mpp, (width, height), (0, 0))
        boxes = regions or [(0, 0, width, height)]
        crops = [picture[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes]
    else:
        with open_slide(path) as slide:
            mpp = slide.mpp
            rings, boxes = _read(labels, mpp, slide.dimensions, slide.bounds_offset)
            if not boxes:
                raise DataError(
                    f"{labels}: no region on the slide {path.name}: draw rectangles in which every "
                    "nucleus is drawn, and export them with the nuclei"
                )
            crops = [slide.read_region(x0, y0, x1 - x0, y1 - y0, mpp) for x0, y0, x1, y1 in boxes]
    name = f"{path.parent.name}/{path.stem}"
    return [
        _cut(f"{name}-{i}" if len(boxes) > 1 else name, np.ascontiguousarray(crop), rings, box, mpp)
        for i, (crop, box) in enumerate(zip(crops, boxes, strict=True), 1)
    ]


def _read(
    labels: Path, mpp: float, dimensions: tuple[int, int], offset: tuple[int, int]
) -> tuple[list[NDArray[np.float64]], list[Box]]:
    """Outlines of nuclei, and rectangles of the regions in which they are drawn, level-0 px."""
    try:
        outlines = read_outlines(labels)
        annotations = list(read_annotations(labels))
    except AnnotationError as error:
        raise DataError(str(error)) from error
    move = np.asarray(offset, np.float64)
    rings = [item.ring + move for item in outlines.items]
    small = [_area(ring) * mpp**2 <= MOST_UM2 for ring in rings]
    nuclei = [ring for ring, is_nucleus in zip(rings, small, strict=True) if is_nucleus]
    if not nuclei:
        raise DataError(
            f"{labels}: no nucleus among its {len(rings):,} outlines, which are all larger than "
            f"{MOST_UM2:g} µm² at {mpp:g} µm/px: draw nuclei, or give the images' pixel size "
            "(--image-mpp)"
        )
    boxes = []
    for item in annotations:
        if item.geometry.area * mpp**2 > MOST_UM2:
            x0, y0, x1, y1 = np.asarray(item.geometry.bounds) + np.tile(move, 2)
            far = min(dimensions[0], int(np.ceil(x1))), min(dimensions[1], int(np.ceil(y1)))
            box = (max(0, int(x0)), max(0, int(y0)), *far)
            if box[2] - box[0] > _MOST_PX or box[3] - box[1] > _MOST_PX:
                raise DataError(
                    f"{labels}: a region of {box[2] - box[0]} x {box[3] - box[1]} px is too large "
                    f"to have every nucleus drawn; regions are {_MOST_PX} px wide at most"
                )
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append(box)
    return nuclei, boxes


def _cut(
    name: str,
    picture: NDArray[np.uint8],
    rings: list[NDArray[np.float64]],
    box: Box,
    mpp: float,
) -> AnnotatedImage:
    x0, y0, x1, y1 = box
    inside = [
        ring - (x0 + 0.5, y0 + 0.5)
        for ring in rings
        if ring[:, 0].max() > x0
        and ring[:, 0].min() < x1
        and ring[:, 1].max() > y0
        and ring[:, 1].min() < y1
    ]
    instances = draw_outlines(inside, (picture.shape[0], picture.shape[1]))
    unknown = np.full(int(instances.max(initial=0)) + 1, -1, np.int8)
    return AnnotatedImage(name, picture, instances, mpp, unknown)


def draw_outlines(outlines: list[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Label map of outlines (x, y), the later on top; labels without gaps."""
    from skimage.draw import polygon

    instances = np.zeros(shape, np.int32)
    for label, outline in enumerate(outlines, start=1):
        instances[polygon(outline[:, 1], outline[:, 0], shape)] = label
    found, sequential = np.unique(instances, return_inverse=True)
    labels: NDArray[np.int32] = (sequential.reshape(shape) + (found[0] != 0)).astype(np.int32)
    return labels


def _area(ring: NDArray[np.float64]) -> float:
    return float(shapely.Polygon(ring).area)
