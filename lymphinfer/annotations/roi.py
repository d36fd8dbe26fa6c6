"""Regions of interest: QuPath annotations that limit where nuclei are looked for."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from lymphinfer.annotations.reading import UNCLASSIFIED, read_annotations
from lymphinfer.errors import AnnotationError
from lymphinfer.slides.outline import draw, polygons

SUFFIXES = (".geojson", ".geojson.gz", ".json", ".zip")


@dataclass(frozen=True, eq=False)
class Roi:
    """The union of some annotations, on the slide's level 0.

    Attributes
    ----------
    path : Path
        The file of annotations.
    area : BaseGeometry
        Polygon or MultiPolygon, level-0 px.
    classes : tuple of str
        Classes of the annotations in it, sorted; `UNCLASSIFIED` for one without.
    annotations : int
        How many they are.
    notes : tuple of str
        What of the file was passed over or mended.
    """

    path: Path
    area: BaseGeometry
    classes: tuple[str, ...]
    annotations: int
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the area, hex: equal areas, equal nuclei."""
        return hashlib.sha256(shapely.to_wkb(shapely.normalize(self.area))).hexdigest()

    def area_mm2(self, mpp: float) -> float:
        """Area, mm², at a level-0 pixel size in µm/px."""
        return float(self.area.area) * mpp**2 / 1e6

    def contains(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Which points lie inside; the boundary does not.

        Parameters
        ----------
        x, y : array_like of float, same shape
            Level-0 px.

        Returns
        -------
        ndarray of bool
            Of the points' shape.
        """
        shapely.prepare(self.area)
        return np.asarray(shapely.contains_xy(self.area, x, y))

    def meets(self, boxes: ArrayLike) -> NDArray[np.bool_]:
        """Which rectangles share a point with the area.

        Parameters
        ----------
        boxes : array_like of float, (N, 4)
            x0, y0, x1, y1, level-0 px.

        Returns
        -------
        ndarray of bool, (N,)
        """
        shapely.prepare(self.area)
        rectangles = shapely.box(*np.asarray(boxes, np.float64).reshape(-1, 4).T)
        return np.asarray(shapely.intersects(self.area, rectangles))

    def mask(self, shape: tuple[int, int], step: float) -> NDArray[np.bool_]:
        """Draw the area on a coarse grid that starts at level-0 (0, 0).

        Parameters
        ----------
        shape : tuple of int
            (rows, columns).
        step : float
            Level-0 px per pixel.

        Returns
        -------
        ndarray of bool, (rows, columns)
            Pixels whose centre lies inside.
        """
        return draw(self.area, shape, step)


def find_roi(source: Path, slide: Path, what: str = "annotations") -> Path:
    """File of annotations, or of nuclei, of a slide.

    Parameters
    ----------
    source : Path
        The file itself, or a folder with a file a slide: ``<name>.geojson`` or, without the
        slide's suffix, ``<stem>.geojson``; also ``.geojson.gz``, ``.json`` and ``.zip``.
    slide : Path
    what : str
        What is looked for, for messages.

    Returns
    -------
    Path

    Raises
    ------
    AnnotationError
        There is none.
    """
    if not source.is_dir():
        return source
    names = [f"{name}{suffix}" for name in (slide.name, slide.stem) for suffix in SUFFIXES]
    for name in names:
        if (source / name).is_file():
            return source / name
    raise AnnotationError(
        f"{slide}: no {what} for it in {source}; a file called {slide.stem}.geojson or "
        f"{slide.name}.geojson is looked for"
    )


def read_roi(
    path: Path,
    *,
    dimensions: tuple[int, int],
    offset: tuple[int, int] = (0, 0),
    within_class: Sequence[str] = (),
    without_class: Sequence[str] = (),
) -> Roi:
    """Read annotations as one area.

    Where no class is asked for, annotations of a class that QuPath ignores (its name ends with
    ``*``, such as ``Ignore*``) are cut out of the others.

    Parameters
    ----------
    path : Path
        As `read_annotations` takes it.
    dimensions : tuple of int
        The slide's (width, height), level-0 px.
    offset : tuple of int
        Level-0 (x, y) of the corner at which QuPath's image begins: added to every point.
    within_class : sequence of str
        Only annotations of these classes, upper or lower case.
    without_class : sequence of str
        Annotations of these classes are passed over.

    Returns
    -------
    Roi

    Raises
    ------
    AnnotationError
        The file cannot be read, holds no such annotation, or none that lies on the slide.
    """
    found = read_annotations(path)
    shapes = [(item.class_name or UNCLASSIFIED, item.geometry) for item in found]
    shapes = [(name, shape) for name, shape in shapes if name not in without_class]
    counts = Counter(name for name, _ in shapes)
    listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    notes = list(found.notes)
    if not shapes:
        said = f" ({'; '.join(notes)})" if notes else ""
        raise AnnotationError(
            f"{path}: no annotation with an area{said}; in QuPath select the annotations, then "
            "File > Export objects as GeoJSON"
        )
    if within_class:
        wanted = {name.casefold() for name in within_class}
        chosen = [(name, shape) for name, shape in shapes if name.casefold() in wanted]
        if not chosen:
            raise AnnotationError(
                f"{path}: no annotation of class {' or '.join(within_class)}; it has {listed}"
            )
        missing = wanted - {name.casefold() for name, _ in chosen}
        if missing:
            notes.append(f"no annotation of class {' or '.join(sorted(missing))}")
        ignored = []
    else:
        chosen = [(name, shape) for name, shape in shapes if not name.endswith("*")]
        ignored = [shape for name, shape in shapes if name.endswith("*")]
    area = shapely.union_all([shape for _, shape in chosen])
    area = shapely.difference(area, shapely.union_all(ignored)) if ignored else area
    area = shapely.transform(area, lambda points: points + np.asarray(offset, np.float64))
    drawn = float(area.area)
    area = polygons(shapely.intersection(area, shapely.box(0, 0, *dimensions)))
    if area.is_empty:
        raise AnnotationError(
            f"{path}: none of its annotations ({listed}) lies on the slide of "
            f"{dimensions[0]} x {dimensions[1]} px; were they drawn on another image? "
            "Coordinates are px of the full image, not µm"
        )
    if area.area < 0.99 * drawn:
        notes.append(f"{1 - area.area / drawn:.0%} of the annotated area lies beyond the slide")
    classes = tuple(sorted({name for name, _ in chosen}))
    return Roi(path, area, classes, len(chosen), tuple(notes))
