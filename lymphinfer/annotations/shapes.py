"""Geometries as people's programs write them, to valid areas."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from lymphinfer.slides.outline import polygons

AREAS = ("polygon", "multipolygon", "geometrycollection")
WITHOUT_AREA = ("point", "multipoint", "linestring", "multilinestring")


def area_of(geometry: Any, words: Counter[str]) -> BaseGeometry:
    """Area of a GeoJSON geometry.

    Rings are closed where they are open; a third coordinate is left out, as are points that are no
    finite number; what crosses itself is mended, and overlapping parts are joined.

    Parameters
    ----------
    geometry : mapping
        A GeoJSON geometry of any type.
    words : Counter
        What was done or left out, counted up; the keys are words for the user.

    Returns
    -------
    BaseGeometry
        A valid Polygon or MultiPolygon; empty where there is no area.

    Raises
    ------
    KeyError, TypeError, ValueError
        It is not a geometry, or its coordinates are no numbers.
    """
    kind = str(geometry["type"]).lower()
    if kind == "geometrycollection":
        found = [area_of(part, words) for part in geometry["geometries"] or ()]
        return polygons(shapely.union_all(found))
    if kind in WITHOUT_AREA:
        words["points or lines passed over, which have no area"] += 1
        return shapely.Polygon()
    if kind not in AREAS:
        raise ValueError(f"geometry type {geometry['type']!r}")
    coordinates = geometry["coordinates"] or ()
    parts = [coordinates] if kind == "polygon" else coordinates
    made = [_polygon(part, words) for part in parts if part]
    whole = polygons(shapely.union_all(made))
    if whole.is_empty:
        words["shapes without an area passed over"] += 1
    return whole


def _polygon(rings: Any, words: Counter[str]) -> BaseGeometry:
    """Shell less its holes; a hole that reaches beyond the shell adds nothing."""
    shell, *holes = (_ring(ring, words) for ring in rings)
    if shell is None or shell.is_empty:
        return shapely.Polygon()
    cut = [hole for hole in holes if hole is not None]
    return shapely.difference(shell, shapely.union_all(cut)) if cut else shell


def _ring(ring: Any, words: Counter[str]) -> BaseGeometry | None:
    points = np.array([[float(v) for v in point[:2]] for point in ring], np.float64).reshape(-1, 2)
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        words["points left out, of which a coordinate is not a finite number"] += int(
            (~finite).sum()
        )
        points = points[finite]
    if len(points) < 3:
        return None
    return _mended(points, words)


def _mended(points: NDArray[np.float64], words: Counter[str]) -> BaseGeometry:
    closed = points if (points[0] == points[-1]).all() else np.vstack([points, points[:1]])
    if len(closed) < 4:
        return shapely.Polygon()
    shape = shapely.Polygon(closed)
    if shape.is_valid:
        return shape
    words["outlines that cross themselves mended"] += 1
    return polygons(shapely.make_valid(shape, method="structure", keep_collapsed=False))
