"""Regions of interest: QuPath annotations that limit where nuclei are looked for."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from lymphinfer.errors import AnnotationError

SUFFIXES = (".geojson", ".geojson.gz", ".json")
UNCLASSIFIED = "Unclassified"


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
    """

    path: Path
    area: BaseGeometry
    classes: tuple[str, ...]
    annotations: int

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
        mask = np.zeros(shape, dtype=bool)
        x0, y0, x1, y1 = self.area.bounds
        columns = slice(max(0, int(x0 / step)), max(0, int(x1 / step) + 1))
        for row in range(max(0, int(y0 / step)), min(shape[0], int(y1 / step) + 1)):
            x = (np.arange(shape[1])[columns] + 0.5) * step
            mask[row, columns] = self.contains(x, np.full(x.shape, (row + 0.5) * step))
        return mask


def find_roi(source: Path, slide: Path) -> Path:
    """File of annotations of a slide.

    Parameters
    ----------
    source : Path
        The file itself, or a folder with a file a slide: ``<name>.geojson`` or, without the
        slide's suffix, ``<stem>.geojson``; also ``.geojson.gz`` and ``.json``.
    slide : Path

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
        f"{slide}: no annotations for it in {source}; a file called {slide.stem}.geojson or "
        f"{slide.name}.geojson is looked for"
    )


def read_roi(
    path: Path,
    *,
    dimensions: tuple[int, int],
    offset: tuple[int, int] = (0, 0),
    within_class: Sequence[str] = (),
) -> Roi:
    """Read the annotations that QuPath has exported as GeoJSON.

    Detections, cells and TMA cores in the file are passed over, as are points and lines. Where no
    class is asked for, annotations of a class that QuPath ignores (its name ends with ``*``, such
    as ``Ignore*``) are cut out of the others.

    Parameters
    ----------
    path : Path
        A FeatureCollection, a feature, or a list of features; may be gzipped.
    dimensions : tuple of int
        The slide's (width, height), level-0 px.
    offset : tuple of int
        Level-0 (x, y) of the corner at which QuPath's image begins: added to every point.
    within_class : sequence of str
        Only annotations of these classes, upper or lower case.

    Returns
    -------
    Roi

    Raises
    ------
    AnnotationError
        The file cannot be read, holds no such annotation, or none that lies on the slide.
    """
    shapes = list(_annotations(path))
    found = Counter(name for name, _ in shapes)
    listed = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
    if not shapes:
        raise AnnotationError(
            f"{path}: no annotation with an area; in QuPath select the annotations, then "
            "File > Export objects as GeoJSON"
        )
    if within_class:
        wanted = {name.casefold() for name in within_class}
        chosen = [(name, shape) for name, shape in shapes if name.casefold() in wanted]
        if not chosen:
            raise AnnotationError(
                f"{path}: no annotation of class {' or '.join(within_class)}; it has {listed}"
            )
        ignored = []
    else:
        chosen = [(name, shape) for name, shape in shapes if not name.endswith("*")]
        ignored = [shape for name, shape in shapes if name.endswith("*")]
    area = shapely.union_all([shape for _, shape in chosen])
    area = shapely.difference(area, shapely.union_all(ignored)) if ignored else area
    area = shapely.transform(area, lambda points: points + np.asarray(offset, np.float64))
    area = _polygons(shapely.intersection(area, shapely.box(0, 0, *dimensions)))
    if area.is_empty:
        raise AnnotationError(
            f"{path}: none of its annotations ({listed}) lies on the slide of "
            f"{dimensions[0]} x {dimensions[1]} px; were they drawn on another image?"
        )
    return Roi(path, area, tuple(sorted({name for name, _ in chosen})), len(chosen))


def _annotations(path: Path) -> Iterator[tuple[str, BaseGeometry]]:
    """Class and area of each annotation, in the file's own coordinates."""
    for number, feature in enumerate(_features(path), start=1):
        try:
            properties = feature.get("properties") or {}
            if properties.get("objectType", "annotation") != "annotation":
                continue
            geometry = feature["geometry"]
            if geometry is None or geometry["type"] not in ("Polygon", "MultiPolygon"):
                continue
            area = _polygons(shapely.make_valid(shapely.geometry.shape(geometry)))
            name = _class_name(properties.get("classification"))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError,
                shapely.errors.ShapelyError) as error:  # fmt: skip
            raise AnnotationError(
                f"{path}: feature {number} is not as QuPath writes it ({type(error).__name__}: "
                f"{error}); export it again"
            ) from error
        if not area.is_empty:
            yield name, area


def _features(path: Path) -> list[dict[str, Any]]:
    """The features of a GeoJSON file, whichever way they are wrapped and compressed."""
    try:
        content = orjson.loads(_unpacked(path.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise AnnotationError(
            f"{path}: not a readable GeoJSON file ({error}); in QuPath use "
            "File > Export objects as GeoJSON"
        ) from error
    if isinstance(content, dict):
        kind = content.get("type")
        content = content.get("features") if kind == "FeatureCollection" else [content]
    if not isinstance(content, list):
        raise AnnotationError(f"{path}: holds no features; it is JSON, but not GeoJSON")
    return [
        {"geometry": item} if isinstance(item, dict) and "coordinates" in item else item
        for item in content
    ]


def _unpacked(raw: bytes) -> bytes:
    """A file's text, out of gzip or the one entry of a zip."""
    if raw[:2] == b"\x1f\x8b":
        return gzip.decompress(raw)
    if raw[:4] != b"PK\x03\x04":
        return raw
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise ValueError(f"a zip with {len(names)} files in it, not one")
        return archive.read(names[0])


def _class_name(classification: Any) -> str:
    """QuPath's own way to write a class: its names joined by a colon."""
    if not classification:
        return UNCLASSIFIED
    names = classification.get("names") or [classification["name"]]
    return ": ".join(str(name) for name in names)


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """What has an area of a geometry; points and lines that a repair or a cut leaves are not."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])
