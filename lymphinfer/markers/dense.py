"""HoVer-Net's features of every nucleus from one pass over the tile, instead of one a patch.

The patch classifier sends 112 px around each nucleus through the U-Net and averages the decoders'
maps over the part that their unpadded convolutions leave: the central 20 px. Here the maps of the
whole tile are computed once, and the same window is averaged by an integral image.

The two are not equal. A patch ends 56 px from its nucleus, where the network pads with zeros, yet
an output pixel depends on up to 112 px around it: in the tile all of that is tissue, in the patch
a part of it is padding. `benchmarks/hovernet.py` measures what that does to the AUROC.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lymphinfer.markers.classifier import MarkerClassifier
from lymphinfer.markers.hovernet import HoVerNetFeatures
from lymphinfer.nuclei.detector import Detection, Detector, Stars, described, polygon_centroids
from lymphinfer.nuclei.hovernet.detector import HoVerNetDetector, TileMaps
from lymphinfer.nuclei.hovernet.infer import predict_maps

CELL_PX = 4
"""Features are kept as means over cells of this side, a sixteenth of the memory."""


def pool_windows(
    cells: NDArray[np.float32], centers: NDArray[np.floating], window_px: int, cell_px: int = 1
) -> NDArray[np.float32]:
    """Mean of maps over a square window around each point, by an integral image.

    Parameters
    ----------
    cells : ndarray of float32, (C, h, w)
        Means over cells of the maps.
    centers : ndarray of float, (N, 2)
        Nuclei (x, y), px of the maps, pixel centres at whole numbers. The window of a nucleus is
        that of a patch: it begins ``window_px // 2`` before the nearest pixel.
    window_px : int
        Side of the window; what lies beyond the maps is left out of the mean.
    cell_px : int
        Side of a cell, px. A window that cuts a cell takes the cell's mean for the part it cuts:
        exact for 1 px.

    Returns
    -------
    ndarray of float32, (N, C)
    """
    count, height, width = cells.shape
    integral = np.zeros((height + 1, width + 1, count), np.float64)
    # Rows first: the sums of a nucleus's channels then lie side by side.
    np.cumsum(cells.transpose(1, 2, 0), axis=0, dtype=np.float64, out=integral[1:, 1:])
    np.cumsum(integral[1:, 1:], axis=1, out=integral[1:, 1:])
    first = np.rint(np.asarray(centers, np.float64)) - window_px // 2
    size = np.array([width, height], np.float64)
    low = np.clip(first / cell_px, 0, size - 1 / cell_px)
    high = np.maximum(np.clip((first + window_px) / cell_px, 0, size), low + 1 / cell_px)
    x = np.stack([low[:, 0], high[:, 0]], axis=1)
    y = np.stack([low[:, 1], high[:, 1]], axis=1)

    def at(column: int, row: int) -> NDArray[np.float64]:
        return _bilinear(integral, x[:, column], y[:, row])

    total = at(1, 1) - at(0, 1) - at(1, 0) + at(0, 0)
    area = (high - low).prod(axis=1)
    mean: NDArray[np.float32] = (total / area[:, None]).astype(np.float32)
    return mean


def _bilinear(
    values: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values (h, w, C) at fractional places, (N, C)."""
    x0 = np.minimum(x.astype(np.int64), values.shape[1] - 2)
    y0 = np.minimum(y.astype(np.int64), values.shape[0] - 2)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    top = values[y0, x0] * (1 - fx) + values[y0, x0 + 1] * fx
    bottom = values[y0 + 1, x0] * (1 - fx) + values[y0 + 1, x0 + 1] * fx
    result: NDArray[np.float64] = top * (1 - fy) + bottom * fy
    return result


class DenseTile(NamedTuple):
    """What the detector says of a tile, and its features over cells, one array a backbone."""

    dense: Any
    features: list[NDArray[np.float32]]


class DenseMarkers:
    """A detector whose nuclei come with the marker logits of a HoVer-Net classifier.

    Implements `Detector`. Where the detector is the very network that the classifier reads, at the
    same pixel size, one pass serves both.

    Parameters
    ----------
    detector : Detector
    classifier : MarkerClassifier
        With HoVer-Net backbones, in evaluation mode, on `device`.
    device : torch.device or str
    autocast : torch.dtype or None
    cell_px : int
        Of `pool_windows`; a divisor of 8.
    """

    def __init__(
        self,
        detector: Detector,
        classifier: MarkerClassifier,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        cell_px: int = CELL_PX,
    ):
        self.detector, self.classifier = detector, classifier
        self.device, self.autocast, self.cell_px = torch.device(device), autocast, cell_px
        self.backbones = [cast(HoVerNetFeatures, b) for b in classifier.backbones]
        # The heads are small and run where nuclei are decoded, beside the device.
        self.heads = nn.ModuleList(_on_cpu(head) for head in classifier.heads).eval()
        self.shared = can_share(detector, self.backbones)
        if self.shared:
            cast(HoVerNetDetector, detector).cell_px = cell_px

    @property
    def align_px(self) -> int:
        """Of the detector."""
        return self.detector.align_px

    @property
    def halo_px(self) -> int:
        """Of the detector, or what the features depend on where that is more."""
        align = self.align_px
        wanted = max(b.config.geometry.context_px for b in self.backbones)
        return max(self.detector.halo_px, -(-wanted // align) * align)

    def infer(self, tile: NDArray[np.uint8]) -> DenseTile:
        """See `Detector.infer`."""
        dense = self.detector.infer(tile)
        if self.shared:
            features = cast(TileMaps, dense).maps.features
            assert features is not None
            return DenseTile(dense, [features])
        return DenseTile(dense, [self._features(backbone, tile) for backbone in self.backbones])

    def decode(self, dense: DenseTile) -> Detection:
        """See `Detector.decode`; ``marker_logits`` are the classifier's."""
        found = self.detector.decode(dense.dense)
        centers = polygon_centroids(found.polygons) - 0.5
        logits = self.logits(dense.features, centers)
        return Detection(found.polygons, found.probability, logits, found.extras)

    def describe(self, dense: DenseTile, nuclei: Stars) -> Detection:
        """See `lymphinfer.markers.describing.Describer.describe`."""
        return described(nuclei, self.logits(dense.features, nuclei.centers - 0.5))

    @torch.inference_mode()
    def logits(
        self, features: list[NDArray[np.float32]], centers: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """Logits (N, n_markers) of nuclei.

        Parameters
        ----------
        features : list of ndarray of float32, (C, h, w)
            Of `infer`.
        centers : ndarray of float, (N, 2)
            As `pool_windows` takes them.
        """
        side = self.classifier.config.patch_px
        pooled: list[Tensor] = [
            torch.from_numpy(pool_windows(f, centers, side - b.lost_px, self.cell_px))
            for f, b in zip(features, self.backbones, strict=True)
        ]
        columns = [head(pooled[i % len(pooled)]) for i, head in enumerate(self.heads)]
        return torch.cat(columns, dim=1).numpy()

    def _features(self, backbone: HoVerNetFeatures, tile: NDArray[np.uint8]) -> NDArray[np.float32]:
        maps = predict_maps(
            backbone.network,
            backbone.config,
            tile,
            device=self.device,
            autocast=self.autocast,
            cell_px=self.cell_px,
        )
        assert maps.features is not None
        return maps.features


def _on_cpu(module: nn.Module) -> nn.Module:
    from copy import deepcopy

    return deepcopy(module).float().cpu()


def can_share(detector: Detector, backbones: list[HoVerNetFeatures]) -> bool:
    """Whether a detector's own features are the classifier's: same weights, same pixel size."""
    if not isinstance(detector, HoVerNetDetector) or len(backbones) != 1:
        return False
    if abs(detector.scale - 1) > 1e-3:
        return False
    own = detector.net.state_dict()
    wanted = backbones[0].network.state_dict()
    return all(k in own and torch.equal(own[k].cpu(), v.cpu()) for k, v in wanted.items())
