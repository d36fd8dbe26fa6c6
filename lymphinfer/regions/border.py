"""The border of a class: where it runs, and how far nuclei lie from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from shapely.geometry.base import BaseGeometry

F64 = NDArray[np.float64]

SPACING_UM = 1.0
CLOSE_UM = 5.0
EDGE_UM = 5.0
"""What runs so close along the image's edge is where the picture ends, not the class."""
GAP_UM = 2.0
_MOST_SAMPLES = 1_000_000
_QUARTER = 32


def joined(shapes: list[BaseGeometry], mpp: float) -> BaseGeometry:
    """Union of annotations; gaps between them narrower than `GAP_UM` are closed.

    Two annotations drawn side by side touch to within a pixel or two, and what lies between them is
    no border of their class.
    """
    union = shapely.union_all(shapes)
    if len(shapes) < 2:
        return union
    step = GAP_UM / 2 / mpp
    wide = shapely.buffer(union, step, join_style="mitre")
    closed = shapely.buffer(wide, -step, join_style="mitre")
    # Closing may only add: it would cut the tips off needles.
    return shapely.union_all([union, closed])


class Border:
    """Border of an area on a slide; what runs along the image's edge is none.

    Parameters
    ----------
    area : BaseGeometry
        Polygon or MultiPolygon on the image, level-0 px.
    dimensions : tuple of int
        The slide's (width, height), level-0 px.
    mpp : float
        Level-0 pixel size, µm/px.

    Attributes
    ----------
    segments : ndarray of float64, shape (S, 2, 2)
        From point to point (x, y), level-0 px; may be none.
    """

    def __init__(self, area: BaseGeometry, dimensions: tuple[int, int], mpp: float):
        self.area = area
        self.mpp = mpp
        rings = [
            shapely.get_coordinates(ring) for ring in shapely.get_rings(shapely.get_parts(area))
        ]
        pieces = [_ring_samples(ring, dimensions, mpp, self._step(rings)) for ring in rings]
        shift = np.cumsum([0, *(len(piece[0]) for piece in pieces)])
        empty = (np.empty((0, 2, 2)), np.empty((0, 2)), np.empty((0, 2), np.intp))
        self.segments: F64 = np.concatenate([empty[0], *(piece[0] for piece in pieces)])
        self._samples: F64 = np.concatenate([empty[1], *(piece[1] for piece in pieces)])
        self._owners: NDArray[np.intp] = np.concatenate(
            [empty[2], *(piece[2] + n for piece, n in zip(pieces, shift, strict=False))]
        )

    def _step(self, rings: list[F64]) -> float:
        length = sum(float(np.hypot(*np.diff(ring, axis=0).T).sum()) for ring in rings)
        return max(SPACING_UM / self.mpp, length / _MOST_SAMPLES)

    def within(self, distance_um: float) -> BaseGeometry:
        """Area within a distance of the border, both sides, level-0 px."""
        if not len(self.segments) or distance_um <= 0:
            return shapely.Polygon()
        lines = shapely.line_merge(shapely.multilinestrings(shapely.linestrings(self.segments)))
        return shapely.buffer(lines, distance_um / self.mpp, quad_segs=_QUARTER)

    def distances_um(self, x: F64, y: F64) -> F64:
        """Distance of points from the border, negative inside of the area.

        The nearest of samples 1 µm apart gives the segment. Points within 5 µm are looked up
        among all segments, so the result is exact there and to 0.03 µm beyond.

        Parameters
        ----------
        x, y : ndarray of float64, shape (N,)
            Level-0 px.

        Returns
        -------
        ndarray of float64, shape (N,)
            µm; infinite where the area has no border on the image.
        """
        shapely.prepare(self.area)
        inside = shapely.contains_xy(self.area, x, y)
        if not len(self.segments):
            return np.where(inside, -np.inf, np.inf)
        points = np.stack([x, y], axis=1)
        far, nearest = cKDTree(self._samples).query(points)
        found = np.minimum(
            *(_to_segments(points, self.segments[self._owners[nearest, side]]) for side in (0, 1))
        )
        close = np.flatnonzero(far < max(CLOSE_UM / self.mpp, 2 * _spacing(self._samples)))
        if len(close):
            tree = shapely.STRtree(shapely.linestrings(self.segments))
            which = tree.nearest(shapely.points(points[close]))
            found[close] = _to_segments(points[close], self.segments[which])
        return np.where(inside, -found, found) * self.mpp


def _spacing(samples: F64) -> float:
    """Distance between most samples; the cap on their number may have widened it."""
    if len(samples) < _MOST_SAMPLES // 2:
        return 0.0
    return float(np.percentile(np.hypot(*np.diff(samples, axis=0).T), 90))


def _ring_samples(
    ring: F64, dimensions: tuple[int, int], mpp: float, step: float
) -> tuple[F64, F64, NDArray[np.intp]]:
    """Segments of a ring, points along them, and for each point the segments that meet there."""
    segments = np.stack([ring[:-1], ring[1:]], axis=1)
    kept = ~_on_edge(segments, dimensions, EDGE_UM / mpp)
    number = np.cumsum(kept) - 1
    owner = np.flatnonzero(kept)
    long = np.hypot(*(segments[owner, 1] - segments[owner, 0]).T)
    pieces = np.maximum(1, np.ceil(long / step)).astype(np.intp)
    each = np.repeat(owner, pieces)
    place = np.arange(len(each)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    share = (place / np.repeat(pieces, pieces))[:, None]
    samples = segments[each, 0] * (1 - share) + segments[each, 1] * share
    # At a vertex two segments meet, unless one runs along the image's edge.
    before = (each - 1) % len(segments)
    other = np.where((place == 0) & kept[before], before, each)
    ends = owner[~kept[(owner + 1) % len(segments)]]
    samples = np.concatenate([samples, segments[ends, 1]])
    owners = np.concatenate([np.stack([each, other], axis=1), np.stack([ends, ends], axis=1)])
    return segments[kept], samples, number[owners]


def _on_edge(segments: F64, dimensions: tuple[int, int], near: float) -> NDArray[np.bool_]:
    x, y = segments[..., 0], segments[..., 1]
    width, height = dimensions
    sides = (x <= near, x >= width - near, y <= near, y >= height - near)
    return np.any([side.all(axis=1) for side in sides], axis=0)


def _to_segments(points: F64, segments: F64) -> F64:
    """Distance of each point from its segment."""
    start, along = segments[:, 0], segments[:, 1] - segments[:, 0]
    length2 = np.einsum("ij,ij->i", along, along)
    share = np.einsum("ij,ij->i", points - start, along) / np.where(length2 > 0, length2, 1.0)
    off: Any = points - start - np.clip(share, 0, 1)[:, None] * along
    return np.asarray(np.hypot(off[:, 0], off[:, 1]), np.float64)
