"""What the markers read of nuclei that are there already, where none are to be found."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lymphinfer.markers.dense import DenseMarkers, DenseTile
from lymphinfer.markers.model import MarkerModel
from lymphinfer.markers.two_scale import NearDense, NearMarkers, near_dense
from lymphinfer.nuclei.detector import Detection, Detector
from lymphinfer.nuclei.stardist.detector import StarDistDetector


class Describer(Protocol):
    """Reads a tile as a detector does, and describes given nuclei in place of finding some."""

    @property
    def align_px(self) -> int:
        """See `Detector.align_px`."""

    def infer(self, tile: NDArray[np.uint8]) -> Any:
        """See `Detector.infer`."""

    def describe(
        self, dense: Any, stars: NDArray[np.floating], centers: NDArray[np.floating]
    ) -> Detection:
        """Nuclei with what the markers read of them.

        Parameters
        ----------
        dense
            What `infer` returned.
        stars : ndarray of float, (N, V, 2)
            Outlines, tile px; ray k points from the centre to angle 2πk / V.
        centers : ndarray of float, (N, 2)
            Their centroids, tile px.

        Returns
        -------
        Detection
            In the order of the outlines, without a probability.
        """


def describer(detector: Detector, markers: MarkerModel) -> Describer:
    """The part of a bundle that its markers read.

    Parameters
    ----------
    detector : Detector
        The bundle's.
    markers : MarkerModel
    """
    if isinstance(detector, NearMarkers):
        return _Near(detector)
    if isinstance(detector, DenseMarkers):
        return _Dense(detector)
    if isinstance(detector, StarDistDetector) and not markers.patch_px:
        return detector
    return _Nothing(detector)


class _Near:
    def __init__(self, markers: NearMarkers):
        self.reader, self.align_px = markers.reader, markers.align_px

    def infer(self, tile: NDArray[np.uint8]) -> NearDense:
        return near_dense(None, self.reader.infer(tile), self.reader)

    def describe(
        self, dense: NearDense, stars: NDArray[np.floating], centers: NDArray[np.floating]
    ) -> Detection:
        return _plain(stars, near=dense.read(np.asarray(stars, np.float32)))


class _Dense:
    def __init__(self, markers: DenseMarkers):
        self.markers, self.align_px = markers, markers.align_px

    def infer(self, tile: NDArray[np.uint8]) -> DenseTile:
        return self.markers.infer(tile)

    def describe(
        self, dense: DenseTile, stars: NDArray[np.floating], centers: NDArray[np.floating]
    ) -> Detection:
        return _plain(stars, logits=self.markers.logits(dense.features, centers - 0.5))


class _Nothing:
    """Of a bundle whose markers read patches alone."""

    def __init__(self, detector: Detector):
        self.align_px = detector.align_px

    def infer(self, tile: NDArray[np.uint8]) -> None:
        return None

    def describe(
        self, dense: None, stars: NDArray[np.floating], centers: NDArray[np.floating]
    ) -> Detection:
        return _plain(stars)


def _plain(
    stars: NDArray[np.floating],
    logits: NDArray[np.float32] | None = None,
    near: NDArray[np.float32] | None = None,
) -> Detection:
    unsure = np.full(len(stars), np.nan, np.float32)
    return Detection(np.asarray(stars, np.float32), unsure, logits, {}, near)
