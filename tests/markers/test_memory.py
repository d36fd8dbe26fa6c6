"""Smaller pieces where a device's memory runs out, with made devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lymphinfer.errors import LymphinferError
from lymphinfer.markers.far_scale import FarConfig, FarNet, TorchFar
from lymphinfer.markers.memory import CarefulDevice, split_tile
from lymphinfer.markers.two_scale import FarScale
from lymphinfer.nuclei.detector import Detection
from lymphinfer.slides import TileGrid


class Small:
    """Detector and marker model of a device that holds so many pixels and nuclei."""

    align_px = 16

    def __init__(self, side: int = 1 << 30, nuclei: int = 1 << 30):
        self.side, self.nuclei = side, nuclei
        self.sizes: list[int] = []

    def infer(self, pixels):
        self.sizes.append(pixels.shape[0])
        if max(pixels.shape[:2]) > self.side:
            raise torch.OutOfMemoryError("CUDA out of memory (made)")
        return pixels.copy()

    def logits(self, patches, detection, far=None):
        self.sizes.append(len(detection))
        if len(detection) > self.nuclei:
            raise RuntimeError("MPS backend out of memory (made)")
        return detection.probability[:, None]


def tile_of(side: int, halo: int = 32):
    grid = TileGrid((3 * side, 3 * side), 0.5, 0.5, tile_px=side, halo_px=halo)
    return grid.tile((side, side, 2 * side, 2 * side))


def test_quarters_partition_the_core_and_keep_the_margin():
    tile = tile_of(200)
    parts = split_tile(tile, 16)
    covered = np.zeros((200, 200), int)
    for part in parts:
        x0, y0, x1, y1 = (v - 200 for v in part.core)
        covered[y0:y1, x0:x1] += 1
        assert np.subtract(part.core, part.halo).tolist() == [32, 32, -32, -32]
        assert x0 % 16 == y0 % 16 == 0
    assert len(parts) == 4 and (covered == 1).all()


def test_a_tile_that_does_not_fit_is_quartered_and_later_ones_at_once():
    device = Small(side=200)
    careful = CarefulDevice(device, device)
    pixels = np.arange(320 * 320 * 3, dtype=np.uint8).reshape(320, 320, 3)
    tile = tile_of(256)
    for sizes in ([320, 192, 192, 192, 192], [192] * 4):
        device.sizes.clear()
        pieces = list(careful.infer(tile, pixels))
        assert device.sizes == sizes
        for piece, window, dense in pieces:
            x0, y0, x1, y1 = np.subtract(piece.halo, [*tile.halo[:2], *tile.halo[:2]])
            np.testing.assert_array_equal(window, pixels[y0:y1, x0:x1])
            np.testing.assert_array_equal(dense, window)


def test_a_device_that_holds_nothing_says_so():
    device = Small(side=10, nuclei=0)
    careful = CarefulDevice(device, device)
    with pytest.raises(LymphinferError, match="memory is full"):
        list(careful.infer(tile_of(256), np.zeros((320, 320, 3), np.uint8)))
    with pytest.raises(LymphinferError, match="--device cpu"):
        careful.logits(None, Detection(np.zeros((5, 8, 2), np.float32), np.ones(5, np.float32)))


@pytest.mark.parametrize("count", [0, 1, 100])
def test_batches_are_halved_until_they_fit_with_the_same_logits(count):
    device = Small(nuclei=12)
    detection = Detection(np.zeros((count, 8, 2), np.float32), np.arange(count, dtype=np.float32))
    logits = CarefulDevice(device, device).logits(None, detection)
    np.testing.assert_array_equal(logits[:, 0], np.arange(count))
    assert count < 100 or device.sizes[:4] == [100, 32, 16, 8]


def test_other_errors_pass_through():
    class Broken(Small):
        def infer(self, pixels):
            raise RuntimeError("shape mismatch")

    careful = CarefulDevice(Broken(), Broken())
    with pytest.raises(RuntimeError, match="shape"):
        list(careful.infer(tile_of(256), np.zeros((320, 320, 3), np.uint8)))


class SmallFar(FarScale):
    """A far scale that holds so many pixels."""

    def __init__(self, net: FarNet, most_px: int):
        super().__init__(TorchFar(net))
        self.most_px = most_px

    def infer(self, pixels, origin_px):
        if pixels.shape[0] * pixels.shape[1] > self.most_px:
            raise torch.OutOfMemoryError("CUDA out of memory (made)")
        return super().infer(pixels, origin_px)


@pytest.mark.parametrize("size", [(500, 900), (900, 500)])
def test_a_neighbourhood_that_does_not_fit_is_seen_in_pieces(size):
    torch.manual_seed(0)
    net = FarNet(FarConfig(widths=(4, 6), blocks=(1, 1), features=5, outputs=("a",))).eval()
    whole = FarScale(TorchFar(net))
    height, width = size
    box = whole.box(0, 0, width, height)
    shape = box[3] - box[1], box[2] - box[0], 3
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    nuclei = np.random.default_rng(1).uniform(0, (width, height), (200, 2))
    expected = whole.infer(pixels, box[:2]).at(nuclei)
    careful = CarefulDevice(Small(), Small())
    found = careful.look_far(SmallFar(net, 450_000), pixels, box[:2]).at(nuclei)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(LymphinferError, match="memory is full"):
        careful.look_far(SmallFar(net, 1000), pixels, box[:2])
