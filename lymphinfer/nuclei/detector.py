"""What every nucleus detector offers: tiles in, nuclei in tile pixels out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detection:
    """Nuclei of one tile, in tile pixels.

    That is the working pixel size, halo included, the first pixel's outer corner at (0, 0).

    Attributes
    ----------
    polygons : ndarray of float32, (N, V, 2)
        Outline vertices (x, y).
    probability : ndarray of float32, (N,)
        Detection probability.
    marker_logits : ndarray of float32 or None, (N, n_markers)
        Logits of the detector's own marker head over each nucleus, where it has one.
    extras : mapping of str to ndarray of float32, (N,)
        What else the detector measures, by column of the nucleus table; the same names every time.
    near : ndarray of float32 or None, (N, C)
        Near features of each nucleus, see `lymphinfer.markers.two_scale`.
    """

    polygons: NDArray[np.float32]
    probability: NDArray[np.float32]
    marker_logits: NDArray[np.float32] | None = None
    extras: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    near: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.probability)

    def take(self, index: NDArray[Any]) -> Detection:
        """Nuclei at a boolean or integer index."""
        logits = None if self.marker_logits is None else self.marker_logits[index]
        extras = {name: values[index] for name, values in self.extras.items()}
        near = None if self.near is None else self.near[index]
        return Detection(self.polygons[index], self.probability[index], logits, extras, near)


@dataclass(frozen=True)
class Stars:
    """Outlines of nuclei that are there already, as rays from a point within.

    Attributes
    ----------
    outlines : ndarray of float64, (N, V, 2)
        Ray k ends at vertex k (x, y), at angle 2πk / V from the nucleus' point.
    origins : ndarray of float64, (N, 2)
        Their points.
    centers : ndarray of float64, (N, 2)
        Their centroids.
    """

    outlines: NDArray[np.float64]
    origins: NDArray[np.float64]
    centers: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.centers)

    def moved(self, scale: float, corner: NDArray[np.floating]) -> Stars:
        """In the frame of a tile: divided by a scale, less the tile's corner."""
        return Stars(*(places / scale - corner for places in vars(self).values()))


def described(
    nuclei: Stars,
    logits: NDArray[np.float32] | None = None,
    near: NDArray[np.float32] | None = None,
) -> Detection:
    """Nuclei that were there already, in their order: without a probability.

    Parameters
    ----------
    nuclei : Stars
        In tile px.
    logits : ndarray of float32, (N, n_markers), optional
    near : ndarray of float32, (N, C), optional
    """
    unsure = np.full(len(nuclei), np.nan, np.float32)
    return Detection(nuclei.outlines.astype(np.float32), unsure, logits, {}, near)


def polygon_centroids(polygons: NDArray[np.floating]) -> NDArray[np.float64]:
    """Area centroids of polygons of equal vertex count.

    Parameters
    ----------
    polygons : ndarray of float, (N, V, 2)

    Returns
    -------
    ndarray of float64, (N, 2)
        The vertex mean where the area vanishes. Shoelace formula, taken about the first vertex to
        keep its precision far from the origin.
    """
    p = np.asarray(polygons, np.float64)
    origin = p[:, :1]
    q = p - origin
    after = np.roll(q, -1, axis=1)
    cross = q[..., 0] * after[..., 1] - after[..., 0] * q[..., 1]
    area = cross.sum(axis=1)
    moment = ((q + after) * cross[..., None]).sum(axis=1)
    flat = np.abs(area) < 1e-9
    centroid = moment / (3 * np.where(flat, 1, area))[:, None]
    centers: NDArray[np.float64] = np.where(flat[:, None], q.mean(axis=1), centroid) + origin[:, 0]
    return centers


class Detector(Protocol):
    """Finds nuclei. One instance lives on one device and is used by one thread at a time.

    `infer` runs the network and belongs to the thread that owns the device; `decode` is free of the
    device, so that any number of threads may run it beside.
    """

    @property
    def halo_px(self) -> int:
        """Context a tile needs on each side, px at the working pixel size."""

    @property
    def align_px(self) -> int:
        """Tile origins must be multiples of it for any tiling to see the same pixel grid."""

    def infer(self, tile: NDArray[np.uint8]) -> Any:
        """Dense prediction of a tile, uint8 (H, W, 3) RGB at the working pixel size."""

    def decode(self, dense: Any) -> Detection:
        """Nuclei from what `infer` returned, by descending probability."""
