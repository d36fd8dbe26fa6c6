"""Outlines of nuclei: fewer vertices, a 0.01 px grid, and valid as QuPath sees it.

QuPath refuses a whole file for one bad ring, and it looks at rings snapped to 0.01 px. So outlines
are simplified, rounded, and only then judged; the few that fail are repaired or dropped.
Rings are stored open (the first vertex is not repeated); closing them is the writer's job.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

GRID_PX = 0.01
MAX_VERTICES = 20
_CLEARANCE_PX = 2 * GRID_PX
_RESCALE_LIMITS = (0.8, 1.25)
# Rings judged at a time: what fits the processor's cache is twice as fast.
_BLOCK = 2048

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Rings:
    """Open rings of different lengths, one after the other.

    Attributes
    ----------
    coords : ndarray of float64, shape (M, 2)
        x, y of every vertex, level-0 px.
    offsets : ndarray of int64, shape (N + 1,)
        Ring i is ``coords[offsets[i]:offsets[i + 1]]``; no ring is empty.
    """

    coords: F64
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> F64:
        return self.coords[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Vertices of each ring, shape (N,)."""
        return np.diff(self.offsets)

    @cached_property
    def hundredths(self) -> NDArray[np.int64]:
        """Vertices in whole hundredths of a level-0 px, shape (M, 2)."""
        return np.rint(self.coords / GRID_PX).astype(np.int64)

    @cached_property
    def following(self) -> NDArray[np.int64]:
        """For each vertex the index of the next one of its ring, shape (M,)."""
        following = np.arange(1, len(self.coords) + 1)
        following[self.offsets[1:] - 1] = self.offsets[:-1]
        return following

    def take(self, indices: NDArray[np.int64]) -> Rings:
        """Rings at `indices`, in that order."""
        counts = self.counts[indices]
        offsets = _offsets(counts)
        vertices = np.repeat(self.offsets[:-1][indices] - offsets[:-1], counts)
        return Rings(self.coords[vertices + np.arange(offsets[-1])], offsets)

    def between(self, first: int, end: int) -> Rings:
        """Rings `first` to before `end`, or to the last; no copy of their vertices."""
        offsets = self.offsets[first : end + 1]
        return Rings(self.coords[offsets[0] : offsets[-1]], offsets - offsets[0])

    @classmethod
    def of_hundredths(cls, hundredths: NDArray[np.int64], offsets: NDArray[np.int64]) -> Rings:
        """Rings of vertices in whole hundredths of a level-0 px, shape (M, 2)."""
        # A division by 100 gives the double nearest to the decimal.
        rings = cls(hundredths / 100, offsets)
        vars(rings)["hundredths"] = hundredths
        return rings

    @classmethod
    def concatenate(cls, parts: list[Rings]) -> Rings:
        """Rings of several sets as one."""
        coords = [part.coords for part in parts] or [np.empty((0, 2))]
        counts = [part.counts for part in parts] or [np.empty(0, np.int64)]
        return cls(np.concatenate(coords), _offsets(np.concatenate(counts)))


@dataclass(frozen=True)
class Cleaned:
    """What `clean` made of N outlines.

    Attributes
    ----------
    rings : Rings
        K valid rings on the 0.01 px grid, shoelace area positive.
    kept : ndarray of int64, shape (K,)
        Which of the N outlines they are, ascending: use it to filter the other columns.
    repaired : int
        How many of the K were invalid and had to be repaired.
    dropped : int
        N - K.
    """

    rings: Rings
    kept: NDArray[np.int64]
    repaired: int
    dropped: int


def simplify(polygons: F64, max_vertices: int = 16) -> F64:
    """Remove the vertices that matter least, keeping each outline's area.

    Visvalingam's algorithm (Visvalingam & Whyatt 1993), one vertex of every outline at a time: the
    one that spans the smallest triangle with its neighbours. The result is scaled about its mean
    vertex to the area before, because dropping vertices of a convex outline always shrinks it.

    Parameters
    ----------
    polygons : ndarray of float, shape (N, V, 2)
        Open outlines, x, y in level-0 px.
    max_vertices : int
        Vertices to keep; outlines that have no more are returned as they are.

    Returns
    -------
    ndarray of float64, shape (N, min(V, max_vertices), 2)
    """
    polygons = np.asarray(polygons, dtype=np.float64)
    n, vertices = polygons.shape[:2]
    if vertices <= max_vertices or n == 0:
        return polygons[:, :max_vertices]
    # Relative coordinates keep the small triangles' areas exact far from the origin.
    origin = polygons[:, :1]
    points = polygons - origin
    area = _shoelace(points)
    # Two planes, each contiguous: three times as fast here as one array of pairs.
    x, y = np.ascontiguousarray(points.transpose(2, 0, 1))
    while x.shape[1] > max_vertices:
        dx, dy = (np.diff(np.concatenate([v[:, -1:], v, v[:, :1]], axis=1)) for v in (x, y))
        triangle = np.abs(dx[:, :-1] * dy[:, 1:] - dy[:, :-1] * dx[:, 1:])
        keep = np.ones(triangle.shape, dtype=bool)
        keep[np.arange(n), triangle.argmin(axis=1)] = False
        x, y = x[keep].reshape(n, -1), y[keep].reshape(n, -1)
    points = np.stack([x, y], axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(area / _shoelace(points))
    low, high = _RESCALE_LIMITS
    scale = np.where((scale > low) & (scale < high), scale, 1.0)[:, None, None]
    middle = points.mean(axis=1, keepdims=True)
    result: F64 = origin + middle + (points - middle) * scale
    return result


def clean(polygons: F64, max_vertices: int = 16) -> Cleaned:
    """Turn outlines into valid rings on the 0.01 px grid.

    Parameters
    ----------
    polygons : ndarray of float, shape (N, V, 2)
        Open outlines, x, y in level-0 px, as star-convex rays give them.
    max_vertices : int
        Vertices a ring may have, 3 to 20; a repaired ring may have up to 20.

    Returns
    -------
    Cleaned

    Raises
    ------
    ValueError
        If the shape is not (N, V, 2) or `max_vertices` is out of range.
    """
    polygons = np.asarray(polygons, dtype=np.float64)
    if polygons.ndim != 3 or polygons.shape[2] != 2:
        raise ValueError(f"outlines must have shape (N, V, 2), not {polygons.shape}")
    if not 3 <= max_vertices <= MAX_VERTICES:
        raise ValueError(f"max_vertices must be 3 to {MAX_VERTICES}, not {max_vertices}")
    finite = np.flatnonzero(np.isfinite(polygons).all(axis=(1, 2)))
    points = np.rint(simplify(polygons[finite], max_vertices) / GRID_PX)
    backwards = _shoelace(points) < 0
    points[backwards] = points[backwards, ::-1]

    distinct = (points != np.roll(points, 1, axis=1)).any(axis=2)
    counts = distinct.sum(axis=1)
    ringlike = np.flatnonzero(counts >= 3)
    # A division by 100 gives the double nearest to the decimal; a product with 0.01 does not.
    coords = points[ringlike][distinct[ringlike]] / 100
    rings = Rings(coords, _offsets(counts[ringlike]))
    good = is_valid(rings)

    bad = np.flatnonzero(~good).tolist()
    repaired = [(i, ring) for i in bad if (ring := mended(rings[i])) is not None]
    parts = [rings.take(np.flatnonzero(good))]
    parts += [Rings(ring, np.array([0, len(ring)])) for _, ring in repaired]
    sources = np.concatenate([np.flatnonzero(good), [i for i, _ in repaired]]).astype(np.int64)
    order = np.argsort(sources, kind="stable")
    kept = finite[ringlike[sources[order]]]
    return Cleaned(
        Rings.concatenate(parts).take(order), kept, len(repaired), len(polygons) - len(kept)
    )


def is_valid(rings: Rings) -> NDArray[np.bool_]:
    """Whether QuPath accepts each ring: one non-empty polygon, also when snapped to 0.01 px.

    A ring that is star-shaped about its centroid with room to spare is valid without asking GEOS:
    each vertex is further from every edge it does not touch than snapping can move it, since that
    edge lies beyond the ray through a neighbouring vertex. GEOS judges the others.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    if len(rings) == 0:
        return np.zeros(0, dtype=bool)
    if len(rings) > _BLOCK:
        blocks = [rings.between(i, i + _BLOCK) for i in range(0, len(rings), _BLOCK)]
        return np.concatenate([is_valid(block) for block in blocks])
    x, y = _planes(rings, centroids(rings))
    x_next, y_next = x.take(rings.following), y.take(rings.following)
    length = np.sqrt(x * x + y * y)
    reach = np.maximum(length, length.take(rings.following))
    clear = x * y_next - y * x_next > _CLEARANCE_PX * reach
    turns = (y < 0) & (y_next >= 0)
    starts = rings.offsets[:-1]
    valid: NDArray[np.bool_] = np.logical_and.reduceat(clear, starts)
    valid &= np.add.reduceat(turns, starts, dtype=np.int64) == 1
    for i in np.flatnonzero(~valid).tolist():
        valid[i] = len(rings[i]) >= 3 and _accepted(shapely.Polygon(rings[i]))
    return valid


def areas(rings: Rings) -> F64:
    """Area inside each ring, px² at level 0, shape (N,)."""
    return np.abs(_moments(rings)[0])


def centroids(rings: Rings) -> F64:
    """Centroid of each ring's area, x, y in level-0 px, shape (N, 2); of its vertices if flat."""
    area, moment, mean = _moments(rings)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = moment / (6 * area[:, None])
    relative = np.where(area[:, None] == 0, mean, relative)
    return rings.coords[rings.offsets[:-1]] + relative


def bounds(rings: Rings) -> F64:
    """Bounding box of each ring: x0, y0, x1, y1 in level-0 px, shape (N, 4)."""
    starts = rings.offsets[:-1]
    low = np.minimum.reduceat(rings.coords, starts, axis=0)
    return np.concatenate([low, np.maximum.reduceat(rings.coords, starts, axis=0)], axis=1)


def _moments(rings: Rings) -> tuple[F64, F64, F64]:
    """Signed area (N,), first moments times six (N, 2) and mean (N, 2), from the first vertex."""
    starts = rings.offsets[:-1]
    x, y = _planes(rings, rings.coords[starts])
    x_next, y_next = x.take(rings.following), y.take(rings.following)
    cross = x * y_next - y * x_next
    area = np.add.reduceat(cross, starts) / 2
    moment = [
        np.add.reduceat((v + after) * cross, starts) for v, after in ((x, x_next), (y, y_next))
    ]
    mean = [np.add.reduceat(v, starts) / rings.counts for v in (x, y)]
    return area, np.stack(moment, axis=1), np.stack(mean, axis=1)


def _planes(rings: Rings, origins: F64) -> F64:
    """Vertices' x and y from each ring's origin (N, 2), shape (2, M): faster than pairs."""
    result: F64 = np.ascontiguousarray((rings.coords - np.repeat(origins, rings.counts, axis=0)).T)
    return result


def _shoelace(points: F64) -> F64:
    """Signed area of dense outlines (N, V, 2)."""
    here = points - points[:, :1]
    there = np.roll(here, -1, axis=1)
    cross = here[..., 0] * there[..., 1] - here[..., 1] * there[..., 0]
    area: F64 = cross.sum(axis=1) / 2
    return area


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _accepted(polygon: Any) -> bool:
    """QuPath's verdict on a shapely polygon whose vertices are on the grid."""
    if not shapely.is_valid(polygon) or shapely.area(polygon) <= 0:
        return False
    snapped = _snapped(polygon)
    return bool(snapped.geom_type == "Polygon" and shapely.area(snapped) > 0)


def _snapped(geometry: Any) -> Any:
    """Geometry on the 0.01 px grid; empty where GEOS finds no way to put it there."""
    try:
        return shapely.set_precision(geometry, GRID_PX)
    except shapely.GEOSException:
        return shapely.Polygon()


def mended(ring: F64, max_vertices: int | None = MAX_VERTICES) -> F64 | None:
    """Largest valid part of a ring's inside, as an open ring; None if nothing is left of it.

    With at most so many vertices; with all of them for None.
    """
    whole = _snapped(shapely.make_valid(shapely.Polygon(ring)))
    parts = [part for part in shapely.get_parts(whole) if part.geom_type == "Polygon"]
    if not parts:
        return None
    shell = shapely.get_exterior_ring(max(parts, key=shapely.area))
    found: F64 = shapely.get_coordinates(shell)[:-1]
    if max_vertices is not None:
        found = simplify(found[None], max_vertices)[0]
    found = np.rint(found / GRID_PX) / 100
    found = found[(found != np.roll(found, 1, axis=0)).any(axis=1)]
    if len(found) < 3 or not _accepted(shapely.Polygon(found)):
        return None
    return found if _shoelace(found[None])[0] > 0 else found[::-1]
