"""StarDist as a `Detector`: resampling to its own pixel size, network, decoding, pooled markers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lymphinfer.nuclei.detector import Detection, Stars, described
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.decode import StarPolygons, decode, refine
from lymphinfer.nuclei.stardist.dense import DenseNet, DensePrediction

# Context that a prediction depends on, px of the network's input: with this much around it a
# nucleus comes out the same in every tile that sees it (tests/nuclei check it). For the U-Net of
# the default depth that is its whole receptive field. The residual network's is wider, but the
# training of the shipped shape left nothing beyond 128 px that moves a probability by 1e-4 or an
# outline by 0.01 px. Of a compact network all that it sees is read.
CONTEXT_PX = {"unet": 112, "resnet": 128}
MEASURED_STRIDE, MEASURED_BLOCKS = 16, 3
BYTES_CONTEXT_PX = 64
"""In bytes what lies further off moves nothing by more than rounding does anyway."""
# Tiles with wider margins would mostly be margins.
MAX_CONTEXT_PX = 512


def context_px(config: StarDistConfig) -> int:
    """Context that a network's predictions need, px of its input.

    Raises
    ------
    ValueError
        More than a tile can have around it.
    """
    least = CONTEXT_PX.get(config.encoder, 0)
    measured = config.stride <= MEASURED_STRIDE and config.n_blocks <= MEASURED_BLOCKS
    if config.encoder == "resnet" and measured:
        return least
    wanted = max(least, config.context_px)
    if wanted > MAX_CONTEXT_PX:
        raise ValueError(
            f"network: grid = {config.grid} and n_depth = {config.n_depth} see {wanted} px around "
            f"a nucleus, and tiles are read with {MAX_CONTEXT_PX} px at most: its nuclei would "
            "change at the seams. Train one that sees less"
        )
    return wanted


class TilePrediction(NamedTuple):
    """A dense prediction, to be waited for, and network pixels per tile pixel along x and y."""

    dense: DensePrediction
    scale: tuple[float, float]


class StarDistDetector:
    """StarDist on one device.

    Parameters
    ----------
    engine : DenseNet
        What computes the network.
    mpp : float
        Pixel size it was trained at, µm/px.
    working_mpp : float
        Pixel size of the tiles, µm/px.
    prob_threshold, nms_threshold : float
        Of `decode`.
    refine_at : tuple of float
        Fractions of a ray at which it is measured again (`refine`); none leaves it.

    Raises
    ------
    ValueError
        The network sees further than a tile can show, see `context_px`.
    """

    def __init__(
        self,
        engine: DenseNet,
        *,
        mpp: float,
        working_mpp: float,
        prob_threshold: float,
        nms_threshold: float,
        refine_at: tuple[float, ...] = (),
    ):
        self.engine, self.config, self.refine_at = engine, engine.config, refine_at
        self.context_px = context_px(self.config)
        if engine.in_bytes:
            self.context_px = min(self.context_px, BYTES_CONTEXT_PX)
        self.scale = working_mpp / mpp
        self.prob_threshold, self.nms_threshold = prob_threshold, nms_threshold

    @property
    def net(self) -> Any:
        """The network in torch, where the engine has one."""
        return self.engine.net

    @property
    def align_px(self) -> int:
        """Stride of the network's coarsest level, px of the tile."""
        return int(self.config.stride)

    @property
    def halo_px(self) -> int:
        """`context_px` in tile pixels, a multiple of `align_px`."""
        return int(-(-self.context_px / self.scale // self.align_px)) * self.align_px

    def infer(self, tile: NDArray[np.uint8]) -> TilePrediction:
        """See `Detector.infer`."""
        scale = (1.0, 1.0)
        if abs(self.scale - 1) > 1e-3:
            height, width = tile.shape[:2]
            tile = resized(tile, *(max(1, round(s * self.scale)) for s in (width, height)))
            # Whole pixels: not quite the scale that was wanted.
            scale = tile.shape[1] / width, tile.shape[0] / height
        return TilePrediction(self.engine.predict(tile[None])[0], scale)

    def polygons(self, dense: DensePrediction) -> StarPolygons:
        """Nuclei of a dense prediction, px of the network's input."""
        dense.wait()
        grid = self.config.grid
        found = decode(
            dense.prob,
            dense.dist,
            grid=grid,
            prob_threshold=self.prob_threshold,
            nms_threshold=self.nms_threshold,
            step=dense.dist_step,
        )
        return refine(found, dense.dist, grid=grid, fractions=self.refine_at, step=dense.dist_step)

    def decode(self, dense: TilePrediction) -> Detection:
        """See `Detector.decode`."""
        found = self.polygons(dense.dense)
        logits = dense.dense.marker_logit
        # The network's pixel centres are whole numbers; a tile's outer corner is its origin.
        scale: NDArray[np.float32] = np.array(dense.scale, np.float32)
        polygons = (found.vertices() + np.float32(0.5)) / scale
        return Detection(
            polygons=polygons,
            probability=found.prob,
            marker_logits=None
            if logits is None
            else pool_over_rays(logits, found, self.config.grid),
        )

    def describe(self, dense: TilePrediction, nuclei: Stars) -> Detection:
        """Nuclei that are there already, with what the marker head says of them.

        Parameters
        ----------
        dense : TilePrediction
        nuclei : Stars
            In tile px.

        Returns
        -------
        Detection
            In their order, without a probability.
        """
        logits = dense.dense.marker_logit
        scale: NDArray[np.float32] = np.array(dense.scale, np.float32)
        edges = (nuclei.outlines - nuclei.origins[:, None]) * scale
        points = (nuclei.origins * scale - 0.5).astype(np.float32)
        pooled = None
        if logits is not None:
            unsure = np.full(len(nuclei), np.nan, np.float32)
            found = StarPolygons(points, np.linalg.norm(edges, axis=2).astype(np.float32), unsure)
            pooled = pool_over_rays(logits, found, self.config.grid)
        return described(nuclei, pooled)


def resized(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) at another size, (height, width, 3), by a triangle where smaller."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def pool_over_rays(
    values: NDArray[np.float32], polygons: StarPolygons, grid: int
) -> NDArray[np.float32]:
    """Mean of dense maps over each nucleus, by points along its rays.

    Points at 1/6, 1/2 and 5/6 of every ray, weighted 1 : 3 : 5, sample a star-convex polygon evenly
    in area (rings of a disc between thirds of its radius).

    Parameters
    ----------
    values : ndarray of float32, (C, h, w)
        Maps on the output grid.
    polygons : StarPolygons
        Nuclei, px of the network's input.
    grid : int
        Input pixels per output pixel.

    Returns
    -------
    ndarray of float32, (N, C)
    """
    if not len(polygons):
        return np.empty((0, len(values)), np.float32)
    edge = polygons.vertices() - polygons.points[:, None]
    total = np.zeros((len(polygons), len(values)), np.float64)
    for fraction, weight in ((1 / 6, 1), (1 / 2, 3), (5 / 6, 5)):
        where = (polygons.points[:, None] + np.float32(fraction) * edge) / grid
        column = np.clip(np.rint(where[..., 0]).astype(int), 0, values.shape[2] - 1)
        row = np.clip(np.rint(where[..., 1]).astype(int), 0, values.shape[1] - 1)
        total += weight * values[:, row, column].mean(axis=2).T
    return (total / 9).astype(np.float32)
