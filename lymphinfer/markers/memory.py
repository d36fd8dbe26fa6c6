"""Going on in smaller pieces where the device's memory runs out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import LymphinferError
from lymphinfer.markers.describing import Describer
from lymphinfer.markers.model import MarkerModel
from lymphinfer.markers.two_scale import FarMap, FarScale
from lymphinfer.nuclei.detector import Detection, Detector
from lymphinfer.slides import Tile

log = logging.getLogger(__name__)

MIN_CORE_PX = 64


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory is full, on CUDA or Apple's GPU."""
    # torch's own kind is a RuntimeError that says so.
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def split_tile(tile: Tile, align_px: int) -> list[Tile]:
    """Quarter a tile: the cores partition its core, the halos keep its margin.

    Parameters
    ----------
    tile : Tile
    align_px : int
        Inner borders lie on multiples of it, as the detector wants them.

    Returns
    -------
    list of Tile
        Row-major; fewer than four where a side cannot be cut.
    """
    x0, y0, x1, y1 = tile.core
    margin = x0 - tile.halo[0]
    xs, ys = _halves(x0, x1, align_px), _halves(y0, y1, align_px)
    return [
        Tile(
            (left, top, right, bottom),
            (left - margin, top - margin, right + margin, bottom + margin),
            tile.last_row and bottom == y1,
            tile.last_col and right == x1,
        )
        for top, bottom in ys
        for left, right in xs
    ]


def _halves(start: int, end: int, align: int) -> list[tuple[int, int]]:
    middle = start + (end - start) // 2 // align * align
    return [(start, end)] if middle == start else [(start, middle), (middle, end)]


class CarefulDevice:
    """Runs a bundle's networks and halves its pieces each time the device's memory runs out.

    Pieces stay small for the rest of the slide. By the rule of the seams a tile's quarters own the
    same nuclei as the tile.

    Parameters
    ----------
    detector : Detector or Describer
    markers : MarkerModel
    """

    def __init__(self, detector: Detector | Describer, markers: MarkerModel):
        self.detector, self.markers = detector, markers
        self.max_core_px: int | None = None
        self.max_nuclei: int | None = None

    def infer(
        self, tile: Tile, pixels: NDArray[np.uint8]
    ) -> Iterator[tuple[Tile, NDArray[np.uint8], Any]]:
        """Detect in a tile, or in its quarters.

        Parameters
        ----------
        tile : Tile
        pixels : ndarray of uint8, (H, W, 3)
            Of its halo.

        Yields
        ------
        tuple of Tile, ndarray of uint8, and dense prediction
            Piece, its pixels, and what the detector says.

        Raises
        ------
        LymphinferError
            Not even the smallest piece fits.
        """
        core_px = max(tile.core[2] - tile.core[0], tile.core[3] - tile.core[1])
        if self.max_core_px is None or core_px <= self.max_core_px:
            try:
                dense = self.detector.infer(pixels)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.max_core_px = core_px // 2
                if self.max_core_px < MIN_CORE_PX:
                    raise _no_memory() from error
                log.warning("device memory is full: tiles of %d px from here", self.max_core_px)
                _free()
            else:
                yield tile, pixels, dense
                return
        pieces = split_tile(tile, self.detector.align_px)
        if len(pieces) == 1:
            raise _no_memory()
        for piece in pieces:
            x0, y0, x1, y1 = piece.halo
            left, top = x0 - tile.halo[0], y0 - tile.halo[1]
            window = pixels[top : top + y1 - y0, left : left + x1 - x0]
            yield from self.infer(piece, window)

    def logits(
        self,
        patches: NDArray[np.uint8] | None,
        detection: Detection,
        far: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Marker logits of nuclei, see `MarkerModel.logits`.

        Raises
        ------
        LymphinferError
            Not even one nucleus fits.
        """
        while True:
            size = self.max_nuclei or max(len(detection), 1)
            try:
                if self.max_nuclei is None:
                    return self.markers.logits(patches, detection, far)
                return np.concatenate(
                    [
                        self.markers.logits(
                            None if patches is None else patches[start : start + size],
                            detection.take(np.arange(start, min(start + size, len(detection)))),
                            None if far is None else far[start : start + size],
                        )
                        for start in range(0, max(len(detection), 1), size)
                    ]
                )
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise _no_memory() from error
                # The classifier's own batch is 64: what is larger has not been in memory at once.
                self.max_nuclei = min(size, 64) // 2 or 1
                log.warning("device memory is full: batches of %d from here", self.max_nuclei)
            _free()

    def look_far(
        self, far: FarScale, pixels: NDArray[np.uint8], origin_px: tuple[int, int]
    ) -> FarMap:
        """Far features of a rectangle, in pieces that fit.

        Parameters
        ----------
        far : FarScale
        pixels : ndarray of uint8, (H, W, 3)
            Of a rectangle that `FarScale.box` has given.
        origin_px : tuple of int
            Its corner.

        Raises
        ------
        LymphinferError
            Not even the smallest piece fits.
        """
        try:
            return far.infer(pixels, origin_px)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            height, width = pixels.shape[:2]
            halo, stride = far.config.halo_px, far.config.stride
            if max(height, width) < 2 * halo + 4 * stride:
                raise _no_memory() from error
        _free()
        across = 1 if width >= height else 0
        middle = pixels.shape[across] // 2 // stride * stride
        upright = np.swapaxes(pixels, 0, across)
        halves = (upright[: middle + halo], upright[middle - halo :])
        maps = []
        for piece, start in zip(halves, (0, middle - halo), strict=True):
            corner = (origin_px[0] + start * across, origin_px[1] + start * (1 - across))
            maps.append(self.look_far(far, np.swapaxes(piece, 0, across), corner))
        return maps[0].with_next(maps[1], 1 + across, middle, halo)


def _free() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _no_memory() -> LymphinferError:
    return LymphinferError(
        "the device's memory is full even for the smallest piece: end what else uses it "
        "(nvidia-smi shows it), choose another --device, or --device cpu"
    )
