"""Between masks and polygons."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry


def outline(mask: NDArray[np.bool_], step: float, dimensions: tuple[int, int]) -> BaseGeometry:
    """Outline of a coarse mask.

    Parameters
    ----------
    mask : ndarray of bool, (rows, columns)
        On a grid that starts at level-0 (0, 0).
    step : float
        Level-0 px per pixel of the mask.
    dimensions : tuple of int
        The slide's (width, height), level-0 px: nothing reaches beyond.

    Returns
    -------
    BaseGeometry
        Polygon or MultiPolygon, level-0 px, valid, on a grid of 0.01 px; empty without tissue.
    """
    from skimage.measure import find_contours

    # A margin of nothing closes the contours; far smaller than the mask's own error.
    padded = np.pad(mask.astype(np.float32), 2, mode="edge")
    padded = np.pad(padded[1:-1, 1:-1], 1)
    rings = [
        (contour[:, ::-1] - 1.5) * step
        for contour in find_contours(padded, 0.5)
        if len(contour) > 3
    ]
    if not rings:
        return shapely.MultiPolygon()
    area = shapely.simplify(_with_holes(rings), 0.25 * step)
    area = shapely.intersection(shapely.make_valid(area), shapely.box(0, 0, *dimensions))
    return polygons(shapely.set_precision(polygons(area), 0.01))


def _with_holes(rings: list[NDArray[np.float64]]) -> NDArray[np.object_]:
    """Polygons of rings that do not cross: the two ways round are shells and holes."""
    areas = np.array([_signed_area(ring) for ring in rings])
    # The largest ring is a shell.
    turn = np.sign(areas[np.abs(areas).argmax()])
    shells = [i for i, area in enumerate(areas) if area * turn > 0]
    found = shapely.polygons([shapely.linearrings(rings[i]) for i in shells])
    tree = shapely.STRtree(found)
    inner: dict[int, list[NDArray[np.float64]]] = {}
    for i in np.flatnonzero(areas * turn < 0):
        around = tree.query(shapely.Point(rings[i][0]), predicate="within")
        if len(around):
            nearest = min(around, key=lambda shell: abs(areas[shells[shell]]))
            inner.setdefault(int(nearest), []).append(rings[i])
    whole = [shapely.Polygon(rings[n], inner.get(k, ())) for k, n in enumerate(shells)]
    return np.array(whole, dtype=object)


def _signed_area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


def draw(area: BaseGeometry, shape: tuple[int, int], step: float) -> NDArray[np.bool_]:
    """Draw an area on a coarse grid that starts at level-0 (0, 0).

    Parameters
    ----------
    area : BaseGeometry
        Valid, level-0 px.
    shape : tuple of int
        (rows, columns).
    step : float
        Level-0 px per pixel.

    Returns
    -------
    ndarray of bool, (rows, columns)
        Pixels whose centre lies inside.
    """
    rows, columns = shape
    turns = np.zeros((rows, columns + 1), np.uint8)
    for ring in shapely.get_rings(shapely.get_parts(area)):
        points = shapely.get_coordinates(ring) / step - 0.5
        (x0, y0), (x1, y1) = points[:-1].T, points[1:].T
        low, high = np.minimum(y0, y1), np.maximum(y0, y1)
        first = np.clip(np.ceil(low), 0, rows).astype(np.intp)
        crossed = np.clip(np.ceil(high), 0, rows).astype(np.intp) - first
        edge = np.repeat(np.arange(len(crossed)), crossed)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
        x = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        np.add.at(turns, (row, np.clip(np.ceil(x), 0, columns).astype(np.intp)), 1)
    # Inside is where a row has crossed an odd number of edges; a valid area's rings never overlap.
    inside = np.cumsum(turns, axis=1, dtype=np.uint8)[:, :columns] % 2
    return np.asarray(inside == 1)


def polygons(geometry: BaseGeometry | NDArray[np.object_]) -> BaseGeometry:
    """What has an area of geometries, as one; not the points and lines that a cut leaves."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])
