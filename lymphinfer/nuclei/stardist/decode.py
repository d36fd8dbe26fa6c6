"""From dense predictions to star-convex polygons: threshold, refine, non-maximum suppression."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import maximum_filter

INNER = 0.7
"""Share of a winner's rays within which no other candidate is looked at again."""


@dataclass(frozen=True)
class StarPolygons:
    """Nuclei of one image, by descending probability.

    Attributes
    ----------
    points : ndarray of float32, (N, 2)
        Ray origins as (x, y), px of the network's input, pixel centres at whole numbers.
    dist : ndarray of float32, (N, n_rays)
        Distances along the rays, px.
    prob : ndarray of float32, (N,)
        Object probability.
    """

    points: NDArray[np.float32]
    dist: NDArray[np.float32]
    prob: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.prob)

    def take(self, index: NDArray[np.integer]) -> StarPolygons:
        """Nuclei at an index, in its order."""
        return StarPolygons(self.points[index], self.dist[index], self.prob[index])

    def vertices(self) -> NDArray[np.float32]:
        """Polygon vertices, (N, n_rays, 2) as (x, y); ray k points to angle 2πk / n_rays."""
        angles = np.linspace(0, 2 * np.pi, self.dist.shape[1], endpoint=False, dtype=np.float32)
        rays = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        vertices: NDArray[np.float32] = self.points[:, None, :] + self.dist[:, :, None] * rays
        return vertices

    def label_image(self, shape: tuple[int, int]) -> NDArray[np.int32]:
        """Draw the nuclei as labels 1..N, the more probable on top.

        Parameters
        ----------
        shape : tuple of int
            (height, width).

        Returns
        -------
        ndarray of int32, (height, width)
        """
        from stardist.geometry import polygons_to_label

        if not len(self):
            return np.zeros(shape, np.int32)
        return np.asarray(
            polygons_to_label(self.dist, self.points[:, ::-1], shape, prob=self.prob), np.int32
        )


def decode(
    prob: NDArray[np.float32],
    dist: NDArray[Any],
    *,
    grid: int,
    prob_threshold: float,
    nms_threshold: float,
    min_dist_px: float = 1e-3,
    peaks_first: bool = True,
    step: float = 1.0,
) -> StarPolygons:
    """Keep the polygons that no better polygon overlaps (Schmidt et al. 2018, section 2).

    Parameters
    ----------
    prob : ndarray of float32, (h, w)
        Object probability on the output grid.
    dist : ndarray of float32, (n_rays, h, w)
        Distances, or uint8, (n_rays, 2, 2, h', w'), see `DensePrediction.dist`.
    grid : int
        Output stride, px.
    prob_threshold : float
        Candidates above it are kept.
    nms_threshold : float
        Overlap above which the less probable polygon goes.
    min_dist_px : float
        Distances are raised to it, as stardist does.
    peaks_first : bool
        Some 25 candidates lie on each nucleus. Let the local maxima compete first; what then lies
        well inside a winner (`INNER` of its rays) is left out of the final round. On real images
        99.8 % of the nuclei are those of a single round, at a quarter of its time in dense tissue
        (`tests/nuclei/test_decode.py`). False: one round, as stardist does.
    step : float
        Px of the network's input that one of `dist` means.

    Returns
    -------
    StarPolygons
        Equal probabilities are ordered by place, so that the result does not depend on chance.
    """
    rows, columns = np.nonzero(prob > prob_threshold)
    scores = prob[rows, columns]
    # In the order in which they lie in memory.
    rays = _values(dist, slice(None), rows, columns).T
    order = np.lexsort((columns, rows, -scores))
    rows, columns, scores = rows[order], columns[order], scores[order]
    rays = np.maximum(rays[order] * np.float32(step), np.float32(min_dist_px))
    points = (np.stack([columns, rows], axis=1) * grid).astype(np.float32)
    candidates = StarPolygons(points, np.ascontiguousarray(rays, dtype=np.float32), scores)
    if peaks_first and len(candidates):
        is_peak = (maximum_filter(prob, size=3) == prob)[rows, columns]
        peaks = np.flatnonzero(is_peak)
        winners = peaks[_suppress(candidates.take(peaks), nms_threshold)]
        open_ = ~_inside(candidates.take(winners), prob.shape, grid)[rows, columns]
        open_[winners] = True
        candidates = candidates.take(np.flatnonzero(open_))
    return candidates.take(_suppress(candidates, nms_threshold))


def _suppress(candidates: StarPolygons, nms_threshold: float) -> NDArray[np.intp]:
    """Indices of the candidates that stardist's greedy non-maximum suppression keeps."""
    if not len(candidates):
        return np.empty(0, np.intp)
    kept = _nms()(
        np.ascontiguousarray(candidates.dist, dtype=np.float32),
        np.ascontiguousarray(candidates.points[:, ::-1], dtype=np.float32),
        int(True),  # by a tree of the points
        int(True),  # by boxes first
        int(False),  # no words
        np.float32(nms_threshold),
    )
    return np.flatnonzero(kept)


@cache
def _nms() -> Any:
    """`stardist.nms.non_maximum_suppression_inds` without its package, and with threads that sleep.

    The package loads numba and more, half a CPU second for nothing here: the compiled part alone is
    loaded. OpenMP's threads spin while they wait, and took 6 % of a prediction's CPU seconds: what
    they do is read from the environment when the library is loaded.
    """
    told = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = told or "PASSIVE"
    try:
        return _compiled_stardist().c_non_max_suppression_inds
    finally:
        if told is None:
            del os.environ["OMP_WAIT_POLICY"]


def _compiled_stardist() -> Any:
    package = find_spec("stardist")
    for folder in (package and package.submodule_search_locations) or ():
        finder = FileFinder(str(Path(folder, "lib")), (ExtensionFileLoader, EXTENSION_SUFFIXES))
        if (spec := finder.find_spec("stardist2d")) is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return import_module("stardist.lib.stardist2d")


def _inside(polygons: StarPolygons, shape: tuple[int, int], grid: int) -> NDArray[np.bool_]:
    """Which pixels of the output grid lie within `INNER` of the rays of a polygon."""
    edge = polygons.vertices() - polygons.points[:, None]
    inner = (polygons.points[:, None] + np.float32(INNER) * edge) / grid
    picture = Image.new("1", shape[::-1])
    pen = ImageDraw.Draw(picture)
    for ring in inner.reshape(len(inner), -1).tolist():
        pen.polygon(ring, fill=1)
    return np.asarray(picture)


def refine(
    polygons: StarPolygons,
    dist: NDArray[Any],
    *,
    grid: int,
    fractions: Sequence[float],
    step: float = 1.0,
) -> StarPolygons:
    """Measure each ray again from points on it, which see the boundary from nearer.

    A pixel at a fraction f of a ray of length d predicts a distance d' in the same direction: the
    boundary lies at f d + d'. The mean over the fractions and the ray itself replaces the ray (Chen
    et al. 2023, CPP-Net, learn the weights of such points; here they are equal).

    Parameters
    ----------
    polygons : StarPolygons
        From `decode`.
    dist : ndarray of float32, (n_rays, h, w)
        Of the same prediction; or uint8, as `decode` takes it.
    grid : int
        Output stride, px.
    fractions : sequence of float
        In (0, 1); none leaves the polygons as they are.
    step : float
        Px of the network's input that one of `dist` means.

    Returns
    -------
    StarPolygons
        The same nuclei with other distances.
    """
    if not len(polygons) or not fractions:
        return polygons
    edge = polygons.vertices() - polygons.points[:, None]
    rays = np.arange(dist.shape[0])
    total = polygons.dist.copy()
    for fraction in fractions:
        x, y = np.moveaxis((polygons.points[:, None] + np.float32(fraction) * edge) / grid, -1, 0)
        further = np.maximum(np.float32(step) * _bilinear(dist, rays, x, y), 0)
        total += np.float32(fraction) * polygons.dist + further
    return replace(polygons, dist=total / np.float32(1 + len(fractions)))


def _bilinear(
    values: NDArray[Any],
    channel: NDArray[np.intp],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Values (C, h, w) at points (N, C), a channel a column, the border's value beyond it."""
    h, w = values.shape[1:] if values.ndim == 3 else (2 * values.shape[3], 2 * values.shape[4])
    x, y = np.clip(x, 0, w - 1), np.clip(y, 0, h - 1)
    column = np.minimum(x.astype(np.intp), max(w - 2, 0))
    row = np.minimum(y.astype(np.intp), max(h - 2, 0))
    right, below = np.minimum(column + 1, w - 1), np.minimum(row + 1, h - 1)
    fx, fy = (x - column).astype(np.float32), (y - row).astype(np.float32)
    corners = [_values(values, channel, r, c) for r in (row, below) for c in (column, right)]
    upper = corners[0] * (1 - fx) + corners[1] * fx
    lower = corners[2] * (1 - fx) + corners[3] * fx
    mixed: NDArray[Any] = upper * (1 - fy) + lower * fy
    return mixed


def _values(
    maps: NDArray[Any], channel: Any, row: NDArray[np.intp], column: NDArray[np.intp]
) -> NDArray[Any]:
    """Of `DensePrediction.dist`, however it is laid out."""
    if maps.ndim == 3:
        found: NDArray[Any] = maps[channel, row, column]
    else:
        found = maps[channel, row % 2, column % 2, row // 2, column // 2]
    return found
