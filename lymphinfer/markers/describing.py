"""What the markers read of nuclei that are there already, where none are to be found."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lymphinfer.markers.model import MarkerModel
from lymphinfer.markers.two_scale import NearDense, NearMarkers, near_dense
from lymphinfer.nuclei.detector import Detection, Detector, Stars, described


@runtime_checkable
class Describer(Protocol):
    """Reads a tile as a detector does, and describes given nuclei in place of finding some."""

    @property
    def align_px(self) -> int:
        """See `Detector.align_px`."""

    def infer(self, tile: NDArray[np.uint8]) -> Any:
        """See `Detector.infer`."""

    def describe(self, dense: Any, nuclei: Stars) -> Detection:
        """Nuclei with what the markers read of them.

        Parameters
        ----------
        dense
            What `infer` returned.
        nuclei : Stars
            In tile px.

        Returns
        -------
        Detection
            In their order, without a probability.
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
    if isinstance(detector, Describer) and not markers.patch_px:
        return detector
    return _Nothing(detector)


class _Near:
    def __init__(self, markers: NearMarkers):
        self.reader, self.align_px = markers.reader, markers.align_px

    def infer(self, tile: NDArray[np.uint8]) -> NearDense:
        return near_dense(None, self.reader.infer(tile), self.reader)

    def describe(self, dense: NearDense, nuclei: Stars) -> Detection:
        return described(nuclei, near=dense.read(nuclei.outlines.astype(np.float32)))


class _Nothing:
    """Of a bundle whose markers read patches alone."""

    def __init__(self, detector: Detector):
        self.align_px = detector.align_px

    def infer(self, tile: NDArray[np.uint8]) -> None:
        return None

    def describe(self, dense: None, nuclei: Stars) -> Detection:
        return described(nuclei)
