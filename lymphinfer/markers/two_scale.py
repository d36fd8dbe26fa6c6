"""One marker head over two scales: a nucleus from near, and its neighbourhood from far.

Near, at 0.325 µm/px, it reads what the detector's marker head reads, averaged over the nucleus;
far, at 1.3 µm/px, what a `FarNet` says. Either may be missing, and a learned value stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lymphinfer.markers.configs import FarConfig, TwoScaleConfig
from lymphinfer.markers.sampling import bilinear
from lymphinfer.nuclei.detector import Detection, Detector, polygon_centroids
from lymphinfer.nuclei.stardist.dense import Moment
from lymphinfer.nuclei.stardist.detector import StarDistDetector, TilePrediction

RINGS = ((0.35, 1.0), (0.75, 2.0))
"""Shares of the way from a nucleus' centroid to its outline where it is read, and their weights."""
SPOKES = 8


class HeadWeights:
    """Logits of a nucleus from its two feature vectors: a `TwoScaleHead` that has learned.

    Parameters
    ----------
    config : TwoScaleConfig
    weights : mapping of str to ndarray
        By the names of `lymphinfer.markers.two_scale_head.TwoScaleHead`.

    Raises
    ------
    ValueError
        The weights are not those of the configuration.
    """

    def __init__(self, config: TwoScaleConfig, weights: Mapping[str, NDArray[np.floating]]):
        self.config = config
        near, far, hidden, out = config.near, config.far, config.hidden, len(config.markers)
        shapes = {
            "near.weight": (hidden, near), "far.weight": (hidden, far), "bias": (hidden,),
            "without_near": (near,), "without_far": (far,), "out.weight": (out, hidden),
            "out.bias": (out,), "near_out.weight": (out, near), "far_out.weight": (out, far),
        }  # fmt: skip
        found = {name: np.array(values, np.float32) for name, values in weights.items()}
        if (shape := {name: values.shape for name, values in found.items()}) != shapes:
            wrong = sorted(n for n in {*shape, *shapes} if shape.get(n) != shapes.get(n))
            raise ValueError(f"{', '.join(wrong)}: missing, or not of the head's shape")
        self.weights = found

    def __call__(
        self, near: NDArray[np.float32] | None, far: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Logits, (N, len(markers)).

        Parameters
        ----------
        near : ndarray of float32, (N, config.near), or None
        far : ndarray of float32, (N, config.far), or None
            A row of NaN is a nucleus that this scale has not seen, None that no nucleus was seen.

        Raises
        ------
        ValueError
            Neither is given.
        """
        rows = next((len(x) for x in (near, far) if x is not None), None)
        if rows is None:
            raise ValueError("a nucleus without either scale has nothing to be told by")
        w = self.weights
        near = _filled(near, w["without_near"], rows)
        far = _filled(far, w["without_far"], rows)
        hidden = np.maximum(near @ w["near.weight"].T + far @ w["far.weight"].T + w["bias"], 0)
        logits: NDArray[np.float32] = hidden @ w["out.weight"].T + w["out.bias"]
        logits += near @ w["near_out.weight"].T + far @ w["far_out.weight"].T
        return logits


def _filled(
    values: NDArray[np.float32] | None, missing: NDArray[np.float32], rows: int
) -> NDArray[np.float32]:
    if values is None:
        return np.broadcast_to(missing, (rows, len(missing)))
    filled: NDArray[np.float32] = np.where(np.isnan(values), missing, values)
    return filled


def near_points(polygons: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where a nucleus is read from near: its centroid and two rings, and their weights.

    Parameters
    ----------
    polygons : ndarray of float, (N, V, 2)
        Outlines (x, y).

    Returns
    -------
    points : ndarray of float32, (N, K, 2)
        In the outlines' frame.
    weights : ndarray of float32, (K,)
        Summing to 1.
    """
    centers = polygon_centroids(polygons).astype(np.float32)[:, None]
    vertices = np.asarray(polygons, np.float32)
    which = np.arange(SPOKES) * vertices.shape[1] // SPOKES
    spokes = vertices[:, which] - centers
    points = np.concatenate(
        [centers, *(centers + np.float32(share) * spokes for share, _ in RINGS)], 1
    )
    weights = np.concatenate([[1.0], *(np.full(SPOKES, weight) for _, weight in RINGS)])
    return points, (weights / weights.sum()).astype(np.float32)


def near_features(
    maps: NDArray[np.float32],
    points: NDArray[np.floating],
    weights: NDArray[np.floating],
    step_px: float | NDArray[np.float32],
) -> NDArray[np.float32]:
    """Weighted mean of a marker head's maps over points of each nucleus.

    Parameters
    ----------
    maps : ndarray of float32, (C, h, w)
        Of `StarDistOutput.marker_features`.
    points : ndarray of float, (N, K, 2)
        Tile px, the first pixel's outer corner at (0, 0).
    weights : ndarray of float, (K,)
    step_px : float or ndarray of float32, (2,)
        Tile px per px of the maps, along x and y.

    Returns
    -------
    ndarray of float32, (N, C)
        The border's values beyond the maps.
    """
    count, each = points.shape[:2]
    # The maps' first pixel is centred at 1.5 of the network's px: strides begin at pixel centres.
    index = (np.asarray(points, np.float32) - 0.375 * step_px) / step_px
    read = bilinear(maps, *index.reshape(-1, 2).T).reshape(count, each, len(maps))
    mean: NDArray[np.float32] = np.einsum("nkc,k->nc", read, np.asarray(weights, np.float32))
    return mean


class NearDense:
    """A detector's dense prediction beside the near maps of the same tile.

    `step` is what one of the maps means, see `DensePrediction.features_step`.
    """

    def __init__(
        self,
        dense: Any,
        maps: NDArray[np.float32],
        step_px: NDArray[np.float32],
        ready: Moment | None = None,
        step: NDArray[np.float32] | None = None,
    ):
        self.dense, self.maps, self.step_px, self.ready = dense, maps, step_px, ready
        self.step = step

    def read(self, polygons: NDArray[np.float32]) -> NDArray[np.float32]:
        """Near features (N, C) of nuclei by their outlines (N, V, 2), tile px."""
        return self.read_at(*near_points(polygons))

    def read_at(
        self, points: NDArray[np.floating], weights: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """Near features (N, C) at points (N, K, 2) of each nucleus, tile px, weights (K,)."""
        if self.ready is not None:
            self.ready.wait()
        found = near_features(self.maps, points, weights, self.step_px)
        return found if self.step is None else found * self.step


class NearMarkers:
    """A detector whose nuclei come with near features.

    Implements `Detector`. Where the detector is the reader itself, one pass serves both.

    Parameters
    ----------
    detector : Detector
    reader : StarDistDetector
        Whose marker features are read; ``config.marker_features`` is on.
    """

    def __init__(self, detector: Detector, reader: StarDistDetector):
        self.detector, self.reader = detector, reader
        self.shared = detector is reader

    @property
    def align_px(self) -> int:
        """Of both networks."""
        return int(np.lcm(self.detector.align_px, self.reader.align_px))

    @property
    def halo_px(self) -> int:
        """Of the network that sees further."""
        align = self.align_px
        return -(-max(self.detector.halo_px, self.reader.halo_px) // align) * align

    def infer(self, tile: NDArray[np.uint8]) -> NearDense:
        """See `Detector.infer`."""
        dense = self.detector.infer(tile)
        read = dense if self.shared else self.reader.infer(tile)
        return near_dense(dense, read, self.reader)

    def decode(self, dense: NearDense) -> Detection:
        """See `Detector.decode`; the nuclei have `near`."""
        found = self.detector.decode(dense.dense)
        near = dense.read(found.polygons)
        return Detection(found.polygons, found.probability, found.marker_logits, found.extras, near)


def near_dense(dense: Any, read: TilePrediction, reader: StarDistDetector) -> NearDense:
    """What `NearMarkers.decode` wants of a tile's predictions."""
    maps = read.dense.marker_features
    assert maps is not None
    step_px = (2 * reader.config.grid / np.array(read.scale)).astype(np.float32)
    return NearDense(dense, maps, step_px, read.dense.ready, read.dense.features_step)


class FarEngine(Protocol):
    """A far network without batch normalisation on a device."""

    @property
    def config(self) -> FarConfig:
        """Its shape."""

    @property
    def net(self) -> Any:
        """The network in torch, where it is loaded; None otherwise."""

    def look(self, pixels: NDArray[np.uint8]) -> Any:
        """Features of a rectangle (H, W, 3) of RGB, which stay on the device."""

    def tell(self, features: Any, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits (N, outputs) of nuclei at (N, 2) places (x, y) of the rectangle, px."""

    def join(self, one: Any, other: Any, axis: int, kept: int, left: int) -> Any:
        """The first `kept` features of one along an axis, and the other's without `left`."""


class FarMap:
    """What a far network sees of a rectangle.

    Parameters
    ----------
    engine : FarEngine
    features : object
        Of ``engine.look``.
    origin_px : tuple of int
        The rectangle's corner (x, y) on the far grid, px.
    """

    def __init__(self, engine: FarEngine, features: Any, origin_px: tuple[int, int]):
        self.engine, self.features, self.origin_px = engine, features, origin_px

    def at(self, centers_far: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits (N, outputs) of nuclei (x, y) on the far grid, the slide's corner at (0, 0)."""
        centers = np.asarray(centers_far, np.float64) - np.array(self.origin_px)
        return self.engine.tell(self.features, centers)

    def with_next(self, other: FarMap, axis: int, kept_px: int, left_px: int) -> FarMap:
        """Its first pixels along an axis (1 down, 2 across), and those of another behind."""
        step = self.engine.config.out_stride
        features = self.engine.join(
            self.features, other.features, axis, kept_px // step, left_px // step
        )
        return FarMap(self.engine, features, self.origin_px)


class FarScale:
    """What reads the far scale of a slide.

    Parameters
    ----------
    engine : FarEngine
    """

    def __init__(self, engine: FarEngine):
        self.engine, self.config = engine, engine.config

    @property
    def mpp(self) -> float:
        """Pixel size that it reads, µm/px."""
        return self.config.mpp

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
        """Rectangle to read for nuclei within another one, far px.

        Its corners are multiples of the stride, so that every rectangle sees the same pixel grid.
        """
        stride, halo = self.config.stride, self.config.halo_px
        left, top = (int(np.floor(v / stride)) * stride - halo for v in (x0, y0))
        right, bottom = (int(np.ceil(v / stride)) * stride + halo for v in (x1, y1))
        return left, top, right, bottom

    def infer(self, pixels: NDArray[np.uint8], origin_px: tuple[int, int]) -> FarMap:
        """Features of a rectangle of the far grid.

        Parameters
        ----------
        pixels : ndarray of uint8, (H, W, 3)
            RGB; sides are multiples of the network's stride.
        origin_px : tuple of int
            Its corner (x, y).
        """
        return FarMap(self.engine, self.engine.look(pixels), origin_px)
