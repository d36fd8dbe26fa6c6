"""A bundle's markers as one model: from patches, dense features or two scales to head outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import BundleError
from lymphinfer.markers.calibration import Calibration
from lymphinfer.markers.configs import ClassifierConfig
from lymphinfer.markers.patches import cut_patches, resampled
from lymphinfer.markers.two_scale import FarScale, HeadWeights
from lymphinfer.nuclei.detector import Detection


class PatchReader(Protocol):
    """A patch classifier on a device."""

    @property
    def config(self) -> ClassifierConfig:
        """Its shape."""

    @property
    def net(self) -> Any:
        """The classifier in torch, where it is loaded; None otherwise."""

    def logits(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits (N, n_markers) of patches, uint8 (N, S, S, 3)."""


@dataclass(frozen=True)
class HeadOutput:
    """What a marker's head output comes from: a calibrated logit, or without one a rate.

    Attributes
    ----------
    name : str
        Of the marker.
    calibration : Calibration or None
    rate : float
    """

    name: str
    calibration: Calibration | None = None
    rate: float = 0.0


@dataclass(frozen=True)
class MarkerModel:
    """Head outputs for the nuclei of a tile, every marker of the panel.

    Attributes
    ----------
    bundle : str
        Name of the bundle, for messages.
    outputs : tuple of HeadOutput
        One a marker, in panel order.
    classifier : PatchReader or None
        None where the detector brings the logits (a ``feature`` or ``dense`` bundle).
    learned : tuple of str
        Markers with a learned head, in the order of the logits.
    head : HeadWeights, optional
        Of a ``two-scale`` bundle.
    far : FarScale, optional
        What sees the neighbourhoods for it.
    patch_zoom : float
        Pixels of the working pixel size along one of a patch.
    """

    bundle: str
    outputs: tuple[HeadOutput, ...]
    classifier: PatchReader | None
    learned: tuple[str, ...]
    head: HeadWeights | None = None
    far: FarScale | None = None
    patch_zoom: float = 1.0

    @property
    def patch_reach_px(self) -> int:
        """What a patch sees to each side of its nucleus, px at the working pixel size."""
        return math.ceil(self.patch_px / 2 * self.patch_zoom)

    @property
    def patch_px(self) -> int:
        """Side of the patches it wants, px; 0 for none."""
        return 0 if self.classifier is None else self.classifier.config.patch_px

    def patches(self, pixels: NDArray[np.uint8], centers: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Patches of nuclei, at the patches' own pixel size.

        Parameters
        ----------
        pixels : ndarray of uint8, (H, W, 3)
            At the working pixel size.
        centers : ndarray of float64, (N, 2)
            Nuclei (x, y), px, the first pixel's outer corner at (0, 0).

        Returns
        -------
        ndarray of uint8, (N, patch_px, patch_px, 3)
        """
        if self.patch_zoom == 1:
            return cut_patches(pixels, centers - 0.5, self.patch_px)
        scale = 1 / self.patch_zoom
        return cut_patches(resampled(pixels, scale), centers * scale - 0.5, self.patch_px)

    def logits(
        self,
        patches: NDArray[np.uint8] | None,
        detection: Detection,
        far: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Logits (N, len(learned)) of nuclei, from their patches or detection, and far features."""
        if self.head is not None:
            return self.head(detection.near, far)
        if self.classifier is not None and patches is not None:
            return self.classifier.logits(patches)
        if detection.marker_logits is None:
            raise BundleError(
                f"bundle {self.bundle}: its marker model reads the detector's dense head, "
                "but the detector has none"
            )
        return detection.marker_logits[:, : len(self.learned)]

    def head_outputs(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated head outputs.

        Parameters
        ----------
        logits : ndarray of float32, (N, len(learned))

        Returns
        -------
        ndarray of float32, (N, M)
            In panel order: P(marker) of a learned head, P(marker | parent) of a base rate.
        """
        result = np.empty((len(logits), len(self.outputs)), np.float32)
        for i, output in enumerate(self.outputs):
            if output.calibration is None:
                result[:, i] = output.rate
            else:
                result[:, i] = output.calibration(logits[:, self.learned.index(output.name)])
        return result
