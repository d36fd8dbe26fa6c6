"""Neighbours of nuclei, and aggregates of lymphocytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Aggregate:
    """A cluster of nuclei.

    Attributes
    ----------
    nuclei : int
    x, y : float
        Mean of their centroids, level-0 px.
    hull : BaseGeometry
        Convex hull of their centroids, level-0 px; a Polygon, or less where they lie in a line.
    """

    nuclei: int
    x: float
    y: float
    hull: BaseGeometry


def neighbours(x: F64, y: F64, positive: NDArray[np.bool_], radius: float) -> NDArray[np.int32]:
    """Positive nuclei within a radius of each nucleus, itself not counted.

    Parameters
    ----------
    x, y : ndarray of float64, shape (N,)
    positive : ndarray of bool, shape (N,)
    radius : float
        In the unit of `x` and `y`.

    Returns
    -------
    ndarray of int32, shape (N,)
    """
    points = np.stack([x, y], axis=1)
    if not positive.any():
        return np.zeros(len(x), np.int32)
    from scipy.spatial import cKDTree

    found = cKDTree(points[positive]).query_ball_point(points, radius, return_length=True)
    return np.asarray(found, np.int32) - positive.astype(np.int32)


def aggregates(
    x: F64, y: F64, positive: NDArray[np.bool_], *, reach: float, least: int
) -> tuple[NDArray[np.int32], list[Aggregate]]:
    """Cluster positive nuclei by density: DBSCAN (Ester et al. 1996).

    Parameters
    ----------
    x, y : ndarray of float64, shape (N,)
        Level-0 px.
    positive : ndarray of bool, shape (N,)
    reach : float
        DBSCAN's eps, level-0 px.
    least : int
        DBSCAN's min_samples.

    Returns
    -------
    numbers : ndarray of int32, shape (N,)
        Of each nucleus' aggregate, from 1 on; 0 for none.
    found : list of Aggregate
        The largest first; number 1 is the first.
    """
    from sklearn.cluster import DBSCAN

    numbers = np.zeros(len(x), np.int32)
    rows = np.flatnonzero(positive)
    if len(rows) < least:
        return numbers, []
    points = np.stack([x[rows], y[rows]], axis=1)
    labels = DBSCAN(eps=reach, min_samples=least).fit_predict(points)
    sizes = np.bincount(labels[labels >= 0])
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(sizes), np.int32)
    rank[order] = np.arange(1, len(sizes) + 1, dtype=np.int32)
    clustered = labels >= 0
    numbers[rows[clustered]] = rank[labels[clustered]]
    by_number = np.argsort(numbers[rows], kind="stable")
    parts = np.split(points[by_number], np.cumsum(np.bincount(numbers[rows]))[:-1])
    return numbers, [_aggregate(part) for part in parts[1:]]


def _aggregate(points: F64) -> Aggregate:
    x, y = points.mean(axis=0).tolist()
    return Aggregate(len(points), x, y, shapely.MultiPoint(points).convex_hull)
