"""One marker head over two scales: a nucleus from near, and its neighbourhood from far.

Near, at 0.325 µm/px, it reads what the detector's marker head reads, averaged over the nucleus;
far, at 1.3 µm/px, what a `FarNet` says. Either may be missing, and a learned value stands in.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.compute import channels_last
from lymphinfer.markers.far_scale import FarNet, sample_features
from lymphinfer.nuclei.detector import Detection, Detector, polygon_centroids
from lymphinfer.nuclei.stardist.detector import StarDistDetector, TilePrediction
from lymphinfer.nuclei.stardist.network import StarDistNet
from lymphinfer.runtime import OpenVinoNet
from lymphinfer.transfers import Ready, beside, to_device
from lymphinfer.validation import Count, table

RINGS = ((0.35, 1.0), (0.75, 2.0))
"""Shares of the way from a nucleus' centroid to its outline where it is read, and their weights."""
SPOKES = 8


@table
@dataclass(frozen=True)
class TwoScaleConfig:
    """Shape of a `TwoScaleHead`.

    Attributes
    ----------
    markers : tuple of str
        Names of the logits, in panel order.
    near, far : int
        Numbers a nucleus has at each scale: filters of the marker head's last layer, outputs of
        the far network.
    hidden : int
        Width of the layer that reads both.
    """

    markers: tuple[str, ...]
    near: Count = 128
    far: Count = 19
    hidden: Count = 64

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a bundle's TOML."""
        return asdict(self) | {"markers": list(self.markers)}


class TwoScaleHead(nn.Module):
    """Logits of a nucleus from its two feature vectors.

    Parameters
    ----------
    config : TwoScaleConfig
    """

    def __init__(self, config: TwoScaleConfig):
        super().__init__()
        self.config = config
        self.near = nn.Linear(config.near, config.hidden, bias=False)
        self.far = nn.Linear(config.far, config.hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.hidden))
        self.without_near = nn.Parameter(torch.zeros(config.near))
        self.without_far = nn.Parameter(torch.zeros(config.far))
        self.out = nn.Linear(config.hidden, len(config.markers))
        # What one scale says by itself, which a few thousand nuclei are enough to learn.
        self.near_out = nn.Linear(config.near, len(config.markers), bias=False)
        self.far_out = nn.Linear(config.far, len(config.markers), bias=False)

    def forward(self, near: Tensor | None, far: Tensor | None) -> Tensor:
        """Logits, (N, len(markers)).

        Parameters
        ----------
        near : Tensor of float, (N, config.near), or None
        far : Tensor of float, (N, config.far), or None
            A row of NaN is a nucleus that this scale has not seen, None that no nucleus was seen.

        Raises
        ------
        ValueError
            Neither is given.
        """
        rows = next((len(x) for x in (near, far) if x is not None), None)
        if rows is None:
            raise ValueError("a nucleus without either scale has nothing to be told by")
        near = _filled(near, self.without_near, rows)
        far = _filled(far, self.without_far, rows)
        hidden = F.relu(self.near(near) + self.far(far) + self.bias)
        logits: Tensor = self.out(hidden) + self.near_out(near) + self.far_out(far)
        return logits


def _filled(values: Tensor | None, missing: Tensor, rows: int) -> Tensor:
    if values is None:
        return missing.expand(rows, -1)
    return torch.where(values.isnan(), missing, values)


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
    if not len(points):
        return np.empty((0, len(maps)), np.float32)
    size = np.array(maps.shape[:0:-1], np.float32)
    # The maps' first pixel is centred at 1.5 of the network's px: strides begin at pixel centres.
    index = (np.asarray(points, np.float32) - 0.375 * step_px) / step_px
    where = torch.from_numpy((index + 0.5) / size * 2 - 1)
    read = F.grid_sample(
        torch.from_numpy(maps)[None], where[None], padding_mode="border", align_corners=False
    )[0]
    mean: NDArray[np.float32] = np.einsum(
        "cnk,k->nc", read.numpy(), np.asarray(weights, np.float32)
    )
    return mean


class NearDense:
    """A detector's dense prediction beside the near maps of the same tile."""

    def __init__(
        self,
        dense: Any,
        maps: NDArray[np.float32],
        step_px: NDArray[np.float32],
        ready: Ready | None = None,
    ):
        self.dense, self.maps, self.step_px, self.ready = dense, maps, step_px, ready

    def read(self, polygons: NDArray[np.float32]) -> NDArray[np.float32]:
        """Near features (N, C) of nuclei by their outlines (N, V, 2), tile px."""
        if self.ready is not None:
            self.ready.wait()
        return near_features(self.maps, *near_points(polygons), self.step_px)


class NearMarkers:
    """A detector whose nuclei come with near features.

    Implements `Detector`. Where the detector is the very network that the features come from, one
    pass serves both.

    Parameters
    ----------
    detector : Detector
    net : StarDistNet
        Whose marker features are read; ``config.marker_features`` is on.
    mpp, working_mpp : float
        Pixel sizes of that network and of the tiles, µm/px.
    device : torch.device or str
    autocast : torch.dtype or None
    runtime : str
    """

    def __init__(
        self,
        detector: Detector,
        net: StarDistNet,
        *,
        mpp: float,
        working_mpp: float,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        runtime: str = "torch",
    ):
        self.detector = detector
        self.shared = isinstance(detector, StarDistDetector) and detector.net is net
        self.reader = (
            detector
            if isinstance(detector, StarDistDetector) and self.shared
            else StarDistDetector(
                net,
                mpp=mpp,
                working_mpp=working_mpp,
                prob_threshold=1.0,
                nms_threshold=0.5,
                device=device,
                autocast=autocast,
                runtime=runtime,
            )
        )

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
    step_px = (2 * reader.net.config.grid / np.array(read.scale)).astype(np.float32)
    return NearDense(dense, maps, step_px, read.dense.ready)


class FarMap:
    """What a `FarNet` sees of a rectangle.

    Parameters
    ----------
    net : FarNet
    features : Tensor of float32, (C, h, w)
        On its device.
    origin_px : tuple of int
        The rectangle's corner (x, y) on the far grid, px.
    """

    def __init__(self, net: FarNet, features: Tensor, origin_px: tuple[int, int]):
        self.net, self.features, self.origin_px = net, features, origin_px
        self.ready = Ready(features.device)

    @torch.inference_mode()
    def at(self, centers_far: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits (N, outputs) of nuclei (x, y) on the far grid, the slide's corner at (0, 0)."""
        centers = np.asarray(centers_far, np.float64) - np.array(self.origin_px)
        points = torch.from_numpy(centers.astype(np.float32))
        with beside(self.features.device, self.ready):
            sampled = sample_features(self.features, points, self.net.config.out_stride)
            logits: NDArray[np.float32] = self.net.tell(sampled).float().cpu().numpy()
        return logits


class FarScale:
    """A `FarNet` on one device.

    Parameters
    ----------
    net : FarNet
        Without batch normalisation.
    device : torch.device or str
    autocast : torch.dtype or None
    runtime : str
        ``"torch"``, or ``"openvino"`` on the CPU.
    """

    def __init__(
        self,
        net: FarNet,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        runtime: str = "torch",
    ):
        self.device, self.autocast = torch.device(device), autocast
        self.net = channels_last(net.eval(), self.device)
        side = 4 * net.config.stride
        self.run: OpenVinoNet[Tensor] | None = (
            OpenVinoNet(self.net, lambda maps: maps[0], autocast=autocast, example=(side, side))
            if runtime == "openvino"
            else None
        )

    @property
    def mpp(self) -> float:
        """Pixel size that it reads, µm/px."""
        return self.net.config.mpp

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
        """Rectangle to read for nuclei within another one, far px.

        Its corners are multiples of the stride, so that every rectangle sees the same pixel grid.
        """
        stride, halo = self.net.config.stride, self.net.config.halo_px
        left, top = (int(np.floor(v / stride)) * stride - halo for v in (x0, y0))
        right, bottom = (int(np.ceil(v / stride)) * stride + halo for v in (x1, y1))
        return left, top, right, bottom

    @torch.inference_mode()
    def infer(self, pixels: NDArray[np.uint8], origin_px: tuple[int, int]) -> FarMap:
        """Features of a rectangle of the far grid.

        Parameters
        ----------
        pixels : ndarray of uint8, (H, W, 3)
            RGB; sides are multiples of the network's stride.
        origin_px : tuple of int
            Its corner (x, y).
        """
        x = to_device(pixels, self.device).permute(2, 0, 1)[None]
        x = (x.float() / 255).contiguous(memory_format=torch.channels_last)
        half = self.autocast is not None
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=half):
            features = (self.run or self.net)(x)
        return FarMap(self.net, features[0].float(), origin_px)


def mirrored(
    pixels: NDArray[np.uint8], box: tuple[int, int, int, int], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Continue an image beyond its edges by its mirror image.

    Parameters
    ----------
    pixels : ndarray of uint8, (h, w, 3)
        The part of the image within the rectangle.
    box : tuple of int
        Rectangle (x0, y0, x1, y1); may reach beyond the image on any side.
    size : tuple of int
        (width, height) of the image.

    Returns
    -------
    ndarray of uint8, (y1 - y0, x1 - x0, 3)
    """
    x0, y0, x1, y1 = box
    before = max(0, -y0), max(0, -x0)
    after = max(0, y1 - size[1]), max(0, x1 - size[0])
    if not any((*before, *after)):
        return pixels
    margins = [*zip(before, after, strict=True), (0, 0)]
    return np.pad(pixels, margins, mode="symmetric")
