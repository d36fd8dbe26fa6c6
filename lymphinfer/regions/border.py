"""The border of a class: where it runs, and how far nuclei lie from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

F64 = NDArray[np.float64]

LEVELS = ((16.0, 1000.0), (4.0, 60.0), (1.0, 5.0))
"""Spacing h of the samples of a border and from which distance d on they will do, both µm. The
nearest point of a border is a sample or lies within h / 2 of one on its segment, so the distance is
off by less than h² / 8 d: 0.04 µm."""
EDGE_UM = 5.0
"""What runs so close along the image's edge is where the picture ends, not the class."""
GAP_UM = 2.0
_LONGEST_UM = 1e6
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
        self._rings = [
            _Ring.of(shapely.get_coordinates(ring), dimensions, mpp)
            for ring in shapely.get_rings(shapely.get_parts(area))
        ]
        found = [ring.segments[ring.kept] for ring in self._rings]
        self.segments: F64 = np.concatenate([np.empty((0, 2, 2)), *found])

    def within(self, distance_um: float) -> BaseGeometry:
        """Area within a distance of the border, both sides, level-0 px."""
        if not len(self.segments) or distance_um <= 0:
            return shapely.Polygon()
        lines = shapely.line_merge(shapely.multilinestrings(shapely.linestrings(self.segments)))
        return shapely.buffer(lines, distance_um / self.mpp, quad_segs=_QUARTER)

    def distances_um(self, x: F64, y: F64) -> F64:
        """Distance of points from the border, negative inside of the area.

        Exact within 5 µm, and to 0.04 µm beyond: see `LEVELS`.

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
        from scipy.spatial import cKDTree

        points = np.stack([x, y], axis=1)
        found = np.empty(len(points))
        left = np.arange(len(points))
        coarse = max(1.0, self._length_um() / _LONGEST_UM)
        for spacing, enough in LEVELS:
            samples, owners = self._samples(spacing * coarse / self.mpp)
            far, nearest = cKDTree(samples).query(points[left])
            done = far >= enough * coarse / self.mpp
            rows, which = left[done], owners[nearest[done]]
            found[rows] = np.minimum(
                *(_to_segments(points[rows], self.segments[which[:, end]]) for end in (0, 1))
            )
            left = left[~done]
        if len(left):
            tree = shapely.STRtree(shapely.linestrings(self.segments))
            nearest = tree.nearest(shapely.points(points[left]))
            found[left] = _to_segments(points[left], self.segments[nearest])
        return np.where(inside, -found, found) * self.mpp

    def _length_um(self) -> float:
        along = self.segments[:, 1] - self.segments[:, 0]
        return float(np.hypot(along[:, 0], along[:, 1]).sum()) * self.mpp

    def _samples(self, step: float) -> tuple[F64, NDArray[np.intp]]:
        """Points along the border, vertices among them, and the two segments that meet at each."""
        made = [ring.samples(step) for ring in self._rings]
        shift = np.cumsum([0, *(int(ring.kept.sum()) for ring in self._rings)])
        owners = [owner + first for (_, owner), first in zip(made, shift, strict=False)]
        return np.concatenate([points for points, _ in made]), np.concatenate(owners)


@dataclass(frozen=True, eq=False)
class _Ring:
    """Segments of a ring, and which of them are border."""

    segments: F64
    kept: NDArray[np.bool_]

    @classmethod
    def of(cls, ring: F64, dimensions: tuple[int, int], mpp: float) -> _Ring:
        segments = np.stack([ring[:-1], ring[1:]], axis=1)
        return cls(segments, ~_on_edge(segments, dimensions, EDGE_UM / mpp))

    def samples(self, step: float) -> tuple[F64, NDArray[np.intp]]:
        segments, kept = self.segments, self.kept
        owner = np.flatnonzero(kept)
        along = segments[owner, 1] - segments[owner, 0]
        pieces = np.maximum(1, np.ceil(np.hypot(along[:, 0], along[:, 1]) / step)).astype(np.intp)
        each = np.repeat(owner, pieces)
        place = np.arange(len(each)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        share = (place / np.repeat(pieces, pieces))[:, None]
        points = segments[each, 0] * (1 - share) + segments[each, 1] * share
        # At a vertex two segments meet, unless one runs along the image's edge.
        before = (each - 1) % len(segments)
        other = np.where((place == 0) & kept[before], before, each)
        ends = owner[~kept[(owner + 1) % len(segments)]]
        points = np.concatenate([points, segments[ends, 1]])
        owners = np.concatenate([np.stack([each, other], axis=1), np.stack([ends, ends], axis=1)])
        return points, np.asarray((np.cumsum(kept) - 1)[owners])


def _on_edge(segments: F64, dimensions: tuple[int, int], near: float) -> NDArray[np.bool_]:
    x, y = segments[..., 0], segments[..., 1]
    width, height = dimensions
    sides = (x <= near, x >= width - near, y <= near, y >= height - near)
    return np.asarray(np.any([side.all(axis=1) for side in sides], axis=0))


def _to_segments(points: F64, segments: F64) -> F64:
    """Distance of each point from its segment."""
    start, along = segments[:, 0], segments[:, 1] - segments[:, 0]
    length2 = np.einsum("ij,ij->i", along, along)
    share = np.einsum("ij,ij->i", points - start, along) / np.where(length2 > 0, length2, 1.0)
    off: Any = points - start - np.clip(share, 0, 1)[:, None] * along
    return np.asarray(np.hypot(off[:, 0], off[:, 1]), np.float64)
