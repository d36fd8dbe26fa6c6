"""Regions that a user drew in QuPath: which part of a slide to work on."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from lymphinfer.errors import SlideError

if TYPE_CHECKING:
    from lymphinfer.slides.grid import Tile

_AREAS = ("Polygon", "MultiPolygon")


@dataclass(frozen=True)
class Roi:
    """The area to work on.

    Attributes
    ----------
    area : shapely geometry
        Polygon or MultiPolygon, level-0 px.
    """

    area: BaseGeometry

    @property
    def digest(self) -> str:
        """Hex sha256 of the area: part of what a nucleus depends on."""
        return hashlib.sha256(shapely.to_wkb(self.area)).hexdigest()

    def contains(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Whether points, level-0 px, lie inside; one on the border does not."""
        inside: NDArray[np.bool_] = shapely.contains_xy(self.area, x, y)
        return inside

    def meets(self, tiles: list[Tile], downsample: float) -> list[Tile]:
        """Those tiles whose core shares area with the region.

        Parameters
        ----------
        tiles : list of Tile
        downsample : float
            Level-0 pixels per working pixel.

        Returns
        -------
        list of Tile
        """
        if not tiles:
            return []
        cores = np.array([tile.core for tile in tiles], np.float64) * downsample
        shapely.prepare(self.area)
        hit = shapely.intersects(self.area, shapely.box(*cores.T))
        return [tile for tile, keep in zip(tiles, hit, strict=True) if keep]


def read_roi(
    path: Path, *, within_class: str | None = None, offset: tuple[int, int] = (0, 0)
) -> Roi:
    """Read annotations exported from QuPath.

    Parameters
    ----------
    path : Path
        ``.geojson``, ``.geojson.gz`` or ``.zip`` of them: a FeatureCollection, a list of features,
        or one. Detections, points and lines are passed over.
    within_class : str, optional
        Only annotations of this class, such as ``Tumor``.
    offset : tuple of int
        Added to every coordinate: where QuPath's image begins on the slide (``openslide.bounds``),
        level-0 px.

    Returns
    -------
    Roi
        The union of the annotations' areas.

    Raises
    ------
    SlideError
        The file cannot be read, or has no area of that class; the message lists the classes.
    """
    shapes: list[BaseGeometry] = []
    classes: set[str] = set()
    for feature in _features(path):
        properties = feature.get("properties") or {}
        if properties.get("objectType", "annotation") not in ("annotation", "tile"):
            continue
        geometry = feature.get("geometry") or {}
        if geometry.get("type") not in _AREAS:
            continue
        name = _class_name(properties.get("classification"))
        classes.add(name or "unclassified")
        if within_class is not None and name != within_class:
            continue
        try:
            shape = shapely.geometry.shape(geometry)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise SlideError(f"{path}: an annotation has no readable outline ({error})") from error
        shapes.append(shapely.make_valid(shape))
    area = shapely.union_all(shapes) if shapes else shapely.Polygon()
    parts = [g for g in shapely.get_parts(area) if g.geom_type == "Polygon" and g.area > 0]
    if not parts:
        wanted = "" if within_class is None else f" of class {within_class!r}"
        there = f"; its areas are of: {', '.join(sorted(classes))}" if classes else ""
        raise SlideError(
            f"{path}: no annotation with an area{wanted}{there}. Draw one in QuPath and export it: "
            "File > Export objects as GeoJSON"
        )
    moved = shapely.transform(shapely.union_all(parts), lambda xy: xy + np.asarray(offset))
    return Roi(moved)


def _class_name(classification: Any) -> str:
    if isinstance(classification, dict):
        names = classification.get("names")
        return ": ".join(names) if names else str(classification.get("name", ""))
    return str(classification or "")


def _features(path: Path) -> Iterator[dict[str, Any]]:
    for content in _contents(path):
        try:
            document = json.loads(content)
        except ValueError as error:
            raise SlideError(f"{path}: not GeoJSON ({error})") from error
        if isinstance(document, dict) and "features" in document:
            document = document["features"]
        rows = document if isinstance(document, list) else [document]
        for row in rows:
            if not isinstance(row, dict) or "geometry" not in row:
                raise SlideError(f"{path}: not GeoJSON as QuPath exports it: no features with a "
                                 "geometry")  # fmt: skip
            yield row


def _contents(path: Path) -> Iterator[bytes]:
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if name.endswith(".geojson"):
                        yield archive.read(name)
        elif path.suffix == ".gz":
            yield gzip.decompress(path.read_bytes())
        else:
            yield path.read_bytes()
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise SlideError(f"{path}: cannot be read ({error})") from error
